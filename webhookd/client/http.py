"""Events over HTTP: a request has the unsent events as NDJSON lines, and its answer their results, in order.

The blocking links are here, and what they share with those of `aio`. If an answer ends before all results, the events
without a result are sent again, as after a lost connection.
"""

import ssl
import time

import httpx

from webhookd.base.errors import ErrorCode
from webhookd.base.version import VERSION
from webhookd.client.answers import Lost, read_failure
from webhookd.client.outbox import Outbox
from webhookd.client.socket import seconds_left

# They refuse the producer and not an event: its key is not accepted.
FINAL_CODES = frozenset({ErrorCode.UNAUTHORIZED})
# Half of nginx's default limit; a larger event is a request of its own.
_MOST_REQUEST_BYTES = 524_288
_PATH = "/api/events"


class EventBatches:
    """Divides an outbox into requests, smaller ones if a proxy refuses their size."""

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
        """Return the error for an answer other than 200, whose body was read; fails all events if they are refused."""
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
    """Return the `verify` argument for httpx; creating a context is slow, so it is done once and only for HTTPS."""
    if not url.startswith("https:"):
        return False
    return ssl_context or httpx.create_ssl_context()


def address(url: str) -> str:
    """Return the URL for events, given the URL of the server or of the path under which it is served."""
    return url.rstrip("/") + _PATH


class HttpLinks:
    """Links to one server, which share a pool of connections."""

    def __init__(self, url: str, key: str | None, ssl_context: ssl.SSLContext | None) -> None:
        self.address = address(url)
        self._headers = headers(key)
        self._tls = tls(url, ssl_context)
        self.client = self._new_client()

    def link(self) -> "HttpLink":
        """Return a new link."""
        return HttpLink(self)

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        before, self.client = self.client, self._new_client()
        before.close()

    def _new_client(self) -> httpx.Client:
        return httpx.Client(headers=self._headers, verify=self._tls)


class HttpLink:
    """Makes one request at a time."""

    final_codes = FINAL_CODES

    def __init__(self, links: HttpLinks) -> None:
        self._links = links
        self._batches = EventBatches()

    def close(self) -> None:
        """Do nothing: the pool discards a connection after a failed request by itself."""

    def step(self, outbox: Outbox, *, wait: bool) -> bool:
        """With `wait`, send the unsent events in one request and read its results; return whether a request was made.

        Raises Lost if the request fails.
        """
        if not wait:
            # More events may follow, for the same request.
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
            raise Lost(error_text(error)) from error
        outbox.end_answer()
        return True


def error_text(error: httpx.HTTPError) -> str:
    """Return the text of an error of httpx, or its name: some have no text."""
    return str(error) or type(error).__name__
