"""The scriptable receiver of the tests answers, misbehaves and records as its script says."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.patience import PATIENCE_SECONDS
from tests.receiver import Act, Receiver, Reply, Request, in_turn, steps

REQUEST = b"POST /hook HTTP/1.1\r\nhost: x\r\nX-Thing: 1\r\ncontent-length: 2\r\n\r\n{}"


def request(number: int = 1) -> Request:
    return Request(number=number, connection=1, at=0.0, method="POST", path="/", headers={}, raw_headers=(), body=b"")


async def ask_once(receiver: Receiver, patience_seconds: float = PATIENCE_SECONDS) -> bytes:
    async with await trio.open_tcp_stream("127.0.0.1", receiver.port) as stream:
        return await ask(stream, patience_seconds)


async def ask(stream: trio.SocketStream, patience_seconds: float = PATIENCE_SECONDS) -> bytes:
    await stream.send_all(REQUEST)
    with trio.move_on_after(patience_seconds):
        answer = b""
        while chunk := await stream.receive_some(65536):
            answer += chunk
            if answer.endswith(b"\r\n\r\n"):
                return answer
        return answer + b"<EOF>"
    return b"<silence>"


def test_steps_read_statuses_words_delays_headers_and_times() -> None:
    """`steps` answers each request with its step, and repeats the last one."""
    script = steps("500*2,429@0.5;retry-after=1;webhook-delivery=abort,hang,200")
    replies = [script(request(), nth) for nth in range(1, 8)]
    assert [reply.status for reply in replies[:3]] == [500, 500, 429]
    assert replies[2].headers == (("retry-after", "1"), ("webhook-delivery", "abort"))
    assert replies[2].delay_seconds == 0.5
    assert replies[3].act is Act.HANG
    assert {reply.status for reply in replies[4:]} == {200}


async def test_keep_alive_requests_are_recorded(nursery: trio.Nursery) -> None:
    """Requests on one connection are recorded with its number, their path, headers and raw body."""
    receiver: Receiver = await nursery.start(Receiver(steps("500,200")).run)
    async with await trio.open_tcp_stream("127.0.0.1", receiver.port) as stream:
        assert (await ask(stream)).startswith(b"HTTP/1.1 500 Internal Server Error")
        assert (await ask(stream)).startswith(b"HTTP/1.1 200 OK")
    with trio.fail_after(PATIENCE_SECONDS):
        first, second = await receiver.wait_for(2)
    assert (first.connection, second.connection, receiver.connections) == (1, 1, 1)
    assert (first.method, first.path, first.body, first.headers["x-thing"]) == ("POST", "/hook", b"{}", "1")
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(act=Act.HANG), b"<silence>"),
        (Reply(act=Act.CLOSE), b"<EOF>"),
        (Reply(act=Act.CUT), b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nhalf of it<EOF>"),
        (Reply(act=Act.GARBAGE), b"\x00\xffthis is not HTTP\r\n\r\n"),
        (Reply(raw=b"HTTP/1.1 2"), b"HTTP/1.1 2<EOF>"),
    ],
)
async def test_the_receiver_misbehaves_as_scripted(nursery: trio.Nursery, reply: Reply, expected: bytes) -> None:
    """A client sees the receiver hang, close the connection, cut off a body, or send invalid HTTP."""
    receiver: Receiver = await nursery.start(Receiver(in_turn(reply)).run)
    assert await ask_once(receiver, 0.2 if reply.act is Act.HANG else 5) == expected
    nursery.cancel_scope.cancel()


async def test_reset_is_a_reset(nursery: trio.Nursery) -> None:
    """The client sees a reset as ECONNRESET, not as an end of file."""
    receiver: Receiver = await nursery.start(Receiver(steps("reset")).run)
    with pytest.raises(trio.BrokenResourceError) as caught:
        await ask_once(receiver)
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    nursery.cancel_scope.cancel()


def test_process_logs_each_request_before_it_answers(tmp_path: Path) -> None:
    """The log file of the receiver process contains a request before its answer arrives."""
    log = tmp_path / "requests.jsonl"
    command = [sys.executable, "-m", "tests.receiver", "--log", str(log), "--script", "200"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with socket.create_connection(
            ("127.0.0.1", int(url.rpartition(":")[2])), timeout=PATIENCE_SECONDS
        ) as connection:
            connection.sendall(REQUEST)
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        (line,) = log.read_text().splitlines()
        process.send_signal(signal.SIGKILL)
    assert json.loads(line)["body"] == "{}"
