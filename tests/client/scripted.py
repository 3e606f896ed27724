"""Servers in a thread with scripted answers: one on a socket, for each line, and one over HTTP, for each request."""

import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Answer = Callable[[dict[str, object]], dict[str, object] | None]


def accepted(event: dict[str, object]) -> dict[str, object]:
    return {"ok": True, "id": event["id"], "deliveries": 1, "duplicate": False}


def refused(code: str) -> dict[str, object]:
    return {"ok": False, "error": {"code": code, "message": "because"}}


def line_of(event: dict[str, object]) -> bytes:
    return json.dumps(accepted(event)).encode() + b"\n"


class ScriptedServer:
    """Serves one connection at a time with a scripted answer for each line; None closes the connection."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.answer = answer
        self.lines: list[dict[str, object]] = []
        self.connections = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        if self._connection is not None and self._connection.fileno() != -1:
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._connection = connection
            with contextlib.suppress(OSError), connection, connection.makefile("rwb") as stream:
                self._talk(stream)

    def _talk(self, stream: io.BufferedRWPair) -> None:
        for line in stream:
            self.lines.append(json.loads(line))
            answer = self.answer(self.lines[-1])
            if answer is None:
                return
            stream.write(json.dumps(answer).encode() + b"\n")
            stream.flush()


@contextlib.contextmanager
def scripted(path: Path, answer: Answer = accepted) -> Iterator[ScriptedServer]:
    server = ScriptedServer(path, answer)
    try:
        yield server
    finally:
        server.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An HTTP answer; without a `body` it has the results of all lines, or of the first `results` of them."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    results: int | None = None


@dataclass(slots=True)
class ScriptedHttp:
    """An HTTP server: `script` gets the request's number, from 0, and its lines."""

    script: Callable[[int, list[dict[str, object]]], Reply]
    url: str = ""
    requests: list[list[dict[str, object]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    asked_at: list[float] = field(default_factory=list)


@contextlib.contextmanager
def scripted_http(
    script: Callable[[int, list[dict[str, object]]], Reply] = lambda _nth, _lines: Reply(),
) -> Iterator[ScriptedHttp]:
    shared = ScriptedHttp(script)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            lines = [json.loads(line) for line in body.splitlines()]
            nth = len(shared.requests)
            shared.requests.append(lines)
            shared.asked_at.append(time.monotonic())
            shared.headers.append({name.lower(): value for name, value in self.headers.items()} | {"path": self.path})
            reply = shared.script(nth, lines)
            text = reply.body
            if text is None:
                text = b"".join(line_of(line) for line in lines[: reply.results])
            self.send_response(reply.status)
            self.send_header("content-length", str(len(text)))
            for name, value in reply.headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    shared.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield shared
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
