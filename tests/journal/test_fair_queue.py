"""The writer's queue: fair turns of flows by cost, changes first, and nothing overtakes a barrier."""

from collections.abc import Hashable, Iterator
from itertools import count

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tests.samples import AT, attempt_record, queued_delivery
from webhookd.base.models import AcceptedEvent, DeliveryStatus, QueuedDelivery, Target
from webhookd.journal.fair_queue import MOST_FLOWS, FairQueue
from webhookd.journal.operations import DatabaseCall, Publish, Record, Submission, cost_of

COST, SIZE = 100, 1_000_000
TARGET = Target(endpoint_pk=1, status=DeliveryStatus.PENDING, max_age_seconds=60)
_numbers = count()


def event(flow: Hashable, deliveries: int = 0, *, size: int = 2, insists: bool = False) -> Publish:
    accepted = AcceptedEvent(
        id=f"e{next(_numbers)}",
        type="user.created",
        organization_id=None,
        ordering_key=None,
        traceparent=None,
        timestamp=AT,
        accepted_at=AT,
        body=b" " * size,
    )
    return Publish(accepted, (TARGET,) * deliveries, lambda _: None, flow=flow, insists=insists, may_repeat=True)


def change(*, is_barrier: bool = False) -> DatabaseCall:
    return DatabaseCall(lambda _: None, None, insists=is_barrier, is_barrier=is_barrier)


def record(notices: int = 0) -> Record:
    """Return an attempt of one endpoint, with a number of events about it for five webhooks each."""
    return Record(attempt_record(), [event(None, 5, insists=True) for _ in range(notices)], lambda _: None)


def queue_of(*operations: Submission) -> FairQueue:
    queue = FairQueue()
    for operation in operations:
        queue.put(operation)
    return queue


def batches(queue: FairQueue) -> Iterator[list[Submission]]:
    while queue:
        yield queue.take(COST, SIZE)


def test_a_short_flow_is_served_at_once() -> None:
    """An event of an empty flow is in the next batch, however much waits in other flows."""
    queue = queue_of(*(event(flow, 20) for _ in range(50) for flow in ("a", "b", "c")))
    for _ in range(10):
        assert len(queue.take(COST, SIZE)) == 2
        late = event("late")
        queue.put(late)
        assert late in queue.take(COST, SIZE)


def test_flows_with_much_get_equal_shares() -> None:
    """Shares are by cost and not by number, so a flow of large events gets fewer turns."""
    queue = queue_of(*(event("large", 20) for _ in range(100)), *(event("small", 2) for _ in range(1000)))
    costs = {"large": 0, "small": 0}
    for _ in range(30):
        for operation in queue.take(COST, SIZE):
            assert isinstance(operation, Publish)
            costs[str(operation.flow)] += cost_of(operation)
    assert abs(costs["large"] - costs["small"]) <= COST


