"""The breaker as a state machine, and the token bucket: rules that hold after any history."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.samples import AT
from webhookd.base.models import BreakerState, DeliveryError, EndpointState, Ordering, PolicyOverrides, RateLimit
from webhookd.config import DeliveryConfig
from webhookd.delivery.policy import breaker
from webhookd.delivery.policy.breaker import AnswerKind, Hold
from webhookd.delivery.policy.rate_limit import TokenBucket, allowed_in_flight, new_bucket
from webhookd.delivery.policy.resolve import resolve

THRESHOLD = 3
DELAY = 30.0


def answer(state: EndpointState, kind: AnswerKind, now: float) -> EndpointState:
    error = None if kind is AnswerKind.SUCCESS else DeliveryError.CONNECT
    return breaker.after(
        state, kind, now=now, threshold=THRESHOLD, resume_at=now + DELAY, error=error, detail="connect refused"
    )


class BreakerMachine(RuleBasedStateMachine):
    """One request at a time to an endpoint with random answers."""

    def __init__(self) -> None:
        super().__init__()
        self.state = EndpointState()
        self.now = AT
        self.faults_in_a_row = 0
        self.sent_while_held = False

    @rule(seconds=st.floats(0.001, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: breaker.admit(self.state, self.now, probing=False) is None)
    @rule(kind=st.sampled_from(list(AnswerKind)))
    def request_is_answered(self, kind: AnswerKind) -> None:
        was_open = self.state.breaker is not BreakerState.CLOSED
        self.state = breaker.probe(self.state)
        if was_open:
            assert self.state.breaker is BreakerState.HALF_OPEN
            held = breaker.admit(self.state, self.now, probing=True)
            assert held is not None
            assert held[0] is Hold.PROBING, "one probe at a time"
        self.state = answer(self.state, kind, self.now)
        self.faults_in_a_row = self.faults_in_a_row + 1 if kind is AnswerKind.FAULT else 0
        if kind in {AnswerKind.SUCCESS, AnswerKind.REFUSAL}:
            assert self.state.breaker is BreakerState.CLOSED
        if kind is AnswerKind.FAULT and was_open:
            assert self.state.breaker is BreakerState.OPEN
        if kind is AnswerKind.THROTTLED:
            assert self.state.breaker is (BreakerState.HALF_OPEN if was_open else BreakerState.CLOSED)
            held = breaker.admit(self.state, self.now, probing=False)
            assert held == (Hold.PAUSED, self.now + DELAY)

    @rule()
    def is_enabled_again(self) -> None:
        self.state = breaker.forgiven(self.state)
        self.faults_in_a_row = 0
        assert breaker.admit(self.state, self.now, probing=False) is None

    @invariant()
    def counts_faults_in_a_row(self) -> None:
        assert self.state.consecutive_faults == self.faults_in_a_row

    @invariant()
    def is_open_only_after_enough_faults_and_then_says_until_when(self) -> None:
        if self.state.breaker is BreakerState.OPEN:
            assert self.state.retry_at is not None
            held = breaker.admit(self.state, min(self.now, self.state.retry_at - 0.001), probing=False)
            assert held is not None
            assert breaker.admit(self.state, self.state.retry_at, probing=False) is None

    @invariant()
    def is_failing_since_the_first_failure_after_the_last_success(self) -> None:
        assert (self.state.failing_since is None) == (self.state.failures_since_success == 0)


TestBreaker = BreakerMachine.TestCase


def test_a_retry_by_hand_is_the_probe_of_an_open_breaker() -> None:
    """An open breaker admits a retry by hand at once; a pause doesn't."""
    state = EndpointState(breaker=BreakerState.OPEN, retry_at=AT + 99)
    assert breaker.admit(state, AT, probing=False) == (Hold.OPEN, AT + 99)
    assert breaker.admit(state, AT, probing=False, by_hand=True) is None
    assert breaker.admit(state, AT, probing=True, by_hand=True) == (Hold.PROBING, None)
    paused = msgspec.structs.replace(state, paused_until=AT + 5)
    assert breaker.admit(paused, AT, probing=False, by_hand=True) == (Hold.PAUSED, AT + 5)


def test_a_straggler_neither_reopens_nor_delays_the_probe() -> None:
    """A fault of a request that was sent before the breaker opened is counted, and changes nothing else."""
    state = EndpointState(breaker=BreakerState.OPEN, retry_at=AT + 9, consecutive_faults=3)
    later = answer(state, AnswerKind.FAULT, AT + 5)
    assert (later.retry_at, later.reopenings, later.consecutive_faults) == (AT + 9, 0, 4)
    probing = breaker.probe(later)
    still = breaker.after(
        probing,
        AnswerKind.FAULT,
        now=AT + 10,
        threshold=THRESHOLD,
        resume_at=AT + 10 + DELAY,
        error=DeliveryError.TIMEOUT,
        detail="",
        is_probe=False,
    )
    assert still.breaker is BreakerState.HALF_OPEN  # the probe is still to be answered
    assert (still.retry_at, still.reopenings, still.consecutive_faults) == (AT + 9, 0, 5)


