"""How many live pages are open, over all sessions: each holds a connection and makes its parts again and again."""

from webhookd.dashboard.sessions import Session, Sessions
from webhookd.errors import ErrorCode, Rejected

MOST_STREAMS = 64


class Streams:
    """Counts the streams that are open."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self.open = 0

    def check(self) -> None:
        """Raise Rejected RATE_LIMITED where there are too many."""
        if self.open >= MOST_STREAMS:
            raise Rejected(
                ErrorCode.RATE_LIMITED, f"{MOST_STREAMS} live pages are open already", retry_after_seconds=60
            )

    def is_open(self, session: Session) -> bool:
        """Whether a stream's session goes on; being streamed to is no use of it."""
        return self._sessions.is_open(session)
