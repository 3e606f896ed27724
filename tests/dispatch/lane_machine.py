"""A lane next to a plain model of its promises, in any history of events, answers, records, changes and clocks.

The order, the single probe, the rate limit and the number in flight are kept, nothing is sent that must wait, and
nothing is lost.
"""

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.dispatch.lane_model import ROUNDING, InFlight, Model, paced
from webhookd.base.models import (
    Credentials,
    DeliveryError,
    Endpoint,
    Ordering,
    Outcome,
    Policy,
    PolicyOverrides,
    RetryOverrides,
)
from webhookd.base.secret import Secret
from webhookd.config import DeliveryConfig
from webhookd.delivery.policy.forgiveness import forgive
from webhookd.delivery.policy.resolve import resolve
from webhookd.delivery.request import Receiver
from webhookd.dispatch.lane import Expire, Landing, Lane, Send, Step, Wait, Why
from webhookd.journal import Window

CREDENTIALS = Credentials(
    secret=Secret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"),
    previous_secret=None,
    previous_expires_at=None,
    ed25519_secret=None,
    headers=(),
)
OUTCOMES = {
    "good": Outcome(duration_seconds=0.1, status=200),
    "fault": Outcome(duration_seconds=0.1, status=500),
    "refusal": Outcome(duration_seconds=0.1, status=422),
    "throttled": Outcome(duration_seconds=0.1, status=429, headers=(("retry-after", "20"),)),
    "gone": Outcome(duration_seconds=0.1, status=410),
    "abort": Outcome(duration_seconds=0.1, status=500, headers=(("webhook-delivery", "abort"),)),
    "interrupted": Outcome(duration_seconds=0.1, error=DeliveryError.INTERRUPTED),
}
LIMITS = {"none": None, "slow": paced(0.5, 1), "bursts": paced(2.0, 3)}
MOST_STEPS = 3000  # of a queue that is worked off: some dozen deliveries of a few attempts and reads each
READS_NO_PACE = {Why.READING, Why.HELD, Why.RATE}


def policy(ordering: Ordering, concurrency: int, limit: str) -> Policy:
    overrides = PolicyOverrides(
        ordering=ordering,
        concurrency=concurrency,
        rate_limit=LIMITS[limit],
        breaker_threshold=2,
        retry=RetryOverrides(delays=(2.0, 10.0), max_age_seconds=300.0, park_after=2, max_refusals=3),
    )
    return resolve(overrides, DeliveryConfig())


policies = st.builds(policy, st.sampled_from(Ordering), st.integers(1, 4), st.sampled_from(sorted(LIMITS)))
keys = st.sampled_from([None, "a", "b"])


