"""Where the dashboard's sessions are kept: in memory, or in the database that several nodes share.

In memory their times are those of the event loop's clock, which nobody can set. In the database they are those of the
database, and a session's use is stored at most once a minute: an idle session may end a minute early, and most requests
cost one read. Each request reads the row, so a session that was ended at one node is ended at all of them.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import trio

from webhookd.admin.auth import Caller, KeyRing
from webhookd.base.secret import Secret
from webhookd.crypto.vault import Vault
from webhookd.dashboard.sessions import (
    IDLE_SECONDS,
    LONGEST_SECONDS,
    MOST_OF_ONE_CALLER,
    MOST_SESSIONS,
    Session,
)
from webhookd.journal import NewSession, SessionLimits, Sessions

T = TypeVar("T")

USE_NOTED_SECONDS = 60.0

_LIMITS = SessionLimits(
    idle_seconds=IDLE_SECONDS,
    longest_seconds=LONGEST_SECONDS,
    most_of_one_caller=MOST_OF_ONE_CALLER,
    most=MOST_SESSIONS,
)


@dataclass(slots=True, eq=False)
class KeptSession:
    """A session in memory, and when it began and was used last."""

    session: Session
    began_at: float
    used_at: float


class MemorySessions:
    """The sessions of one server. Each method yields first and then works in one step."""

    def __init__(
        self,
        keys: KeyRing,
        wall_time: Callable[[], float],
        *,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.all: dict[bytes, KeptSession] = {}
        self._keys = keys
        self._wall_time = wall_time
        self._clock = clock

    async def add(self, session: Session, expires_at: float | None) -> None:  # noqa: ARG002 - the key is looked up
        """Keep a new session; at a bound, the one that was unused the longest ends."""
        await trio.lowlevel.checkpoint()
        self._make_room(session.caller)
        now = self._clock()
        self.all[session.key] = KeptSession(session, began_at=now, used_at=now)

    async def find(self, key: bytes) -> Session | None:
        """Return a session, or None once it has ended or its time is over."""
        await trio.lowlevel.checkpoint()
        kept = self.all.get(key)
        if kept is None or self._is_over(kept):
            self.all.pop(key, None)
            return None
        return kept.session

    async def note_use(self, session: Session) -> None:
        """Note that a session is used now."""
        self.all[session.key].used_at = self._clock()  # found in this step

    async def change(self, session: Session, change: Callable[[Session], T]) -> T | None:
        """Change a session, and return what `change` returns."""
        await trio.lowlevel.checkpoint()
        return change(session)

    async def delete(self, session: Session) -> None:
        """End a session."""
        await trio.lowlevel.checkpoint()
        self.all.pop(session.key, None)

    def _is_over(self, kept: KeptSession) -> bool:
        now = self._clock()
        return now >= kept.used_at + IDLE_SECONDS or now >= kept.began_at + LONGEST_SECONDS

    def _make_room(self, caller: Caller) -> None:
        for kept in list(self.all.values()):
            if self._is_over(kept) or self._keys.caller_now(kept.session.caller, self._wall_time()) is None:
                del self.all[kept.session.key]
        own = [kept for kept in self.all.values() if kept.session.caller.place == caller.place]
        if len(own) >= MOST_OF_ONE_CALLER:
            self._end_oldest(own)
        elif len(self.all) >= MOST_SESSIONS:
            shares = Counter(kept.session.caller.share for kept in self.all.values())
            [(greatest, _)] = shares.most_common(1)
            self._end_oldest([kept for kept in self.all.values() if kept.session.caller.share == greatest])

    def _end_oldest(self, sessions: list[KeptSession]) -> None:
        oldest = min(sessions, key=lambda kept: kept.used_at)
        del self.all[oldest.session.key]


class _Content(msgspec.Struct, array_like=True):
    """What is sealed of a session."""

    caller: Caller
    csrf_token: str
    is_secure: bool
    notices: list[str]
    secrets: dict[str, str]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Content)


class SharedSessions:
    """The sessions of several nodes, sealed in the rows of their database."""

    def __init__(self, stored: Sessions, vault: Vault) -> None:
        self._stored = stored
        self._vault = vault

    async def add(self, session: Session, expires_at: float | None) -> None:
        """Store a new session; at a bound, the one that was unused the longest ends."""
        caller = session.caller
        new = NewSession(key=session.key, place=caller.place, share=caller.share, expires_at=expires_at)
        await self._stored.begin(self._vault, new, _encoded(session), _LIMITS)

    async def find(self, key: bytes) -> Session | None:
        """Return a session, or None once it has ended or its time is over."""
        found = await self._stored.find(self._vault, key, IDLE_SECONDS)
        return None if found is None else _decoded(key, found.content, found.idle_seconds)

    async def note_use(self, session: Session) -> None:
        """Store that a session is used now, unless that was done less than a minute ago; nobody waits for it."""
        if session.idle_seconds >= USE_NOTED_SECONDS:
            self._stored.note_use(session.key, USE_NOTED_SECONDS)

    async def change(self, session: Session, change: Callable[[Session], T]) -> T | None:
        """Change what is stored of a session, and return what `change` returns; None once it has ended."""

        def changed(content: bytes) -> tuple[bytes, T]:
            kept = _decoded(session.key, content)
            result = change(kept)
            return _encoded(kept), result

        return await self._stored.change(self._vault, session.key, changed)

    async def delete(self, session: Session) -> None:
        """End a session, at every node."""
        await self._stored.end(session.key)


def _encoded(session: Session) -> bytes:
    secrets = {name: secret.reveal() for name, secret in session.secrets.items()}
    return _encoder.encode(_Content(session.caller, session.csrf_token, session.is_secure, session.notices, secrets))


def _decoded(key: bytes, content: bytes, idle_seconds: float = 0.0) -> Session:
    kept = _decoder.decode(content)
    return Session(
        key=key,
        caller=kept.caller,
        csrf_token=kept.csrf_token,
        is_secure=kept.is_secure,
        idle_seconds=idle_seconds,
        notices=kept.notices,
        secrets={name: Secret(text) for name, text in kept.secrets.items()},
    )
