"""The ingest server: draining, the connection limit, allowed peers, and the socket file."""

import json
import os
import socket
from pathlib import Path

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from tests.ingest.fakes import FakePublisher
from tests.ingest.producer import code, connected, eventually, ids, line, serving
from tests.patience import PATIENCE_SECONDS


async def test_drain_answers_what_was_taken_and_closes(path: Path) -> None:
    """Draining: no new connections or lines, a result for each line that was read, then the end; no socket file."""
    publisher = FakePublisher(holds=True)
    async with serving(path, publisher) as server, connected(path) as producer, connected(path) as idle:
        await producer.send(line(1) + line(2))
        await eventually(lambda: len(publisher.tickets) == 2 and server.connections == 2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.drain, 5)
            assert await idle.rest() == []
            await producer.send(line(3))
            with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
                await trio.open_unix_socket(path)
            publisher.complete(0)
            publisher.complete(1)
            assert ids(await producer.results(2)) == ["evt_1", "evt_2"]
        assert not await trio.Path(path).exists()
        assert len(publisher.events) == 2


async def test_drain_refuses_lines_that_wait_for_room(path: Path) -> None:
    """A line that waits for room when the server stops gets a refusal, not no answer."""
    publisher = FakePublisher()
    publisher.has_room = trio.Event()
    async with serving(path, publisher) as server, connected(path) as producer:
        await producer.send(line(1) + line(2))
        await trio.testing.wait_all_tasks_blocked(0.02)
        with trio.fail_after(PATIENCE_SECONDS):
            await server.drain(5)
        assert [code(result) for result in await producer.rest()] == ["SHUTTING_DOWN"] * 2
    assert publisher.events == []


async def test_drain_gives_up_at_its_deadline(path: Path) -> None:
    """A commit that never ends doesn't delay the shutdown."""
    publisher = FakePublisher(holds=True)
    async with serving(path, publisher) as server, connected(path) as producer:
        await producer.send(line(1))
        await eventually(lambda: len(publisher.tickets) == 1)
        with capture_logs() as logs, trio.fail_after(PATIENCE_SECONDS):
            await server.drain(0.05)
        assert await producer.rest() == []
    assert [each["event"] for each in logs] == ["ingest.drain_cut_off"]


async def test_connections_are_capped(path: Path) -> None:
    """A connection over the limit gets an error line and is closed; when another one closes, there is room again."""
    async with serving(path, FakePublisher(), max_connections=2) as server:
        async with connected(path), connected(path):
            await eventually(lambda: server.connections == 2)
            async with connected(path) as third:
                (refusal,) = await third.rest()
                assert code(refusal) == "RATE_LIMITED"
        await eventually(lambda: server.connections == 0)
        async with connected(path) as again:
            await again.send(line(1))
            assert (await again.result())["ok"] is True


OTHER = 61_234


@pytest.mark.parametrize("uids", [(OTHER,), ()])
async def test_producers_that_come_again_and_again_do_not_fill_the_log(path: Path, uids: tuple[int, ...]) -> None:
    """However many connections are refused, the log has at most one line a second."""
    async with serving(path, FakePublisher(), allowed_uids=uids, max_connections=1) as server, connected(path):
        if not uids:
            await eventually(lambda: server.connections == 1)
        began = trio.current_time()
        with capture_logs() as logs:
            for _ in range(100):
                async with connected(path) as producer:
                    assert len(await producer.rest()) == 1
        assert 1 <= len(logs) <= 1 + (trio.current_time() - began)
        assert logs[0]["connections"] == 1


@pytest.mark.parametrize(
    ("uids", "gids", "is_served"),
    [
        ((os.getuid(),), (), True),
        ((OTHER,), (), False),
        ((), ((os.getgroups() or [os.getgid()])[-1],), True),
        ((), (os.getgid(),), True),
        ((), (OTHER,), False),
        ((OTHER,), (os.getgid(),), True),
    ],
)
async def test_peers_are_held_against_the_lists(
    path: Path, uids: tuple[int, ...], gids: tuple[int, ...], *, is_served: bool
) -> None:
    """A peer that is not in the lists gets one FORBIDDEN line and is closed; an allowed one is served."""
    publisher = FakePublisher()
    async with serving(path, publisher, allowed_uids=uids, allowed_gids=gids), connected(path) as producer:
        if is_served:
            await producer.send(line(1))
            assert (await producer.result())["ok"] is True
        else:
            (refusal,) = await producer.rest()
            assert code(refusal) == "FORBIDDEN"
    assert len(publisher.events) == int(is_served)


async def test_refused_peer_that_already_wrote_still_reads_why(path: Path) -> None:
    """A client that writes before it reads gets the refusal, not just a connection reset."""
    async with serving(path, FakePublisher(), allowed_uids=(OTHER,)):
        client = socket.socket(socket.AF_UNIX)
        with client:
            client.connect(str(path))
            client.sendall(line(1))
            client.setblocking(False)
            async with trio.SocketStream(trio.socket.from_stdlib_socket(client.dup())) as stream:
                with trio.fail_after(PATIENCE_SECONDS):
                    first = await stream.receive_some(1000)
    assert code(json.loads(first)) == "FORBIDDEN"
    assert first.endswith(b"\n")


async def test_socket_file_of_another_is_not_removed(path: Path) -> None:
    """At its end the server removes its own socket file, but not one that has replaced it."""
    async with serving(path, FakePublisher()):
        await trio.Path(path).unlink()
        await trio.Path(path).write_text("somebody else's")
    assert await trio.Path(path).read_text() == "somebody else's"
