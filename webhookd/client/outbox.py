"""The events that a producer has submitted and the server has not answered: the state machine of both clients.

It does no I/O and has no clock. Events stay here, in order, from `put` until their result arrives. A connection takes
unsent events and passes in what it reads; the results are for the events in their order. When a connection is lost,
all events count as unsent, so the next connection starts with the oldest unanswered one. The server recognizes events
that it has by their ids and answers `duplicate`. No event is skipped, and the order never changes.

The number and the bytes of unanswered events are bounded; a caller with more waits for room. An event that has no
answer `timeout` seconds after the last progress is given up: its caller gets ServerUnavailable with its id. If it was
sent, its place is kept until its result arrives or the connection is lost, because the next results are for the events
after it.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from webhookd.base.errors import ErrorCode, Rejected, WebhookdError
from webhookd.base.models import PublishResult
from webhookd.client.answers import Lost, read_line
from webhookd.client.events import Event, encode

MOST_UNANSWERED = 1024  # well below the number after which the server stops reading
MOST_UNANSWERED_BYTES = 4_194_304
_MOST_RESULT_BYTES = 8_388_608  # a refusal may quote an event of 1 MiB, with escapes
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0


class ServerUnavailable(WebhookdError):  # noqa: N818 - it describes the state
    """No answer arrived in time. The event may have been accepted: submit it again with the same id, `event_id`.

    `was_sent` is false if no connection took the event: the server can't have accepted it.
    """

    def __init__(self, message: str, event_id: str, *, was_sent: bool) -> None:
        super().__init__(message)
        self.event_id = event_id
        self.was_sent = was_sent


@dataclass(slots=True, eq=False)
class Submission:
    """One submitted event: `outcome` is its result, or `failure` why there is none; `notify` is called after either."""

    id: str
    line: bytes
    put_at: float
    notify: Callable[[], None] = lambda: None
    outcome: PublishResult | Rejected | None = None
    failure: WebhookdError | None = None
    is_given_up: bool = False
    was_sent: bool = False

    @property
    def is_done(self) -> bool:
        """Whether there is an outcome or a failure."""
        return self.outcome is not None or self.failure is not None

    def value(self) -> PublishResult | Rejected:
        """Return the result or refusal, or raise the failure; call it only when it is done."""
        if self.failure is not None:
            raise self.failure
        assert self.outcome is not None  # noqa: S101 - the caller has asked `is_done`
        return self.outcome


class Outbox:
    """The unanswered events of one connection and of those that replace it.

    `where` is the server's name in errors. A refusal with one of the `final` codes refuses the producer, and so all its
    events.
    """

    def __init__(
        self,
        where: str,
        timeout: float,
        new_id: Callable[[], str],
        final: frozenset[ErrorCode],
        sample: Callable[[], float] = random.random,
    ) -> None:
        self._where = where
        self._final = final
        self._timeout = timeout
        self._new_id = new_id
        self._sample = sample
        self._unanswered: deque[Submission] = deque()
        self._bytes = 0
        self._sent = 0  # the number of them, from the first, that are on this connection
        self._partial = bytearray()  # an incomplete result
        self._heard_at = float("-inf")
        self._failures = 0
        self._reason = "timed out"
        self.try_at = float("-inf")
        """When the next connection may be made."""

    def __len__(self) -> int:
        return len(self._unanswered)

    @property
    def unsent(self) -> int:
        """The number of events that are not on this connection yet."""
        return len(self._unanswered) - self._sent

    def is_over(self, most: int) -> bool:
        """Whether more than `most` events, or more bytes than allowed, are unanswered."""
        return len(self._unanswered) > most or (self._bytes > MOST_UNANSWERED_BYTES and len(self._unanswered) > 1)

    def submission(self, event: Event, now: float) -> Submission:
        """Return an event with its id and its line; ValueError for data that JSON can't represent."""
        event_id = event.id or self._new_id()
        return Submission(id=event_id, line=encode(event, event_id), put_at=now)

    def put(self, submission: Submission) -> None:
        """Add an event at the end."""
        self._unanswered.append(submission)
        self._bytes += len(submission.line)

    def attend(self, now: float) -> None:
        """Measure the time without an answer from now on: no call was waiting before."""
        self._heard_at = now

    def take_unsent(self, most_bytes: int, most_events: int = MOST_UNANSWERED) -> bytes:
        """Return the next lines to send on this connection, at least one if any is unsent."""
        lines: list[bytes] = []
        size = 0
        while self.unsent and len(lines) < most_events:
            submission = self._unanswered[self._sent]
            if lines and size + len(submission.line) > most_bytes:
                break
            submission.was_sent = True
            lines.append(submission.line)
            size += len(submission.line)
            self._sent += 1
        return b"".join(lines)

    def receive(self, data: bytes, now: float) -> bool:
        """Process what the connection has read; return whether it had results.

        Raises Lost if the connection can't be used any more; results before that are kept.
        """
        first, *rest = data.split(b"\n")
        self._partial += first
        if len(self._partial) > _MOST_RESULT_BYTES:
            raise Lost(f"the server sent a result of more than {_MOST_RESULT_BYTES} bytes")
        if not rest:
            return False
        lines = [bytes(self._partial), *rest]
        self._partial = bytearray(lines.pop())
        for line in lines:
            outcome = read_line(line)
            if isinstance(outcome, Rejected) and outcome.code in self._final:
                self.fail(outcome)
                raise Lost(outcome.detail)
            if not self._sent:
                raise Lost("the server sent a result for no event")
            submission = self._unanswered.popleft()
            self._bytes -= len(submission.line)
            self._sent -= 1
            self._heard_at, self._failures, self._reason = now, 0, "timed out"
            submission.outcome = outcome
            submission.notify()
        return True

    def end_answer(self) -> None:
        """Note the end of an HTTP answer; Lost if results are missing."""
        if self._sent:
            raise Lost("the answer ended before all its results")

    def lose(self, lost: Lost, now: float) -> None:
        """End the connection: all events are unsent again, and `try_at` is set for the next one."""
        self._sent = 0
        self._partial.clear()
        self._reason = str(lost)
        kept = [submission for submission in self._unanswered if not submission.is_given_up]
        self._unanswered = deque(kept)
        self._bytes = sum(len(submission.line) for submission in kept)
        pause = min(_FIRST_PAUSE_SECONDS * 2**self._failures, _LONGEST_PAUSE_SECONDS)
        self._failures = min(self._failures + 1, 30)
        # So that producers of the same server don't all return at the same time.
        self.try_at = now + max(pause * (1 + self._sample()) / 2, lost.retry_after_seconds)

    def fail(self, failure: WebhookdError) -> None:
        """Fail all events: the producer itself is refused."""
        self._end(lambda _submission: failure)

    def close(self) -> None:
        """Fail all events: the client is closed."""
        self._reason = "the client was closed"
        self._end(self.unavailable)

    def _end(self, failure: Callable[[Submission], WebhookdError]) -> None:
        ended = list(self._unanswered)
        self._unanswered.clear()
        self._bytes = self._sent = 0
        self._partial.clear()
        for submission in ended:
            submission.failure = failure(submission)
            submission.notify()

    def deadline(self, submission: Submission) -> float:
        """Return when an event is given up if there is no progress before."""
        return max(submission.put_at, self._heard_at) + self._timeout

    def oldest_deadline(self) -> float:
        """Return the first event's deadline, or infinity if there is no event."""
        return self.deadline(self._unanswered[0]) if self._unanswered else float("inf")

    def expire(self, now: float) -> None:
        """Raise ServerUnavailable if the first event's deadline has passed."""
        if now >= self.oldest_deadline():
            raise self.unavailable(self._unanswered[0])

    def unavailable(self, submission: Submission) -> ServerUnavailable:
        """Return the error for an event whose deadline has passed."""
        message = f"{self._where}: {self._reason}; no answer for event {submission.id} in {self._timeout:g} s"
        consequence = (
            "it may have been accepted: send it again with this id" if submission.was_sent else "it was never sent"
        )
        return ServerUnavailable(f"{message}; {consequence}", submission.id, was_sent=submission.was_sent)

    def give_up(self, submission: Submission) -> None:
        """Stop waiting for an event's result; if it was sent, its place is kept while the connection lasts."""
        submission.is_given_up = True
        if submission in self._unanswered and (place := self._unanswered.index(submission)) >= self._sent:
            del self._unanswered[place]
            self._bytes -= len(submission.line)