def test_a_large_group_goes_alone_and_is_not_put_off_for_ever() -> None:
    """A short operation doesn't wait for one that takes most of a batch, nor does that wait for all short ones."""
    queue = queue_of(event("large", 40), event("large", 40))
    large: list[int] = []
    short: list[int] = []
    for number in range(20):
        queue.put(event(f"short{number}"))
        batch = queue.take(COST, SIZE)
        costs = sorted(map(cost_of, batch))
        (large if costs[-1] > COST // 2 else short).append(number)
    assert large[0] <= 1
    assert len(large) == 2
    assert len(short) == 18
    alone = queue_of(event("huge", 1000), event("other"))
    assert len(alone.take(COST, SIZE)) == 1


def test_a_batch_is_bounded_by_cost_and_bytes() -> None:
    """A batch has what fits; a group that fits into no batch is one of its own."""
    for queue in (
        queue_of(*(event("a", 3) for _ in range(100))),
        queue_of(*(event(flow, 3) for flow in range(100))),
        queue_of(*(change() for _ in range(40)), *(event("a", 3) for _ in range(40))),
    ):
        for batch in batches(queue):
            assert sum(map(cost_of, batch)) <= COST * 3 // 2
    large = queue_of(*(event("a", size=SIZE // 2 + 1) for _ in range(3)), *(event(flow, 500) for flow in "bc"))
    assert [len(batch) for batch in batches(large)] == [1] * 5


def test_changes_go_first_and_leave_a_part_to_others() -> None:
    """Changes keep their order and don't wait for events; many of them delay events by no more than half."""
    events = [event("a") for _ in range(10)]
    changes = [change() for _ in range(20)]
    queue = queue_of(*events, *changes)
    assert queue.take(COST, SIZE) == [*events, *changes[:5]]
    assert [operation for batch in batches(queue) for operation in batch] == changes[5:]


def test_an_event_does_not_pass_an_earlier_change() -> None:
    """That a request has begun is on disk no later than what the request publishes."""
    changes = [change() for _ in range(20)]
    early, late = event("a"), event("b")
    taken = [*batches(queue_of(early, *changes, late))]
    assert early in taken[0]
    [[place]] = [[number for number, batch in enumerate(taken) if late in batch]]
    assert changes[-1] in taken[place]


def test_nothing_passes_what_divides() -> None:
    """What was submitted before a barrier is taken before it, and what was submitted later after it."""
    before: list[Submission] = [event("a", 40), change(), record(), event("b")]
    divide, again = change(is_barrier=True), change(is_barrier=True)
    after: list[Submission] = [event("b"), change(), record()]
    queue = queue_of(*before, divide, *after, again, event("c"))
    order = [operation for batch in batches(queue) for operation in batch]
    assert set(order[: len(before)]) == set(before)
    assert order[len(before)] is divide
    assert set(order[len(before) + 1 : -2]) == set(after)
    assert order[-2] is again


def test_what_is_put_back_is_next() -> None:
    """A batch that found no room is taken again unchanged, before all that waits."""
    queue = queue_of(*(event(flow) for flow in "abc"), change())
    batch = queue.take(COST, SIZE)
    queue.put(change())
    queue.put_back(batch)
    assert (len(queue), [*queue.in_order()][: len(batch)]) == (len(batch) + 1, batch)
    assert queue.take(COST, SIZE) == batch
    assert len(queue.take(COST, SIZE)) == 1


def test_events_that_can_wait_are_held_and_dropped() -> None:
    """While the log is long events stay, and are returned in their order: those before a barrier, or all."""
    first, second, own, last = event("a"), event("b"), record(1), event("a")
    divide = change(is_barrier=True)
    queue = queue_of(first, own, second, divide, last)
    assert queue.take(COST, SIZE, events=False) == [own]
    assert queue.take(COST, SIZE, events=False) == []
    assert queue.holds_barrier
    assert queue.drop_events(behind=False) == [first, second]
    assert queue.take(COST, SIZE, events=False) == [divide]
    assert queue.take(COST, SIZE, events=False) == []
    assert queue.drop_events(behind=True) == [last]
    assert (len(queue), queue.size, queue.waiting_in("a")) == (0, 0, (0, 0))


def test_attempts_that_are_told_of_take_turns() -> None:
    """However many notices one endpoint's attempts have, others go on; the endpoint's own attempts keep their order."""
    loud = [record(9) for _ in range(20)]
    quiet = Record(msgspec.structs.replace(attempt_record(), delivery=other_delivery()), (), lambda _: None)
    behind, late = record(), event("late")
    queue = queue_of(*loud, behind, change(), quiet, late)
    first, second, *rest = batches(queue)
    assert quiet in first
    assert late in [*first, *second]
    assert max(sum(map(cost_of, batch)) for batch in (first, second, *rest)) <= 2 * COST
    order = [operation for batch in (first, second, *rest) for operation in batch]
    assert [each for each in order if each in {*loud, behind}] == [*loud, behind]


def test_attempts_precede_events_between_two_changes() -> None:
    """A batch is in the order of submission, but between two changes its attempts come before its events."""
    one, two, three, four = event("a"), event("b"), event("a"), event("b")
    first, told, last = record(), record(1), record()
    change_1, change_2 = change(), change()
    queue = queue_of(one, first, change_1, two, told, three, last, change_2, four)
    assert queue.take(10 * COST, SIZE) == [first, one, change_1, told, last, two, three, change_2, four]


def test_events_next_to_attempts_get_half_of_a_batch() -> None:
    """While attempts are recorded, batches are short for them, and yet no batch leaves the events out."""
    events = [event(flow) for _ in range(COST) for flow in "ab"]
    queue = queue_of(*events, record())
    assert len(queue.take(COST, SIZE)) == 1 + COST // 2
    for _ in range(COST):
        queue.put(record())
    assert sum(isinstance(each, Publish) for each in queue.take(COST, SIZE)) == COST // 2
    assert sum(isinstance(each, Publish) for each in queue.take(COST, SIZE)) == COST // 2
    assert len(queue.take(COST, SIZE)) == COST // 2, "what is left of the events"


def test_flows_are_forgotten() -> None:
    """Any number of producers that came once, while one goes on, leave a bounded number of flows."""
    queue = queue_of(*(event("a", 40) for _ in range(10 * MOST_FLOWS)))
    for number in range(3 * MOST_FLOWS):
        queue.put(event(f"once{number}"))
        queue.take(COST, SIZE)
    assert len(queue._flows) <= MOST_FLOWS


def other_delivery() -> QueuedDelivery:
    return msgspec.structs.replace(queued_delivery(), pk=2, endpoint_pk=2)


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("abcd"), st.integers(0, 120)).map(lambda made: event(made[0], made[1])),
        st.integers(0, 3).map(record),
        st.builds(change),
        st.builds(lambda: change(is_barrier=True)),
        st.just(None),  # a batch is taken
    ),
    max_size=60,
)


@given(OPERATIONS)
def test_everything_is_taken_once_and_in_the_order_of_its_flow(script: list[Submission | None]) -> None:
    """For any submissions and batches, nothing is lost or taken twice, and flows keep their order and counts."""
    queue, submitted, taken = FairQueue(), [], []
    for step in script:
        if step is None:
            taken += queue.take(COST, SIZE)
        else:
            queue.put(step)
            submitted.append(step)
        assert len(queue) == len(submitted) - len(taken) == len([*queue.in_order()])
    for batch in batches(queue):
        assert batch
        taken += batch
    assert len(taken) == len(set(taken))
    assert set(taken) == set(submitted)
    for flow in ("a", "b", "c", "d", ("endpoint", 1), None):
        assert of_flow(taken, flow) == of_flow(submitted, flow)
    assert (queue.size, queue._heap, queue._flows) == (0, [], {})


def of_flow(operations: list[Submission], flow: Hashable) -> list[Submission]:
    return [each for each in operations if (None if isinstance(each, DatabaseCall) else each.flow) == flow]