@given(
    per_second=st.floats(0.05, 500),
    burst=st.integers(1, 100),
    gaps=st.lists(st.floats(0, 3), min_size=1, max_size=300),
)
def test_a_draining_bucket_never_lets_more_than_its_rate_and_one_through(
    per_second: float, burst: int, gaps: list[float]
) -> None:
    """However late wake-ups are, any second has at most the rate and one request while a backlog drains."""
    bucket = new_bucket(RateLimit(per_second=per_second, burst=burst), AT).emptied(AT)
    now, taken = AT, []
    for gap in gaps:
        now = max(now, bucket.ready_at(now)) + gap
        while bucket.ready_at(now) <= now:
            bucket = bucket.take(now)
            taken.append(now)
    for start in taken:
        assert sum(start <= at < start + 1 for at in taken) <= per_second + 1 + 1e-6


@given(per_second=st.floats(0.05, 500), burst=st.integers(1, 100), idle=st.floats(0, 10_000))
def test_a_rested_bucket_gives_its_burst_and_no_more(per_second: float, burst: int, idle: float) -> None:
    """After a time without requests the bucket holds what it gained, at most its burst."""
    bucket = TokenBucket(RateLimit(per_second=per_second, burst=burst), tokens=0.0, at=AT)
    now, taken = AT + idle, 0
    while bucket.ready_at(now) <= now:
        bucket = bucket.take(now)
        taken += 1
    assert taken == int(min(idle * per_second + 1e-6, burst))


def test_a_clock_set_back_takes_no_token_away() -> None:
    """At an earlier time a bucket holds what it had."""
    bucket = TokenBucket(RateLimit(per_second=1, burst=5), tokens=3.0, at=AT)
    assert bucket.ready_at(AT - 3600) == AT - 3600


def test_concurrency_ramps_up_after_an_outage() -> None:
    """From one request right after an outage to `concurrency` ten seconds later; without an outage at once."""
    policy = resolve(PolicyOverrides(ordering=Ordering.NONE, concurrency=11), DeliveryConfig())
    assert allowed_in_flight(policy, None, AT) == (11, None)
    grown = [allowed_in_flight(policy, AT, AT + seconds)[0] for seconds in (0, 0.99, 1, 5, 9.99, 10, 1000)]
    assert grown == [1, 1, 2, 6, 10, 11, 11]
    assert allowed_in_flight(policy, AT, AT)[1] == AT + 1
    paced = msgspec.structs.replace(policy, rate_limit=RateLimit(per_second=5))
    assert allowed_in_flight(paced, AT, AT) == (11, None)
    assert allowed_in_flight(msgspec.structs.replace(policy, ordering=Ordering.STRICT), None, AT) == (1, None)


def test_only_time_ends_a_pause() -> None:
    """The answer to a request from before a pause neither ends nor shortens it, and isn't counted as another pause."""
    paused = answer(EndpointState(), AnswerKind.THROTTLED, AT)
    assert (paused.paused_until, paused.pauses) == (AT + DELAY, 1)
    for kind in AnswerKind:
        later = answer(paused, kind, AT + 1)
        assert later.paused_until == AT + DELAY + (kind is AnswerKind.THROTTLED)
        assert (later.pauses, later.recovered_at) == (1, None)
        assert breaker.admit(later, AT + 1, probing=False) == (Hold.PAUSED, later.paused_until)


def test_after_a_pause_one_probe_at_a_time() -> None:
    """After a pause one request is sent; its good answer begins the ramp, that of an earlier request doesn't."""
    over = AT + DELAY
    paused = answer(EndpointState(), AnswerKind.THROTTLED, AT)
    assert breaker.admit(paused, over, probing=False) is None
    assert breaker.admit(paused, over, probing=True) == (Hold.PROBING, None)
    assert answer(paused, AnswerKind.SUCCESS, over) == EndpointState(
        last_success_at=over, last_failure_at=AT, last_error="connect refused", recovered_at=over
    )
    assert answer(paused, AnswerKind.REFUSAL, over).recovered_at == over
    assert breaker.succeeded(paused, over, is_probe=False).needs_probe
    assert answer(paused, AnswerKind.FAULT, over).needs_probe
    again = answer(paused, AnswerKind.THROTTLED, over)
    assert (again.pauses, again.paused_until) == (2, over + DELAY)


def test_no_answer_shortens_a_pause() -> None:
    """An answer that asks for less, or faults that open the breaker, don't change the end of the pause."""
    paused = msgspec.structs.replace(EndpointState(), paused_until=AT + 10 * DELAY)
    assert answer(paused, AnswerKind.THROTTLED, AT).paused_until == AT + 10 * DELAY
    for _ in range(THRESHOLD):
        paused = answer(paused, AnswerKind.FAULT, AT)
    assert (paused.breaker, paused.paused_until) == (BreakerState.OPEN, AT + 10 * DELAY)
    assert breaker.admit(paused, AT + 2 * DELAY, probing=False) == (Hold.PAUSED, AT + 10 * DELAY)
