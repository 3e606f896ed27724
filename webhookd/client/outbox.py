"""What a producer has submitted and the server has not answered: the state machine of every client. No I/O, no clock.

Events stay here, in order, from `put` until their result has come. A connection takes what is unsent and hands in what
it reads; results belong to the events in their order. When a connection is lost everything counts as unsent again, so
the next one starts with the oldest unanswered event: the server knows by their ids what it has taken before and says
`duplicate`. Nothing is left out and nothing changes places.

How much there may be is bounded, in events and in bytes; whoever has more waits for room. An event that has no answer
`timeout` seconds after the last sign of progress is given up: its caller hears so, with its id. If it was sent, its
place is kept until its result has come or the connection is lost, because the next results are those of its successors.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from webhookd.base.errors import ErrorCode, Rejected, WebhookdError
from webhookd.base.models import PublishResult
from webhookd.client.answers import Lost, read_line
from webhookd.client.events import Event, encode

MOST_UNANSWERED = 1024  # well under what the server takes from one connection before it stops reading
MOST_UNANSWERED_BYTES = 4_194_304
_MOST_RESULT_BYTES = 8_388_608  # a refusal may name what was sent, an event of 1 MiB with escapes
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0


class ServerUnavailable(WebhookdError):  # noqa: N818 - it says what is so
    """No answer came in time. What was sent may have been accepted: submit it again with the same id, `event_id`.

    `was_sent` tells whether any connection took the event; where none did, the server can't have accepted it.
    """

    def __init__(self, message: str, event_id: str, *, was_sent: bool) -> None:
        super().__init__(message)
        self.event_id = event_id
        self.was_sent = was_sent


@dataclass(slots=True, eq=False)
class Submission:
    """One event on its way: `outcome` is what came of it, `failure` why nothing will; `tell` is called at either."""

    id: str
    line: bytes
    put_at: float
    tell: Callable[[], None] = lambda: None
    outcome: PublishResult | Rejected | None = None
    failure: WebhookdError | None = None
    is_given_up: bool = False
    was_sent: bool = False

    @property
    def is_done(self) -> bool:
        """Whether its caller has something to hear."""
        return self.outcome is not None or self.failure is not None

    def value(self) -> PublishResult | Rejected:
        """Return the result or refusal; raises the failure. Only once it is done."""
        if self.failure is not None:
            raise self.failure
        assert self.outcome is not None  # noqa: S101 - the caller has asked `is_done`
        return self.outcome


class Outbox:
    """The unanswered events of one connection and its successors.

    `where` names the server in errors; a refusal with one of the `final` codes is said of the producer, whose other
    events would fare no better.
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
        self._sent = 0  # so many of them, from the first, are on this connection
        self._partial = bytearray()  # of a result whose end has not come
        self._heard_at = float("-inf")
        self._failures = 0
        self._reason = "timed out"
        self.try_at = float("-inf")
        """When the next connection may be made."""

    def __len__(self) -> int:
        return len(self._unanswered)

    @property
    def unsent(self) -> int:
        """How many events this connection has still to take."""
        return len(self._unanswered) - self._sent

    def is_over(self, most: int) -> bool:
        """Whether more than `most` events, or more bytes than may be kept, are unanswered."""
        return len(self._unanswered) > most or (self._bytes > MOST_UNANSWERED_BYTES and len(self._unanswered) > 1)

    def submission(self, event: Event, now: float) -> Submission:
        """Give an event its id and its line; ValueError for what has no JSON form."""
        event_id = event.id or self._new_id()
        return Submission(id=event_id, line=encode(event, event_id), put_at=now)

    def put(self, submission: Submission) -> None:
        """Queue it behind the others."""
        self._unanswered.append(submission)
        self._bytes += len(submission.line)

    def attend(self, now: float) -> None:
        """Count the time without an answer from now on: nobody has listened before."""
        self._heard_at = now

    def take_unsent(self, most_bytes: int, most_events: int = MOST_UNANSWERED) -> bytes:
        """Return the next lines to send on this connection, at least one where there is one."""
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
        """Take what the connection has read; return whether results were in it.

        Lost where the connection is of no more use; what was answered before that is answered all the same.
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
                raise Lost("the server sent a result that nobody waits for")
            submission = self._unanswered.popleft()
            self._bytes -= len(submission.line)
            self._sent -= 1
            self._heard_at, self._failures, self._reason = now, 0, "timed out"
            submission.outcome = outcome
            submission.tell()
        return True

    def end_answer(self) -> None:
        """Hear that nothing more will come for what was sent; Lost where results are missing."""
        if self._sent:
            raise Lost("the answer ended before all its results")

    def lose(self, lost: Lost, now: float) -> None:
        """End the connection: all is unsent again, and the next one may be made at `try_at`."""
        self._sent = 0
        self._partial.clear()
        self._reason = str(lost)
        kept = [submission for submission in self._unanswered if not submission.is_given_up]
        self._unanswered = deque(kept)
        self._bytes = sum(len(submission.line) for submission in kept)
        pause = min(_FIRST_PAUSE_SECONDS * 2**self._failures, _LONGEST_PAUSE_SECONDS)
        self._failures = min(self._failures + 1, 30)
        # Producers that lost the same server don't come back in step.
        self.try_at = now + max(pause * (1 + self._sample()) / 2, lost.retry_after_seconds)

    def fail(self, failure: WebhookdError) -> None:
        """Give all events the same end: it is said of the producer and not of them."""
        self._end(lambda _submission: failure)

    def close(self) -> None:
        """End with the client: nobody will wait for what has no answer."""
        self._reason = "the client was closed"
        self._end(self.unavailable)

    def _end(self, failure: Callable[[Submission], WebhookdError]) -> None:
        ended = list(self._unanswered)
        self._unanswered.clear()
        self._bytes = self._sent = 0
        self._partial.clear()
        for submission in ended:
            submission.failure = failure(submission)
            submission.tell()

    def deadline(self, submission: Submission) -> float:
        """Return when an event is given up, unless there is progress before that."""
        return max(submission.put_at, self._heard_at) + self._timeout

    def oldest_deadline(self) -> float:
        """Return the first event's deadline; infinite where there is none."""
        return self.deadline(self._unanswered[0]) if self._unanswered else float("inf")

    def expire(self, now: float) -> None:
        """Raise ServerUnavailable for the first event where its deadline has passed."""
        if now >= self.oldest_deadline():
            raise self.unavailable(self._unanswered[0])

    def unavailable(self, submission: Submission) -> ServerUnavailable:
        """Return the error for an event whose deadline has passed."""
        message = f"{self._where}: {self._reason}; no answer for event {submission.id} in {self._timeout:g} s"
        fate = "it may have been accepted: send it again with this id" if submission.was_sent else "it was never sent"
        return ServerUnavailable(f"{message}; {fate}", submission.id, was_sent=submission.was_sent)

    def give_up(self, submission: Submission) -> None:
        """Wait for its result no longer. Where it was sent its place is kept while the connection lasts."""
        submission.is_given_up = True
        if submission in self._unanswered and (place := self._unanswered.index(submission)) >= self._sent:
            del self._unanswered[place]
            self._bytes -= len(submission.line)
