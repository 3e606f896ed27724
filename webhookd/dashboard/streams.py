"""How many live pages are open, over all sessions: each holds a connection and makes its parts again and again.

An organization has a share of them, `organizations.max_live_pages`, whatever number of keys it has; who belongs to none
has a share for each key. So that nobody's pages keep another's out, a share that has none yet may open one when all
that are shared are open, up to a bound that leaves the API its connections.
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
    """Counts the streams that are open."""

    def __init__(self, *, most_of_organization: int) -> None:
        self._most_of_organization = most_of_organization
        self._of_callers: Counter[str] = Counter()
        self._of_shares: Counter[str] = Counter()

    @property
    def open(self) -> int:
        """How many there are."""
        return self._of_callers.total()

    def check(self, session: Session) -> None:
        """Raise Rejected RATE_LIMITED where there are too many: of this organization, with this key, or over all."""
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
        """Check and count a stream in one step, and count it while it is open."""
        self.check(session)
        # The caller is that of the beginning: a key's organization never changes, and what was counted is taken back.
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
