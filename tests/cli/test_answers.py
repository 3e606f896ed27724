"""Whatever the server answers, or a client requests, a command fails without a traceback."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest

from tests.patience import PATIENCE_SECONDS
from webhookd.admin.webhook_schemas import Webhook
from webhookd.base.errors import CommandError
from webhookd.cli.api import Refused, Remote
from webhookd.cli.receiver import LocalReceiver, Received


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Yield the URL of a server that answers one request with these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)

        thread = Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def refused(headers: bytes, body: bytes) -> Refused:
    answer = b"HTTP/1.1 429 x\r\n" + headers + b"content-length: %d\r\n\r\n" % len(body) + body
    with answering(answer) as url, pytest.raises(Refused) as caught:
        Remote(url, None).get("/api/webhooks/wh_1", Webhook)
    return caught.value


def test_a_refusal_is_read_whatever_it_holds() -> None:
    """A Retry-After of thousands of digits is the maximum wait, and endless brackets are no problem document."""
    assert refused(b"retry-after: 7\r\n", b"{}").retry_after_seconds == 7
    assert refused(b"retry-after: " + b"9" * 5000 + b"\r\n", b"{}").retry_after_seconds == 86_400
    assert refused("retry-after: \u0663\r\n".encode(), b"{}").retry_after_seconds is None
    assert str(refused(b"", b'{"x":' + b"[" * 5000)) == "the server answered 429"


def test_an_answer_that_is_none_is_an_error_of_the_command() -> None:
    """An answer that is nested too deeply is an error of one sentence."""
    body = b'{"x":' + b"[" * 5000
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    with answering(answer) as url, pytest.raises(CommandError, match="is not this API's"):
        Remote(url, None).get("/api/webhooks/wh_1", Webhook)


@pytest.mark.parametrize(
    ("length", "status"),
    [(b"9" * 5000, 413), (b"2097153", 413), (b"-1", 411), ("\u0663".encode(), 411), (b"2", 200)],
    ids=["digits", "large", "negative", "arabic", "right"],
)
def test_the_receiver_of_listen_reads_a_length_or_refuses_it(length: bytes, status: int) -> None:
    """A Content-Length that is no number, or is too large, is answered without reading."""
    received: list[Received] = []

    def take(request: Received) -> int:
        received.append(request)
        return 200

    receiver = LocalReceiver("127.0.0.1", 0, take)
    receiver.start()
    try:
        with socket.create_connection(
            ("127.0.0.1", int(receiver.url.rpartition(":")[2])), timeout=PATIENCE_SECONDS
        ) as client:
            client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: " + length + b"\r\n\r\n{}")
            assert client.recv(65_536).startswith(b"HTTP/1.1 %d " % status)
    finally:
        receiver.stop()
    assert [request.body for request in received] == ([b"{}"] if status == 200 else [])
