"""How many live pages are open, over all sessions: each holds a connection and makes its parts again and again."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from webhookd.dashboard.sessions import Session, Sessions
from webhookd.errors import ErrorCode, Rejected

MOST_STREAMS = 64
MOST_OF_ONE_CALLER = 32


class Streams:
    """Counts the streams that are open."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._of_callers: Counter[str] = Counter()

    @property
    def open(self) -> int:
        """How many there are."""
        return self._of_callers.total()

    def check(self, session: Session) -> None:
        """Raise Rejected RATE_LIMITED where there are too many, over all or with this key."""
        for there_are, most, whose in (
            (self._of_callers[session.caller.place], MOST_OF_ONE_CALLER, " with this key"),
            (self.open, MOST_STREAMS, ""),
        ):
            if there_are >= most:
                raise Rejected(
                    ErrorCode.RATE_LIMITED, f"{most} live pages are open{whose} already", retry_after_seconds=60
                )

    @contextmanager
    def counted(self, session: Session) -> Iterator[None]:
        """Count a stream while it is open."""
        place = session.caller.place
        self._of_callers[place] += 1
        try:
            yield
        finally:
            self._of_callers[place] -= 1
            self._of_callers += Counter()  # forgets who has none

    def is_open(self, session: Session) -> bool:
        """Whether a stream's session goes on; being streamed to is no use of it."""
        return self._sessions.is_open(session)