class LaneMachine(RuleBasedStateMachine):
    """One lane, driven by all that can happen to it; `kind` is the lane's class."""

    kind: type[Lane] = Lane

    @initialize(policy=policies, window_rows=st.sampled_from([1, 2, 50]))
    def begin(self, policy: Policy, window_rows: int) -> None:
        self.model = Model(policy, window_rows)
        self.lane = self.kind(self.model.endpoint, policy, self.model.now)
        self.answer: Window | None = None
        self.is_ahead = True
        self.receiver: Receiver
        self._begin_again()

    # What comes in.

    @rule(queued=st.lists(keys, min_size=1, max_size=3))
    def events_come_in(self, queued: list[str | None]) -> None:
        for key in queued:
            self.lane.offer(self.model.queue(key))

    @rule(key=keys, is_told=st.booleans())
    def delivery_is_queued_in_another_way(self, key: str | None, *, is_told: bool) -> None:
        """As by a replay, which queues many and has the queue read then, or before an offer that is out of turn."""
        self.model.queue(key)
        if is_told:
            self.lane.reload()
        else:
            self.lane.offer(self.model.queue(key))

    @rule(seconds=st.sampled_from([0.5, 2.0, 2.0, 5.0, 5.0, 25.0, 25.0, 301.0]), is_set=st.booleans())
    def time_passes(self, seconds: float, *, is_set: bool) -> None:
        self.model.pass_time(seconds)
        if is_set:
            self.model.set_clock(86_400.0)
            self.lane.shift(86_400.0)

    # What the actor does.

    @rule(moves=st.integers(1, 9), reads=st.booleans())
    def actor_moves(self, moves: int, *, reads: bool) -> None:
        """Make so many moves, unless there is nothing to do before, or the queue has to be read first."""
        for _ in range(moves):
            if self.answer is not None and reads:
                self._read(is_late=True)
            if self.is_ahead:
                self._begin_again()
            if isinstance(self._move(), Wait):
                return

    @precondition(lambda self: self.answer is not None)
    @rule(is_late=st.booleans(), meanwhile=st.lists(keys, max_size=2))
    def queue_is_read(self, meanwhile: list[str | None], *, is_late: bool) -> None:
        """The answer is of the moment of the question, or of a later one."""
        for key in meanwhile:
            self.lane.offer(self.model.queue(key))
        self._read(is_late=is_late)

    @precondition(lambda self: self._unsettled())
    @rule(data=st.data(), outcome=st.sampled_from(sorted(OUTCOMES)), sample=st.sampled_from([0.0, 0.5, 0.99]))
    def answer_comes(self, data: st.DataObject, outcome: str, sample: float) -> None:
        flight = data.draw(st.sampled_from(self._unsettled()))
        self._settle(flight, OUTCOMES[outcome], sample)

    @precondition(lambda self: self._unsettled())
    @rule(data=st.data(), outcome=st.sampled_from(["good", "good", "fault", "throttled"]))
    def answer_comes_and_is_recorded(self, data: st.DataObject, outcome: str) -> None:
        flight = data.draw(st.sampled_from(self._unsettled()))
        self._settle(flight, OUTCOMES[outcome], 0.5)
        for settled in self._settled():
            self._land(settled)

    @precondition(lambda self: self._unsettled())
    @rule(data=st.data())
    def delivery_is_put_back(self, data: st.DataObject) -> None:
        """Its request can't begin, because the webhook was changed while its body was read."""
        flight = data.draw(st.sampled_from(self._unsettled()))
        del self.model.flights[flight.delivery.pk]
        self.lane.put_back(flight.delivery)

    @precondition(lambda self: self._settled())
    @rule()
    def record_is_written(self) -> None:
        self._land(self._settled()[0])

    @rule(lost=st.sampled_from([None, None, "failed", "refused"]))
    def actor_crashes(self, lost: str | None) -> None:
        """What was submitted is written, what was not, nobody knows of; or a record comes back that isn't written.

        A failed one may be on disk; a refused one isn't, and its lane sends nothing more.
        """
        if lost is None or not self._settled():
            self._begin_again()
            return
        flight = self._settled()[0]
        if lost == "failed":
            self.model.write(flight)
        self._land(flight, Landing(lost))

    @rule()
    def expired_deliveries_are_swept(self) -> None:
        self.model.sweep()
        self.lane.reload()

    # What is done by hand.

    @rule(url=st.sampled_from(["a", "b"]), is_active=st.sampled_from([True, True, False]), policy=st.none() | policies)
    def webhook_is_changed(self, url: str, policy: Policy | None, *, is_active: bool) -> None:
        changed = msgspec.structs.replace(self.model.endpoint, url=f"https://{url}.example/", is_active=is_active)
        self._change(changed, policy or self.model.policy)

    @precondition(lambda self: self.model.rows and not self.model.held)
    @rule(data=st.data())
    def delivery_is_held(self, data: st.DataObject) -> None:
        free = [pk for pk in self.model.rows if pk not in self.model.flights]
        if free:
            pk = data.draw(st.sampled_from(free))
            self.model.held.append(pk)
            self.lane.hold(pk)

    @precondition(lambda self: self.model.held)
    @rule(is_retried=st.booleans())
    def delivery_is_released(self, *, is_retried: bool) -> None:
        pk = self.model.held.pop()
        if is_retried:
            self.model.retry(pk)
        self.lane.release(pk)

    @precondition(lambda self: self.model.rows)
    @rule(data=st.data())
    def delivery_is_retried_elsewhere(self, data: st.DataObject) -> None:
        """At another node, which can't hold it here and only says afterwards that the queue was changed."""
        free = [pk for pk in self.model.rows if pk not in self.model.flights and pk not in self.model.held]
        if free:
            self.model.retry(data.draw(st.sampled_from(free)))
            self.lane.reload()

    # What must hold.

    @invariant()
    def waits_no_longer_than_it_must(self) -> None:
        """Nothing may be sent while it waits, nor before the wait ends; a lane that leaves has nothing queued."""
        lane, model = self.lane, self.model
        move = lane.next(model.now)
        if self.is_ahead:
            assert move is Step.LEAVE
            assert lane.take(model.now) is Step.LEAVE
        elif move is Step.LEAVE:
            assert not model.unended
        elif isinstance(move, Wait) and move.why not in READS_NO_PACE:
            times = [row.delivery.next_attempt_at for row in model.unended]
            times += [at for at in (model.now, model.state.paused_until, model.state.retry_at) if at is not None]
            until = float("inf") if move.until is None else move.until
            for at in times:
                may_be_sent = model.sendable(at) if model.now <= at < until else []
                if move.why is Why.OPEN and model.window_rows < len(model.rows):
                    # A retry by hand whose key holds it back may be behind a full window, and isn't known then.
                    may_be_sent = [row for row in may_be_sent if not model.is_retry_with_key(row.delivery)]
                assert not may_be_sent, move
        elif isinstance(move, Wait) and move.why is Why.RATE:
            limit = model.policy.rate_limit
            assert limit is not None
            assert move.until is not None
            assert move.until - model.now <= 1 / limit.per_second + ROUNDING

    @invariant()
    def knows_the_state_and_what_is_in_flight(self) -> None:
        assert self.is_ahead or self.lane.state == self.model.state
        assert self.lane.in_flight.keys() == self.model.flights.keys()

    def teardown(self) -> None:
        """Whatever has happened: once receiver and journal are well, each delivery is sent, or has ended."""
        if not hasattr(self, "model"):
            return
        if self.is_ahead:
            self._begin_again()
        for pk in self.model.held:
            self.lane.release(pk)
        self.model.held.clear()
        self._change(msgspec.structs.replace(self.model.endpoint, is_active=True), self.model.policy)
        for _ in range(MOST_STEPS):
            if not self.model.unended:
                return
            if self.answer is not None:
                self._read(is_late=True)
            for flight in self._unsettled():
                self._settle(flight, OUTCOMES["good"], 0.5)
            for flight in self._settled():
                self._land(flight)
            move = self._move()
            if isinstance(move, Wait):
                assert move.until is not None, move
                self.model.pass_time(max(move.until - self.model.now, 0.001))
        raise AssertionError(f"never sent: {self.model.unended}")

    # Steps.

    def _unsettled(self) -> list[InFlight]:
        return [flight for flight in self.model.flights.values() if flight.verdict is None]

    def _settled(self) -> list[InFlight]:
        return [flight for flight in self.model.flights.values() if flight.verdict is not None]

    def _move(self) -> object:
        lane, model = self.lane, self.model
        if lane.needs_load:
            self._load()
        move = lane.next(model.now)
        may_be_sent = model.sendable(model.now) if model.has_token else []
        taken = lane.take(model.now)
        assert taken == move
        if isinstance(taken, Send):
            assert taken.delivery in [row.delivery for row in may_be_sent], "it may not be sent now"
            model.take(taken.delivery, self.receiver)
        elif move is Step.REFILL:
            self.request = lane.begin_refill(model.now)
            self.answer = model.read(self.request)
        elif isinstance(move, Expire):
            for delivery in move.deliveries:
                assert delivery.pk not in {*model.held, *model.flights}
                model.rows[delivery.pk].end = "expired"
            lane.reload()
        elif isinstance(move, Wait) and move.why is Why.IDLE:
            lane.drained(model.now)
            model.is_draining = False
        return move

    def _read(self, *, is_late: bool) -> None:
        assert self.answer is not None
        self.lane.load(self.model.read(self.request) if is_late else self.answer)
        self.answer = None

    def _settle(self, flight: InFlight, outcome: Outcome, sample: float) -> None:
        model, before = self.model, self.model.state
        flight.verdict = self.lane.settle(flight.delivery, outcome, flight.receiver, now=model.now, sample=sample)
        model.state = flight.verdict.endpoint
        if before.is_unhealthy and not model.state.is_unhealthy:
            model.tokens, model.is_draining = 0.0, True
        if flight.receiver.url != model.endpoint.url:
            assert model.state == before, "another receiver has nothing to say"
        if flight.verdict.disable is not None:
            assert model.endpoint.is_active
            model.endpoint = self.lane.endpoint

    def _land(self, flight: InFlight, landing: Landing = Landing.WRITTEN) -> None:
        if landing is Landing.WRITTEN:
            self.model.write(flight)
        else:
            self.is_ahead = True
        del self.model.flights[flight.delivery.pk]
        self.lane.landed(flight.delivery, landing)
        assert self.lane.is_stopped or landing is not Landing.REFUSED

    def _change(self, changed: Endpoint, policy: Policy) -> None:
        """Change the endpoint: what was submitted before is on disk before it, whatever the actor knows."""
        model = self.model
        for flight in self._settled():
            model.write(flight)
        forgiveness = forgive(model.endpoint, changed, model.stored, model.now, has_new_secrets=False)
        self.lane.change(changed, policy, forgiveness)
        self.lane.resize(model.now)
        model.change(changed, policy, forgiveness)

    def _load(self) -> None:
        revision = self.lane.begin_load()
        assert not isinstance(self.lane.take(self.model.now), Send), "nothing is sent with old settings and secrets"
        self.receiver = Receiver(self.model.endpoint, CREDENTIALS, revision)
        self.lane.loaded()

    def _replace_lane(self) -> None:
        """Go on with another lane, as after a restart."""
        self.lane = self.kind(self.model.endpoint, self.model.policy, self.model.now)
        self.model.tokens, self.model.is_draining = 1.0, True
        for pk in self.model.held:
            self.lane.hold(pk)

    def _begin_again(self) -> None:
        for flight in list(self.model.flights.values()):
            self.model.write(flight)
            self._land(flight, Landing.FAILED)
        if self.lane.is_stopped:
            self._replace_lane()
        self.lane.begin(self.model.now)
        self._load()
        self.lane.state = self.model.state = self.model.stored
        self.answer = None
        self.is_ahead = False
