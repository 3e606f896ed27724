"""The TLS sessions last made, by server: whoever resumes one skips the certificates and a key exchange. Pure.

A session is given out once. One whose handshake fails is thereby forgotten, so a server that chokes on what it handed
out itself is asked without one the next time; and an hour after a certificate was looked at, it is looked at again.
"""

import ssl
from collections import OrderedDict
from dataclasses import dataclass

MAX_SESSIONS = 1024
SESSION_SECONDS = 3600.0

Server = tuple[str, int]  # host and port


@dataclass(frozen=True, slots=True)
class Resumable:
    """A session, and when the certificate behind it was looked at (trio's clock)."""

    session: ssl.SSLSession
    verified_at: float


class Sessions:
    """Keeps at most one session for each server."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Server, Resumable] = OrderedDict()

    def take(self, server: Server, now: float) -> Resumable | None:
        """Take out the session of a server, if there is one that isn't too old."""
        kept = self._kept.pop(server, None)
        return kept if kept is not None and now - kept.verified_at < SESSION_SECONDS else None

    def put(self, server: Server, resumable: Resumable) -> None:
        """Keep a session for the next connection to the server."""
        self._kept.pop(server, None)
        self._kept[server] = resumable
        if len(self._kept) > MAX_SESSIONS:
            self._kept.popitem(last=False)
