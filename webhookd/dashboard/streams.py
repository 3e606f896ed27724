"""Limits on open live pages: each one holds a connection and renders its parts every few seconds.

An organization may have `organizations.max_live_pages`, however many keys it has; a key without an organization has a
limit of its own. Beyond `MOST_STREAMS` in total, only an organization or key that has none may open one, so that no
caller keeps others out. The bound `MOST_IN_ALL` leaves connections for the API.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from webhookd.admin.auth import Caller
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.dashboard.sessions import Session

MOST_STREAMS = 64
MOST_OF_ONE_CALLER = 32
MOST_IN_ALL = 512
RETRY_SECONDS = 60


class Streams:
    """Counts the open streams."""

    def __init__(self, *, most_of_organization: int) -> None:
        self._most_of_organization = most_of_organization
        self._of_callers: Counter[str] = Counter()
        self._of_shares: Counter[str] = Counter()

    @property
    def open(self) -> int:
        """The number of open streams."""
        return self._of_callers.total()

    def check(self, session: Session) -> None:
        """Raise Rejected RATE_LIMITED if the organization, the key or all callers together have too many."""
        caller = session.caller
        share, own = self._of_shares[caller.share], self._of_callers[caller.place]
        if caller.organization_id is not None and share >= self._most_of_organization:
            raise _too_many(share, " in this organization already (organizations.max_live_pages)")
        if own >= MOST_OF_ONE_CALLER:
            raise _too_many(own, " with this key already")
        if self.open >= (MOST_STREAMS if share else MOST_IN_ALL):
            raise _too_many(self.open, " already")

    @contextmanager
    def counted(self, session: Session) -> Iterator[None]:
        """Check and count a stream in one step; it counts until the end of the block."""
        self.check(session)
        # The session's caller may be replaced in the block; the same caller must be counted at both ends.
        caller = session.caller
        self._count(caller, 1)
        try:
            yield
        finally:
            self._count(caller, -1)

    def _count(self, caller: Caller, change: int) -> None:
        for counter, name in ((self._of_callers, caller.place), (self._of_shares, caller.share)):
            counter[name] += change
            if not counter[name]:
                del counter[name]


def _too_many(open_already: int, whose: str) -> Rejected:
    return Rejected(
        ErrorCode.RATE_LIMITED,
        f"{open_already} live pages are open{whose}: close one, and load this page again",
        retry_after_seconds=RETRY_SECONDS,
    )
