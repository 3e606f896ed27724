"""The TLS sessions last made, by server: whoever resumes one skips the certificates and a key exchange. Pure.

A session is given out once. One whose handshake fails is thereby forgotten, so a server that chokes on what it handed
out itself is asked without one the next time. It expires with the connection on which the certificate was looked at,
and so do the connections that are resumed with it: none outlives the greatest age of a look at its certificate.
"""

import ssl
from collections import OrderedDict
from dataclasses import dataclass

MAX_SESSIONS = 1024

Server = tuple[str, int]  # host and port


@dataclass(frozen=True, slots=True)
class Resumable:
    """A session, and from when on (trio's clock) the certificate behind it has to be looked at again."""

    session: ssl.SSLSession
    expires_at: float


class TlsSessions:
    """Keeps at most one session for each server."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Server, Resumable] = OrderedDict()

    def take(self, server: Server, now: float) -> Resumable | None:
        """Take out the session of a server, if there is one that has not expired."""
        kept = self._kept.pop(server, None)
        return kept if kept is not None and now < kept.expires_at else None

    def put(self, server: Server, resumable: Resumable) -> None:
        """Keep a session for the next connection to the server."""
        self._kept.pop(server, None)
        self._kept[server] = resumable
        if len(self._kept) > MAX_SESSIONS:
            self._kept.popitem(last=False)
