"""The window of a queue: what may be appended without a read of the journal, and what makes it be read again."""

import msgspec
import pytest

from tests.samples import AT, queued_delivery
from webhookd.base.models import DeliveryStatus, EndpointState, Ordering, QueuedDelivery, Verdict
from webhookd.dispatch.lane import MIN_WINDOW
from webhookd.dispatch.queue_window import MOST_BODIES_AHEAD, QueueWindow
from webhookd.journal import NO_FLOORS, Floors, Window

LIMIT = 3


def delivery(sequence: int) -> QueuedDelivery:
    return msgspec.structs.replace(queued_delivery(), pk=sequence, event_pk=sequence, sequence=sequence)


def read(*sequences: int, complete: bool = True, last_sequence: int | None = None) -> QueueWindow:
    """Return a window that has just been read, with these deliveries in it."""
    queue = QueueWindow()
    queue.begin_read(LIMIT, lacks_keys=False, lacks_flights=False)
    window = Window(
        pending=tuple(delivery(sequence) for sequence in sequences),
        parked=(),
        expired=(),
        complete=complete,
        next_attempt_at=None,
        last_sequence=max(sequences, default=0) if last_sequence is None else last_sequence,
    )
    queue.load(window)
    return queue


def sequences(queue: QueueWindow) -> list[int]:
    """Return the deliveries in the window, by number."""
    return [each.sequence for each in queue._pending]


def needs_refill(queue: QueueWindow) -> bool:
    """Whether the journal is read again once the whole window has been sent."""
    return queue.needs_read(AT, Ordering.NONE, found=False)


def test_what_follows_joins() -> None:
    """A delivery that follows the last one of the window is appended, whether that one has been sent or not."""
    queue = read(last_sequence=4)
    queue.append(delivery(5))
    queue.append(delivery(6))
    assert (sequences(queue), queue.has_more) == ([5, 6], False)


def test_only_what_is_new_to_a_queue_that_waits_is_told() -> None:
    """A delivery behind a waiting head is no news, unless it is the first, doesn't fit, or expires first."""
    queue = read(last_sequence=4)
    assert queue.append(delivery(5))
    assert not queue.append(delivery(6))
    sooner = msgspec.structs.replace(delivery(7), expires_at=delivery(6).expires_at - 1)
    assert queue.append(sooner)
    assert queue.append(delivery(8)), "the journal has more than the window from now on"
    assert not queue.append(delivery(9))
    assert (sequences(queue), queue.has_more) == ([5, 6, 7], True)


def test_a_gap_has_the_journal_read() -> None:
    """A gap in the sequences means deliveries that were queued in another way, which are sent first."""
    queue = read(1)
    queue.append(delivery(3))
    assert (sequences(queue), queue.has_more, needs_refill(queue)) == ([1], True, True)
    queue.append(delivery(2))
    assert sequences(queue) == [1]


def test_the_window_is_bounded() -> None:
    """A window takes no more than one read may return; the rest is read later."""
    queue = read(1, 2)
    for sequence in range(3, 7):
        queue.append(delivery(sequence))
    assert (sequences(queue), queue.has_more) == ([1, 2, 3], True)


def test_bodies_are_read_ahead_as_they_are_needed() -> None:
    """A queue that flows has its bodies read in parts that double up to a window; one that waits, in small ones."""
    assert MOST_BODIES_AHEAD == MIN_WINDOW - 1
    queue = read(*range(1, 200))
    parts = []
    for part in (1, 3, 7, 15, 31, 50, 1):
        for _ in range(part):
            queue.take(queue._pending[0])
        ahead = queue.upcoming()
        assert ahead == sequences(queue)[: len(ahead)]
        parts.append(len(ahead))
    assert parts == [2, 6, 14, 30, 49, 49, 2]


@pytest.mark.parametrize("state", ["stale", "incomplete", "being read", "lacks keys"])
def test_a_window_that_does_not_know_all_takes_nothing_in(state: str) -> None:
    """If there may be deliveries before it, a new delivery only makes the journal be read again."""
    queue = read(1, complete=state != "incomplete")
    if state == "stale":
        queue.is_stale = True
    elif state == "being read":
        queue.begin_read(LIMIT, lacks_keys=False, lacks_flights=False)
    elif state == "lacks keys":
        queue.lacks_keys = True
    queue.append(delivery(2))
    assert (sequences(queue), queue.has_more) == ([1], True)


FLOORS = Floors(edition=3, fresh=7, backing_off=8, due_at=AT, later_at=AT + 60)


def begin_read(queue: QueueWindow) -> Floors:
    return queue.begin_read(LIMIT, lacks_keys=False, lacks_flights=False)


def read_with_floors() -> QueueWindow:
    """Return a window whose first read has returned floors."""
    queue = QueueWindow()
    assert begin_read(queue) == NO_FLOORS
    queue.load(window_of(FLOORS))
    return queue


def window_of(floors: Floors) -> Window:
    return Window(
        pending=(), parked=(), expired=(), complete=True, next_attempt_at=None, last_sequence=9, floors=floors
    )


def came_back(queue: QueueWindow, status: DeliveryStatus = DeliveryStatus.PENDING) -> None:
    at = AT - 5 if status is DeliveryStatus.PENDING else None
    queue.came_back(
        delivery(4), Verdict(status=status, refusals=0, backoff_step=1, endpoint=EndpointState(), next_attempt_at=at)
    )


def test_a_read_begins_at_the_floors_of_the_last_one() -> None:
    """A delivery that has ended leaves them where they are; one that is sent again may be in either part."""
    queue = read_with_floors()
    assert begin_read(queue) == FLOORS
    queue.load(window_of(FLOORS))
    came_back(queue, DeliveryStatus.FAILED)
    assert begin_read(queue) == FLOORS
    queue.load(window_of(FLOORS))
    came_back(queue)
    assert begin_read(queue) == Floors(edition=3, fresh=4, backing_off=4, due_at=AT - 5, later_at=AT - 5)


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_floors_are_lowered_by_what_happens_during_the_read(*, is_forgotten: bool) -> None:
    """The read may have been made before the record or the change, and then its floors are too high."""
    queue = read_with_floors()
    begin_read(queue)
    if is_forgotten:
        queue.forget_floors()
    else:
        came_back(queue)
    queue.load(window_of(FLOORS))
    floors = begin_read(queue)
    assert (floors.fresh, floors.due_at) == ((0, 0.0) if is_forgotten else (4, AT - 5))
    queue.load(window_of(FLOORS))
    assert begin_read(queue) == FLOORS
