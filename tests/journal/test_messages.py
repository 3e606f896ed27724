"""The messages in memory: which are kept, for how long, and within which bounds."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.journal.harness import event
from tests.samples import AT, message
from webhookd.base.models import AcceptedEvent, Message
from webhookd.journal.messages import KEPT_SECONDS, Answered, Found, Messages, _size_of

SIZE = 1000
ROOM = 3 * _size_of(b" " * SIZE)


class Asked:
    """The questions that messages had, which the test answers."""

    def __init__(self) -> None:
        self.questions: list[tuple[int, ...]] = []
        self._answered: list[Answered] = []

    def __call__(self, question: tuple[int, ...], answered: Answered) -> None:
        self.questions.append(question)
        self._answered.append(answered)

    def answer(self, found: Found) -> None:
        """Answer the oldest question."""
        for call in self._answered.pop(0)(found):
            call()


def messages_of(published_bytes: int = ROOM, read_bytes: int = ROOM) -> tuple[Messages, Asked]:
    asked = Asked()
    return Messages(asked, published_bytes=published_bytes, read_bytes=read_bytes), asked


def read(messages: Messages, asked: Asked, event_pk: int, size: int = SIZE) -> None:
    messages.read(event_pk, tuple, lambda _: None)
    asked.answer({event_pk: stored(size)})


def accepted(name: str = "e", *, after: float = 0.0, size: int = SIZE) -> AcceptedEvent:
    return msgspec.structs.replace(event(name, size=size), accepted_at=AT + after)


def stored(size: int = SIZE) -> Message:
    return msgspec.structs.replace(message(), body=b" " * size)


def kept(messages: Messages) -> list[int]:
    return [event_pk for event_pk in range(100) if event_pk in messages]


def test_a_published_message_is_let_go_with_its_last_first_attempt() -> None:
    """Each delivery counts once: retries find the message and keep it no longer."""
    (messages, _), new = messages_of(), accepted()
    messages.published(1, new, 2)
    assert messages.take(1, is_first_attempt=True) == new.message
    for _ in range(3):
        assert messages.take(1, is_first_attempt=False) == new.message
    assert messages.take(1, is_first_attempt=True) == new.message
    assert 1 not in messages
    assert messages.take(1, is_first_attempt=True) is None


def test_a_message_without_deliveries_is_not_kept() -> None:
    """An event that goes nowhere, or only to webhooks that drop it, takes no memory."""
    messages, _ = messages_of()
    messages.published(1, accepted(), 0)
    assert kept(messages) == []


def test_in_a_burst_the_first_messages_stay() -> None:
    """What is needed first isn't displaced by what is needed last; a message that leaves makes room for a new one."""
    messages, _ = messages_of()
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
    messages, _ = messages_of()
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
    messages, asked = messages_of()
    for event_pk in range(10):
        messages.published(event_pk, accepted(), 1)
        read(messages, asked, 50 + event_pk)
    assert kept(messages) == [0, 1, 2, 57, 58, 59]
    read(messages, asked, 0)
    read(messages, asked, 57)
    assert kept(messages) == [0, 1, 2, 57, 58, 59]
    assert messages.take(57, is_first_attempt=True) == stored()
    assert 57 in messages, "another endpoint may send it too"


def test_a_message_that_is_being_read_is_not_read_again() -> None:
    """Deliveries that need a message while it is being read get it from that read, also if it was only read ahead."""
    messages, asked = messages_of()
    messages.published(2, accepted(), 1)
    got: list[tuple[str, object]] = []
    messages.read(1, lambda: [1, 2, 3, 3, 4], lambda found: got.append(("first", found)))
    messages.read(1, tuple, lambda found: got.append(("second", found)))
    messages.read(3, lambda: [4, 5], lambda found: got.append(("ahead", found)))
    messages.read(5, tuple, lambda found: got.append(("other", found)))
    assert asked.questions == [(1, 3, 4), (5,)]
    one, three = stored(), stored(SIZE // 2)
    asked.answer({1: one, 3: three})
    assert got == [("first", one), ("second", one), ("ahead", three)]
    assert kept(messages) == [1, 2, 3]


def test_a_message_that_was_left_out_is_read_when_it_is_awaited() -> None:
    """A read may leave out what is read ahead; who waits for that has it read for itself."""
    messages, asked = messages_of()
    got: list[object] = []
    messages.read(1, lambda: [2, 3], got.append)
    messages.read(2, tuple, got.append)
    asked.answer({1: stored()})
    assert asked.questions == [(1, 2, 3), (2,)]
    asked.answer({2: stored(SIZE // 2)})
    assert got == [stored(), stored(SIZE // 2)]


def test_what_a_read_fails_with_is_passed_on() -> None:
    """All who wait for a read get its error, and a LookupError if their event is gone; the next read may succeed."""
    messages, asked = messages_of()
    got: list[object] = []
    failed = OSError("planted")
    messages.read(1, lambda: [2], got.append)
    messages.read(2, tuple, got.append)
    asked.answer(failed)
    assert got == [failed, failed]
    messages.read(1, tuple, got.append)
    asked.answer({})
    assert isinstance(got[2], LookupError)
    messages.read(1, tuple, got.append)
    asked.answer({1: stored()})
    assert got[3] == stored()


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
    (messages, asked), now = messages_of(), 0.0
    for number, (what, size, count, seconds) in enumerate(steps):
        now += seconds
        if what == "published":
            messages.published(number, accepted(after=now, size=size), count)
        elif what == "read":
            read(messages, asked, number, size)
        else:
            messages.take(size % (number + 1), is_first_attempt=what == "take")
        published = sum(_size_of(each.message.body) for each in messages._published.values())
        again = sum(_size_of(each.body) for each in messages._read.values())
        assert (messages._published_room, messages._read_room) == (ROOM - published, ROOM - again)
        assert min(messages._published_room, messages._read_room) >= 0
