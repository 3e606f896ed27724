"""A small HTTP receiver with threads, for `listen` and `demo`: passes each request to a function that answers it.

It is for a developer's machine: its only limit is the size of a request.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from threading import Lock, Thread
from typing import cast

from webhookd.base.errors import CommandError

_MOST_BODY_BYTES = 2_097_152
_LONGEST_NUMBER = 9
_IDLE_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A request; header names are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


class LocalReceiver:
    """Listens from its creation on; `take` is called with one request at a time, and returns the status of the answer.

    Raises CommandError if the address can't be used.
    """

    def __init__(self, host: str, port: int, take: Callable[[Received], int]) -> None:
        try:
            self._server = _Server(host, port, take)
        except OSError as error:
            raise CommandError(f"can't listen on {host} port {port}: {error.strerror or error}") from error
        place = f"[{host}]" if ":" in host else host
        self.url = f"http://{place}:{self._server.server_address[1]}"

    def run(self) -> None:
        """Answer requests until `stop` is called in another thread, or an interrupt."""
        try:
            self._server.serve_forever(poll_interval=0.05)
        finally:
            self._server.server_close()

    def start(self) -> None:
        """Answer requests in a new thread."""
        Thread(target=self.run, daemon=True).start()

    def stop(self) -> None:
        """Stop listening; requests in progress are cut off with the process."""
        self._server.shutdown()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_port = False  # newer versions of Python set it, and then a port in use is no error

    def __init__(self, host: str, port: int, take: Callable[[Received], int]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._take = take
        self._lock = Lock()
        super().__init__((host, port), _Conversation)

    def take(self, request: Received) -> int:
        """Pass one request at a time to `take`."""
        with self._lock:
            return self._take(request)

    def server_bind(self) -> None:
        # HTTPServer also looks up this machine's full name, which may take long.
        TCPServer.server_bind(self)


class _Conversation(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS

    def do_POST(self) -> None:
        """Read a request's body, pass the request on, and answer."""
        length = self.headers.get("content-length", "")
        is_number = length.isascii() and length.isdecimal()
        # Python refuses to convert thousands of digits.
        size = int(length) if is_number and len(length) <= _LONGEST_NUMBER else _MOST_BODY_BYTES + 1
        if size > _MOST_BODY_BYTES:
            self.close_connection = True
            self._answer(413 if is_number else 411)
            return
        body = self.rfile.read(size)
        if len(body) == size:
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver = cast("_Server", self.server)
            self._answer(receiver.take(Received(path=self.path, headers=headers, body=body)))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Print nothing: the caller decides what is printed."""

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()
