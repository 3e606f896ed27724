"""The latest TLS session of each server: resuming one saves the certificates and a key exchange. Pure.

A session is taken out once. So a session whose handshake fails is gone, and the next connection is made without one. A
session expires with the connection on which the certificate was checked, and so do the connections that resume it: none
is used for longer than the maximum age after that check.
"""

import ssl
from collections import OrderedDict
from dataclasses import dataclass

MAX_SESSIONS = 1024

Server = tuple[str, int]  # host and port


@dataclass(frozen=True, slots=True)
class Resumable:
    """A session, and when its certificate must be checked again (trio's clock)."""

    session: ssl.SSLSession
    expires_at: float


class TlsSessions:
    """Keeps at most one session for each server."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Server, Resumable] = OrderedDict()

    def take(self, server: Server, now: float) -> Resumable | None:
        """Take out the session of a server; None if there is none or it has expired."""
        kept = self._kept.pop(server, None)
        return kept if kept is not None and now < kept.expires_at else None

    def put(self, server: Server, resumable: Resumable) -> None:
        """Keep a session for the next connection to the server."""
        self._kept.pop(server, None)
        self._kept[server] = resumable
        if len(self._kept) > MAX_SESSIONS:
            self._kept.popitem(last=False)
