"""The sessions of signed-in browsers, in memory, found by the hash of the cookie's value.

A session is valid as long as the key or token that it began with, which is checked at each request. It also ends after
an hour without a request, after 12 hours in any case, and with the process. The number of sessions is bounded, for each
key and in total. At the total bound, the organization with the most sessions loses the one that was unused the longest,
so that no organization's sign-ins end the sessions of another; a caller without an organization counts by its key.

The methods of `BrowserSessions` are coroutines, since the sessions of several nodes have to be in a database. Each one
yields first and then works in one step, so no other task runs between a check and the change that depends on it.
"""

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from secrets import token_urlsafe

import trio

from webhookd.admin.auth import Caller, KeyRing
from webhookd.base.secret import Secret

IDLE_SECONDS = 3600.0
LONGEST_SECONDS = 12 * 3600.0
MOST_SESSIONS = 1000
MOST_OF_ONE_CALLER = 20
MOST_SECRETS = MOST_NOTICES = 10

_RANDOM_BYTES = 32


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """One signed-in browser; `BrowserSessions` alone changes it.

    `notices` are shown on the next page, and each of `secrets`, by name, on one page.
    """

    key: bytes
    caller: Caller
    csrf_token: str
    is_secure: bool
    began_at: float
    used_at: float
    has_ended: bool = False
    notices: list[str] = field(default_factory=list)
    secrets: dict[str, Secret[str]] = field(default_factory=dict)

    def vouches(self, csrf_token: str | None) -> bool:
        """Whether this is the CSRF token of the session's forms."""
        return csrf_token is not None and hmac.compare_digest(csrf_token.encode(), self.csrf_token.encode())


class BrowserSessions:
    """The open sessions. Their times are those of the event loop's clock, which nobody can set."""

    def __init__(
        self,
        keys: KeyRing,
        wall_time: Callable[[], float],
        *,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._keys = keys
        self._wall_time = wall_time
        self._clock = clock
        self._sessions: dict[bytes, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    async def begin(self, caller: Caller, *, is_secure: bool) -> str:
        """Begin a session of a caller that has just been authenticated; return the value of its cookie."""
        await trio.lowlevel.checkpoint()
        self._make_room(caller)
        text, now = token_urlsafe(_RANDOM_BYTES), self._clock()
        key = _hash(text)
        self._sessions[key] = Session(
            key=key,
            caller=caller,
            csrf_token=token_urlsafe(_RANDOM_BYTES),
            is_secure=is_secure,
            began_at=now,
            used_at=now,
        )
        return text

    async def find(self, text: str, *, is_secure: bool) -> Session | None:
        """Return the session of a request's cookie and count this as its use; None once it has ended.

        A session that began over TLS is found by a secure request alone, and one that began without TLS by the others.
        """
        await trio.lowlevel.checkpoint()
        session = self._sessions.get(_hash(text))
        if session is None or session.is_secure is not is_secure or not self._is_open(session):
            return None
        session.used_at = self._clock()
        return session

    async def is_open(self, session: Session) -> bool:
        """Whether a session is still valid, which doesn't count as its use; delete it when it isn't."""
        await trio.lowlevel.checkpoint()
        return self._is_open(session)

    async def end(self, session: Session) -> None:
        """End a session, which may have ended already."""
        await trio.lowlevel.checkpoint()
        self._end(session)

    async def add_notice(self, session: Session, notice: str) -> None:
        """Have a notice shown on the next page; the last `MOST_NOTICES` are kept."""
        await trio.lowlevel.checkpoint()
        session.notices = [*session.notices, notice][-MOST_NOTICES:]

    async def take_notices(self, session: Session) -> list[str]:
        """Return and delete the notices."""
        await trio.lowlevel.checkpoint()
        taken, session.notices = session.notices, []
        return taken

    async def put_secret(self, session: Session, name: str, secret: Secret[str]) -> None:
        """Keep a new secret for the page that shows it once; the last `MOST_SECRETS` are kept."""
        await trio.lowlevel.checkpoint()
        while len(session.secrets) >= MOST_SECRETS:
            del session.secrets[next(iter(session.secrets))]
        session.secrets[name] = secret

    async def take_secret(self, session: Session, name: str) -> Secret[str] | None:
        """Return and delete a new secret; None after it was shown."""
        await trio.lowlevel.checkpoint()
        return session.secrets.pop(name, None)

    def _is_open(self, session: Session) -> bool:
        if session.has_ended:
            return False
        now = self._clock()
        caller = self._keys.caller_now(session.caller, self._wall_time())
        if caller is None or now >= session.used_at + IDLE_SECONDS or now >= session.began_at + LONGEST_SECONDS:
            self._end(session)
            return False
        session.caller = caller
        return True

    def _end(self, session: Session) -> None:
        session.has_ended = True
        self._sessions.pop(session.key, None)

    def _make_room(self, caller: Caller) -> None:
        for session in list(self._sessions.values()):
            self._is_open(session)
        own = [session for session in self._sessions.values() if session.caller.place == caller.place]
        if len(own) >= MOST_OF_ONE_CALLER:
            self._end(min(own, key=_used_at))
        elif len(self._sessions) >= MOST_SESSIONS:
            shares = Counter(session.caller.share for session in self._sessions.values())
            [(greatest, _)] = shares.most_common(1)
            theirs = [session for session in self._sessions.values() if session.caller.share == greatest]
            self._end(min(theirs, key=_used_at))


def _used_at(session: Session) -> float:
    return session.used_at


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
