"""The sessions of signed-in browsers, found by the hash of the cookie's value.

A session is valid as long as the key or token that it began with, which is checked at each request. It also ends after
an hour without a request, and after 12 hours in any case. The number of sessions is bounded, for each key and in total.
At the total bound, the organization with the most sessions loses the one that was unused the longest, so that no
organization's sign-ins end the sessions of another; a caller without an organization counts by its key.

One server keeps its sessions in memory, and they end with the process. Several nodes have them in their database, where
each node finds them (see `session_rows`).
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from secrets import token_urlsafe
from typing import Protocol, TypeVar

from webhookd.admin.auth import Caller, KeyRing
from webhookd.base.secret import Secret

T = TypeVar("T")

IDLE_SECONDS = 3600.0
LONGEST_SECONDS = 12 * 3600.0
MOST_SESSIONS = 1000
MOST_OF_ONE_CALLER = 20
MOST_SECRETS = MOST_NOTICES = 10

_RANDOM_BYTES = 32


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """One signed-in browser; `BrowserSessions` alone changes it.

    `notices` are shown on the next page, and each of `secrets`, by name, on one page. `idle_seconds` is how long before
    this request it was used, as far as that is stored.
    """

    key: bytes
    caller: Caller
    csrf_token: str
    is_secure: bool
    idle_seconds: float = 0.0
    notices: list[str] = field(default_factory=list)
    secrets: dict[str, Secret[str]] = field(default_factory=dict)

    def vouches(self, csrf_token: str | None) -> bool:
        """Whether this is the CSRF token of the session's forms."""
        return csrf_token is not None and hmac.compare_digest(csrf_token.encode(), self.csrf_token.encode())


class SessionRows(Protocol):
    """Where sessions are kept: with their times, and within the bounds of their number."""

    async def add(self, session: Session, expires_at: float | None) -> None:
        """Keep a new session, and end others if there are too many; its key or token expires at that time."""
        ...

    async def find(self, key: bytes) -> Session | None:
        """Return a session, or None once it has ended or its time is over."""
        ...

    async def note_use(self, session: Session) -> None:
        """Note that a session is used now."""
        ...

    async def change(self, session: Session, change: Callable[[Session], T]) -> T | None:
        """Change the notices and secrets of a session, and return what `change` returns; None once it has ended.

        `change` gets the session as it is kept by then, and may be called more than once.
        """
        ...

    async def delete(self, session: Session) -> None:
        """End a session, which may have ended already."""
        ...


class BrowserSessions:
    """The open sessions, which are kept in `rows`.

    `follow_changes` brings `keys` up to date with what other nodes have changed.
    """

    def __init__(
        self,
        keys: KeyRing,
        wall_time: Callable[[], float],
        rows: SessionRows,
        follow_changes: Callable[[], Awaitable[None]],
    ) -> None:
        self.rows = rows
        self._keys = keys
        self._wall_time = wall_time
        self._follow_changes = follow_changes

    async def begin(self, caller: Caller, *, is_secure: bool) -> str:
        """Begin a session of a caller that has just been authenticated; return the value of its cookie."""
        text = token_urlsafe(_RANDOM_BYTES)
        session = Session(key=_hash(text), caller=caller, csrf_token=token_urlsafe(_RANDOM_BYTES), is_secure=is_secure)
        await self.rows.add(session, self._keys.expires_at(caller))
        return text

    async def find(self, text: str, *, is_secure: bool) -> Session | None:
        """Return the session of a request's cookie and count this as its use; None once it has ended.

        A session that began over TLS is found by a secure request alone, and one that began without TLS by the others.
        Raises Rejected KEYS_OUTDATED if its key may have been revoked without this node's knowledge.
        """
        session = await self.rows.find(_hash(text))
        if session is None or session.is_secure is not is_secure or not await self._is_in_force(session):
            return None
        await self.rows.note_use(session)
        return session

    async def is_open(self, session: Session) -> bool:
        """Whether a session is still valid, which doesn't count as its use; delete it when it isn't.

        Raises Rejected as `find`.
        """
        return await self.rows.find(session.key) is not None and await self._is_in_force(session)

    async def end(self, session: Session) -> None:
        """End a session, which may have ended already."""
        await self.rows.delete(session)

    async def add_notice(self, session: Session, notice: str) -> None:
        """Have a notice shown on the next page; the last `MOST_NOTICES` are kept."""

        def add(kept: Session) -> None:
            kept.notices = [*kept.notices, notice][-MOST_NOTICES:]

        await self.rows.change(session, add)

    async def take_notices(self, session: Session) -> list[str]:
        """Return and delete the notices."""
        if not session.notices:
            return []

        def take(kept: Session) -> list[str]:
            taken, kept.notices = kept.notices, []
            return taken

        return await self.rows.change(session, take) or []

    async def put_secret(self, session: Session, name: str, secret: Secret[str]) -> None:
        """Keep a new secret for the page that shows it once; the last `MOST_SECRETS` are kept."""

        def put(kept: Session) -> None:
            while len(kept.secrets) >= MOST_SECRETS:
                del kept.secrets[next(iter(kept.secrets))]
            kept.secrets[name] = secret

        await self.rows.change(session, put)

    async def take_secret(self, session: Session, name: str) -> Secret[str] | None:
        """Return and delete a new secret; None after it was shown."""
        if name not in session.secrets:
            return None
        return await self.rows.change(session, lambda kept: kept.secrets.pop(name, None))

    async def _is_in_force(self, session: Session) -> bool:
        """Whether the session's key or token is, with its present rights; end the session if it isn't."""
        caller = self._keys.caller_now(session.caller, self._wall_time())
        if caller is None:
            # Another node may have made the key, and begun the session, a moment ago.
            await self._follow_changes()
            caller = self._keys.caller_now(session.caller, self._wall_time())
        if caller is None:
            await self.rows.delete(session)
            return False
        session.caller = caller
        return True


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
