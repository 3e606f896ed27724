"""The messages in memory: which are kept, for how long, and within which bounds."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.journal.harness import event
from tests.samples import AT, message
from webhookd.base.models import AcceptedEvent, Message
from webhookd.journal.messages import KEPT_SECONDS, Messages, _size_of

SIZE = 1000
ROOM = 3 * _size_of(b" " * SIZE)


def accepted(name: str = "e", *, after: float = 0.0, size: int = SIZE) -> AcceptedEvent:
    return msgspec.structs.replace(event(name, size=size), accepted_at=AT + after)


def stored(size: int = SIZE) -> Message:
    return msgspec.structs.replace(message(), body=b" " * size)


def kept(messages: Messages) -> list[int]:
    return [event_pk for event_pk in range(100) if event_pk in messages]


def test_a_published_message_is_let_go_with_its_last_first_attempt() -> None:
    """Each delivery counts once: retries find the message and keep it no longer."""
    messages, new = Messages(), accepted()
    messages.published(1, new, 2)
    assert messages.take(1, is_first_attempt=True) == new.message
    for _ in range(3):
        assert messages.take(1, is_first_attempt=False) == new.message
    assert messages.take(1, is_first_attempt=True) == new.message
    assert 1 not in messages
    assert messages.take(1, is_first_attempt=True) is None


def test_a_message_without_deliveries_is_not_kept() -> None:
    """An event that goes nowhere, or only to webhooks that drop it, takes no memory."""
    messages = Messages()
    messages.published(1, accepted(), 0)
    assert kept(messages) == []


def test_in_a_burst_the_first_messages_stay() -> None:
    """What is needed first isn't displaced by what is needed last; a message that leaves makes room for a new one."""
    messages = Messages(published_bytes=ROOM)
    for event_pk in range(10):
        messages.published(event_pk, accepted(), 1)
    assert kept(messages) == [0, 1, 2]
    messages.take(0, is_first_attempt=True)
    messages.published(10, accepted(size=SIZE + 1), 1)
    messages.published(11, accepted(), 1)
    assert kept(messages) == [1, 2, 11]


@pytest.mark.parametrize("seconds", [KEPT_SECONDS + 0.001, -KEPT_SECONDS - 0.001])
def test_a_message_whose_first_attempts_do_not_come_makes_room(seconds: float) -> None:
    """Deliveries that wait, or have ended without an attempt, hold no room for long, even if the clock is set back."""
    messages = Messages(published_bytes=ROOM)
    for event_pk in range(3):
        messages.published(event_pk, accepted(), 5)
    messages.take(1, is_first_attempt=True)
    messages.published(3, accepted(after=seconds / 2), 1)
    assert kept(messages) == [0, 1, 2]
    messages.published(4, accepted(after=seconds), 1)
    assert kept(messages) == [1, 2, 4]
    messages.published(5, accepted(after=seconds, size=2 * SIZE), 1)
    assert kept(messages) == [4, 5]


def test_what_is_read_and_what_is_published_displace_each_other_nowhere() -> None:
    """Messages that were read make room in the order in which they were read, whatever is published meanwhile."""
    messages = Messages(published_bytes=ROOM, read_bytes=ROOM)
    for event_pk in range(10):
        messages.published(event_pk, accepted(), 1)
        messages.read(50 + event_pk, stored())
    assert kept(messages) == [0, 1, 2, 57, 58, 59]
    messages.read(0, stored())
    messages.read(57, stored())
    assert kept(messages) == [0, 1, 2, 57, 58, 59]
    assert messages.take(57, is_first_attempt=True) == stored()
    assert 57 in messages, "another endpoint may send it too"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["published", "read", "take", "take again"]),
        st.integers(2, 3 * SIZE),
        st.integers(0, 3),
        st.floats(0, KEPT_SECONDS / 3),
    ),
    max_size=60,
)


@given(STEPS)
def test_memory_is_bounded_whatever_happens(steps: list[tuple[str, int, int, float]]) -> None:
    """However many events wait, each kind takes no more than its bound, and gets back what it gave up."""
    messages, now = Messages(published_bytes=ROOM, read_bytes=ROOM), 0.0
    for number, (what, size, count, seconds) in enumerate(steps):
        now += seconds
        if what == "published":
            messages.published(number, accepted(after=now, size=size), count)
        elif what == "read":
            messages.read(number, stored(size))
        else:
            messages.take(size % (number + 1), is_first_attempt=what == "take")
        published = sum(_size_of(each.message.body) for each in messages._published.values())
        read = sum(_size_of(each.body) for each in messages._read.values())
        assert (messages._published_room, messages._read_room) == (ROOM - published, ROOM - read)
        assert min(messages._published_room, messages._read_room) >= 0
