"""Events over HTTP: the unsent lines are one request as NDJSON, and its answer is read as results of them, in order.

The blocking links are here, and what they share with those of `aio`. A request that ends without all its results has
lost them, as a connection does: what has none is sent again.
"""

import ssl
import time

import httpx

from webhookd.base.errors import ErrorCode
from webhookd.base.version import VERSION
from webhookd.client.answers import Lost, read_failure
from webhookd.client.outbox import Outbox
from webhookd.client.socket import seconds_left

# Said of the key.
FINAL_CODES = frozenset({ErrorCode.UNAUTHORIZED})
# Half of what nginx takes by default; a larger event goes alone.
_MOST_REQUEST_BYTES = 524_288
_PATH = "/api/events"


class EventBatches:
    """Cuts an outbox into requests, smaller ones where a proxy takes no larger."""

    def __init__(self) -> None:
        self._most_bytes = _MOST_REQUEST_BYTES
        self._count = 0

    def take(self, outbox: Outbox) -> bytes:
        """Return the lines of the next request."""
        before = outbox.unsent
        lines = outbox.take_unsent(self._most_bytes)
        self._count = before - outbox.unsent
        return lines

    def refused(self, outbox: Outbox, response: httpx.Response) -> Lost:
        """Read an answer other than 200, whose body was read: fail all events of the outbox, or say that it is lost."""
        if response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE and self._count > 1:
            self._most_bytes //= 2
            return Lost("HTTP 413: the request is too large for the server or a proxy before it")
        failure = read_failure(response.status_code, response.headers, response.content, time.time())
        if isinstance(failure, Lost):
            return failure
        outbox.fail(failure)
        return Lost(failure.detail)


def headers(key: str | None) -> dict[str, str]:
    """Return the headers of each request."""
    given = {"content-type": "application/x-ndjson", "user-agent": f"webhookd-client/{VERSION}"}
    return given if key is None else given | {"authorization": f"Bearer {key}"}


def tls(url: str, ssl_context: ssl.SSLContext | None) -> ssl.SSLContext | bool:
    """Return what httpx is to verify with; making a context is slow, so it is made where it is needed, and once."""
    if not url.startswith("https:"):
        return False
    return ssl_context or httpx.create_ssl_context()


def address(url: str) -> str:
    """Return where events go to, given the URL of the server or of the path it is served under."""
    return url.rstrip("/") + _PATH


class HttpLinks:
    """Links to one server, which share a pool of connections."""

    final_codes = FINAL_CODES

    def __init__(self, url: str, key: str | None, ssl_context: ssl.SSLContext | None) -> None:
        self.address = address(url)
        self._headers = headers(key)
        self._tls = tls(url, ssl_context)
        self.client = self._new_client()

    def link(self) -> "HttpLink":
        """Return a new link."""
        return HttpLink(self)

    def close(self) -> None:
        """Close the connections; the next request makes others."""
        before, self.client = self.client, self._new_client()
        before.close()

    def _new_client(self) -> httpx.Client:
        return httpx.Client(headers=self._headers, verify=self._tls)


class HttpLink:
    """One request at a time."""

    def __init__(self, links: HttpLinks) -> None:
        self._links = links
        self._batches = EventBatches()

    def close(self) -> None:
        """Do nothing: the pool drops a connection by itself that a request has left in disorder."""

    def step(self, outbox: Outbox, *, wait: bool) -> bool:
        """Make one request of what is unsent, if `wait`, and take its results; return whether it was made.

        Raises Lost.
        """
        if not wait:
            # More may be coming, for the same request.
            return False
        lines = self._batches.take(outbox)
        try:
            with self._links.client.stream(
                "POST", self._links.address, content=lines, timeout=seconds_left(outbox)
            ) as response:
                if response.status_code != httpx.codes.OK:
                    response.read()
                    raise self._batches.refused(outbox, response)
                for chunk in response.iter_raw():
                    outbox.receive(chunk, time.monotonic())
                    outbox.expire(time.monotonic())
        except httpx.HTTPError as error:
            raise Lost(said(error)) from error
        outbox.end_answer()
        return True


def said(error: httpx.HTTPError) -> str:
    """Return what to tell of an error of httpx, some of which have no text."""
    return str(error) or type(error).__name__
