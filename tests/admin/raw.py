"""Sends bytes to a port and parses the answers as strictly as possible."""

import re
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass

from tests.patience import PATIENCE_SECONDS

_STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) ?[^\r\n]*\r\n")


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes


def split_replies(received: bytes) -> tuple[list[Reply], bytes]:
    """Return the answers in order without informational ones, and the rest that is no whole answer."""
    replies: list[Reply] = []
    rest = received
    while rest:
        line = _STATUS_LINE.match(rest)
        head, found, after = rest.partition(b"\r\n\r\n")
        if line is None or not found:
            return replies, rest
        headers = {
            name.decode("latin-1").lower(): value.strip().decode("latin-1")
            for name, _, value in (header.partition(b":") for header in head.split(b"\r\n")[1:])
        }
        status = int(line[1])
        if status < 200:
            rest = after
            continue
        if headers.get("transfer-encoding") == "chunked":
            body, whole, after = _dechunked(after)
        elif "content-length" not in headers and status not in {204, 304}:
            body, whole, after = after, True, b""  # to the end of the connection, as HTTP/1.0 has it
        else:
            size = int(headers.get("content-length", 0))
            # The answer to HEAD says a length and has no body; what follows it starts like an answer.
            is_bodyless = status in {204, 304} or _STATUS_LINE.match(after) is not None or (size > 0 and not after)
            size = 0 if is_bodyless else size
            body, whole, after = after[:size], len(after) >= size, after[size:]
        if not whole:
            return replies, rest
        replies.append(Reply(status, headers, body))
        rest = after
    return replies, b""


def _dechunked(data: bytes) -> tuple[bytes, bool, bytes]:
    body = b""
    while True:
        line, found, data = data.partition(b"\r\n")
        if not found:
            return body, False, b""
        size = int(line, 16)
        if size == 0:
            return body, data.startswith(b"\r\n"), data[2:]
        body += data[:size]
        data = data[size + 2 :]


def exchange(
    address: tuple[str, int], parts: Iterable[bytes], *, seconds: float = PATIENCE_SECONDS
) -> tuple[list[Reply], bytes]:
    """Send bytes in parts, end our side, and return `split_replies` of all that arrives until the close."""
    with socket.create_connection(address, timeout=seconds) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            client.sendall(part)
        client.shutdown(socket.SHUT_WR)
        received = bytearray()
        given_up_at = time.monotonic() + seconds
        while chunk := client.recv(65_536):
            received += chunk
            if time.monotonic() > given_up_at:
                raise TimeoutError("the server didn't close the connection")
    return split_replies(bytes(received))
