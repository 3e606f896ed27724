"""Who has signed in: sessions in memory, found by the hash of what the browser's cookie holds.

A session is as good as the key or token that it was begun with, and is asked so at each request: one that was revoked
or has expired ends it. It also ends after an hour without a request, after 12 hours in any case, and with the process.
Their number is bounded, for each key and over all. Where there are too many over all, the one unused the longest goes
of the organization that has most of them, so that nobody's sign-ins end another's sessions; who belongs to no
organization counts by key. Every method is one synchronous step.
"""

import hashlib
import hmac
import os
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from webhookd.admin.auth import Caller, KeyRing
from webhookd.base.secret import Secret

IDLE_SECONDS = 3600.0
LONGEST_SECONDS = 12 * 3600.0
MOST_SESSIONS = 1000
MOST_OF_ONE_CALLER = 20
MOST_SHOWN_ONCE = MOST_NOTICES = 10

_RANDOM_BYTES = 32


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """One browser that has signed in; `notices` wait to be shown on the next page, secrets to be shown once."""

    key: bytes
    caller: Caller
    csrf_token: str
    is_secure: bool
    began_at: float
    used_at: float
    has_ended: bool = False
    notices: list[str] = field(default_factory=list)
    _shown_once: dict[str, Secret[str]] = field(default_factory=dict)

    def say(self, notice: str) -> None:
        """Have something said on the next page; of many the latest."""
        self.notices = [*self.notices, notice][-MOST_NOTICES:]

    def take_notices(self) -> list[str]:
        """Return what is to be said once."""
        taken, self.notices = self.notices, []
        return taken

    def show_once(self, name: str, secret: Secret[str]) -> None:
        """Keep a secret that has just been made for the page that shows it; one that nobody looked at makes room."""
        while len(self._shown_once) >= MOST_SHOWN_ONCE:
            del self._shown_once[next(iter(self._shown_once))]
        self._shown_once[name] = secret

    def take_shown_once(self, name: str) -> Secret[str] | None:
        """Return the secret, which is gone from here with that; None where it was shown already."""
        return self._shown_once.pop(name, None)

    def vouches(self, csrf_token: str | None) -> bool:
        """Whether this is the CSRF token of the forms that were shown to the signed-in browser."""
        return csrf_token is not None and hmac.compare_digest(csrf_token.encode(), self.csrf_token.encode())


class BrowserSessions:
    """The sessions there are. Their times run on the loop's own clock, which nobody sets."""

    def __init__(
        self,
        keys: KeyRing,
        wall_time: Callable[[], float],
        *,
        clock: Callable[[], float] = trio.current_time,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._keys = keys
        self._wall_time = wall_time
        self._clock = clock
        self._random_bytes = random_bytes
        self._sessions: dict[bytes, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, caller: Caller, *, is_secure: bool) -> str:
        """Begin a session of a caller who has just been identified; return what the cookie is to hold."""
        self._make_room(caller)
        text, now = self._token(), self._clock()
        key = _hash(text)
        self._sessions[key] = Session(
            key=key, caller=caller, csrf_token=self._token(), is_secure=is_secure, began_at=now, used_at=now
        )
        return text

    def find(self, text: str, *, is_secure: bool) -> Session | None:
        """Return the session of a request's cookie, which counts as its use; None once it has ended.

        A cookie of the other kind is none: what came in the clear opens nothing that was begun under TLS.
        """
        session = self._sessions.get(_hash(text))
        if session is None or session.is_secure is not is_secure or not self.is_open(session):
            return None
        session.used_at = self._clock()
        return session

    def is_open(self, session: Session) -> bool:
        """Whether a session goes on; one that doesn't is forgotten. Asking is no use of it."""
        if session.has_ended:
            return False
        now = self._clock()
        caller = self._keys.caller_now(session.caller, self._wall_time())
        if caller is None or now >= session.used_at + IDLE_SECONDS or now >= session.began_at + LONGEST_SECONDS:
            self.end(session)
            return False
        session.caller = caller
        return True

    def end(self, session: Session) -> None:
        """End a session; one that has ended is no error."""
        session.has_ended = True
        self._sessions.pop(session.key, None)

    def _make_room(self, caller: Caller) -> None:
        for session in list(self._sessions.values()):
            self.is_open(session)
        own = [session for session in self._sessions.values() if session.caller.place == caller.place]
        if len(own) >= MOST_OF_ONE_CALLER:
            self.end(min(own, key=_used_at))
        elif len(self._sessions) >= MOST_SESSIONS:
            shares = Counter(session.caller.share for session in self._sessions.values())
            [(greatest, _)] = shares.most_common(1)
            theirs = [session for session in self._sessions.values() if session.caller.share == greatest]
            self.end(min(theirs, key=_used_at))

    def _token(self) -> str:
        return urlsafe_b64encode(self._random_bytes(_RANDOM_BYTES)).decode().rstrip("=")


def _used_at(session: Session) -> float:
    return session.used_at


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
