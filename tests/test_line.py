"""The window onto a queue: what may join it without a look at the journal, and what has it read again."""

import msgspec
import pytest

from tests.samples import AT, queued_delivery
from webhookd.journal import Window
from webhookd.line import Line
from webhookd.models import Ordering, QueuedDelivery

LIMIT = 3


def delivery(sequence: int) -> QueuedDelivery:
    return msgspec.structs.replace(queued_delivery(), pk=sequence, event_pk=sequence, sequence=sequence)


def read(*sequences: int, complete: bool = True, last_sequence: int | None = None) -> Line:
    """Return a line that has just been read, with these deliveries in it."""
    line = Line()
    line.begin_refill(())
    window = Window(
        line=tuple(delivery(sequence) for sequence in sequences),
        parked=(),
        expired=(),
        complete=complete,
        next_attempt_at=None,
        next_expiry_at=None,
        last_sequence=max(sequences, default=0) if last_sequence is None else last_sequence,
    )
    line.load(window, LIMIT)
    return line


def sequences(line: Line) -> list[int]:
    """Return what is held; each delivery's event has its number here."""
    return line.upcoming()


def needs_refill(line: Line) -> bool:
    """Whether the journal is read again once all that is held has been sent."""
    return line.needs_refill(AT, Ordering.NONE, found=False)


def test_what_follows_joins() -> None:
    """A delivery right behind the last one that the window knows is taken in, whether that has been sent or not."""
    line = read(last_sequence=4)
    line.append(delivery(5))
    line.append(delivery(6))
    assert (sequences(line), line.has_more) == ([5, 6], False)


def test_only_what_is_new_to_a_line_that_waits_is_told() -> None:
    """One more behind a head that waits says nothing, unless it is the first, fits no more, or expires first."""
    line = read(last_sequence=4)
    assert line.append(delivery(5))
    assert not line.append(delivery(6))
    sooner = msgspec.structs.replace(delivery(7), expires_at=delivery(6).expires_at - 1)
    assert line.append(sooner)
    assert line.append(delivery(8)), "the journal has more than the window from now on"
    assert not line.append(delivery(9))
    assert (sequences(line), line.has_more) == ([5, 6, 7], True)


def test_a_gap_has_the_journal_read() -> None:
    """A sequence that was left out was queued in another way, and goes first."""
    line = read(1)
    line.append(delivery(3))
    assert (sequences(line), line.has_more, needs_refill(line)) == ([1], True, True)
    line.append(delivery(2))
    assert sequences(line) == [1]


def test_the_window_is_bounded() -> None:
    """No more joins than one read may return, and what doesn't fit is read later."""
    line = read(1, 2)
    for sequence in range(3, 7):
        line.append(delivery(sequence))
    assert (sequences(line), line.has_more) == ([1, 2, 3], True)


@pytest.mark.parametrize("state", ["stale", "incomplete", "being read", "lacks keys"])
def test_a_window_that_does_not_know_all_takes_nothing_in(state: str) -> None:
    """Where something may stand before it, a fresh delivery only has the journal read again."""
    line = read(1, complete=state != "incomplete")
    if state == "stale":
        line.is_stale = True
    elif state == "being read":
        line.begin_refill(())
    elif state == "lacks keys":
        line.lacks_keys = True
    line.append(delivery(2))
    assert (sequences(line), line.has_more) == ([1], True)
