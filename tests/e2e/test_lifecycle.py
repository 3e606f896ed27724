"""Start and stop as an operator sees them: readiness, drain, a second signal, and failed starts."""

import shutil
import socket
import stat
from pathlib import Path

import httpx
import pytest
import trio

from tests.e2e.harness import CONFIG, PROGRAM, Server, running
from tests.forked import run_soon
from tests.patience import PATIENCE_SECONDS
from tests.receiver import Receiver, Reply, always, steps
from webhookd.client import Client, ServerUnavailable

# Longer than the tests wait: a drain that waits for a hanging request fails them.
PATIENT = CONFIG.replace("drain_seconds = 10", "drain_seconds = 600")

ARENA_BYTES = 64 * 1024 * 1024


async def refused_start(directory: Path) -> tuple[int, str]:
    """Run `serve` with a configuration that can't start; return its status and stderr."""
    result = await run_soon([*PROGRAM, "serve", "--config", str(directory / "config.toml")])
    assert result.stdout == ""
    return result.returncode, result.stderr


async def test_a_drain_finishes_requests_in_flight_and_refuses_events(tmp_path: Path) -> None:
    """After SIGTERM the request in flight is finished, readiness is 503 and events are refused; the status is 0."""
    may_answer = trio.Event()
    async with running(tmp_path, PATIENT) as server, trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver(always(Reply(after=may_answer))).run)
        webhook = await server.webhook(receiver.url)
        with Client(server.socket) as producer:
            for number in range(3):
                producer.send("user.created", {}, id=f"e{number}")
        await receiver.wait_for(1)
        headers = {"authorization": f"Bearer {server.first_key}"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False) as client:
            assert (await client.get("/readyz")).json() == {"status": "ok", "reasons": []}
            nursery.start_soon(server.stop)
            with trio.fail_after(PATIENCE_SECONDS):
                while (ready := await client.get("/readyz")).status_code == 200:
                    await trio.sleep(0.01)
            assert (ready.status_code, ready.json()["status"]) == (503, "draining")
            refused = await client.post("/api/events", json={"type": "user.created", "data": {}})
            assert (refused.status_code, refused.json()["code"]) == (503, "SHUTTING_DOWN")
            assert "retry-after" in refused.headers
        may_answer.set()
        with trio.fail_after(PATIENCE_SECONDS):
            while server.process is not None:
                await trio.sleep(0.02)
        assert len(receiver.requests) == 1
        assert not server.socket.exists()
        await server.start()
        await server.settled(webhook["id"])
        rows = await server.deliveries(webhook["id"])
        assert [row["attempts"] for row in rows] == [1, 1, 1]
        nursery.cancel_scope.cancel()


async def test_all_threads_of_the_server_share_one_arena(tmp_path: Path) -> None:
    """The server's heap is the only one: glibc gives another arena 64 MiB of addresses, reserved and aligned."""
    async with running(tmp_path) as server:
        with Client(server.socket) as producer:
            for number in range(200):
                producer.send("user.created", {}, id=f"e{number}")
        assert server.process is not None
        maps = Path(f"/proc/{server.process.pid}/maps").read_text().splitlines()
    anonymous = [line.split()[:2] for line in maps if len(line.split()) == 5]
    starts = [int(addresses.partition("-")[0], 16) for addresses, mode in anonymous if mode == "rw-p"]
    ends = [int(addresses.partition("-")[2], 16) for addresses, mode in anonymous if mode == "---p"]
    assert [start for start in starts if start % ARENA_BYTES == 0 and start + ARENA_BYTES in ends] == []


async def test_a_second_signal_ends_the_drain(tmp_path: Path) -> None:
    """During a request that hangs, a second SIGTERM ends the server at once; the attempt counts as interrupted."""
    async with running(tmp_path, PATIENT) as server, trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver(steps("hang")).run)
        webhook = await server.webhook(receiver.url)
        with Client(server.socket) as producer:
            producer.send("user.created", {}, id="e0")
        await receiver.wait_for(1)
        assert await server.stop(times=2) == 0
        receiver.script = always()
        await server.start()
        await server.settled(webhook["id"])
        [row] = await server.deliveries(webhook["id"])
        detail = await server.get(f"/api/webhooks/deliveries/{row['id']}")
        assert [attempt["error"] for attempt in detail["attemptLog"]] == ["interrupted", None]
        assert (detail["attempts"], detail["refusals"]) == (2, 0)
        nursery.cancel_scope.cancel()


async def test_a_request_that_hangs_ends_at_its_deadline(tmp_path: Path) -> None:
    """A receiver that takes a request and never answers ends in a timeout; the delivery is sent again."""
    async with running(tmp_path) as server, trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver(steps("hang,200")).run)
        webhook = await server.webhook(receiver.url, timeoutSeconds=1)
        with Client(server.socket) as producer:
            producer.send("user.created", {}, id="e0")
        await server.settled(webhook["id"])
        [row] = await server.deliveries(webhook["id"])
        detail = await server.get(f"/api/webhooks/deliveries/{row['id']}")
        assert [attempt["error"] for attempt in detail["attemptLog"]] == ["timeout", None]
        nursery.cancel_scope.cancel()


async def test_files_are_private(tmp_path: Path) -> None:
    """Only the owner may use the journal, the key and the control socket; the ingest socket is for the group too."""
    async with running(tmp_path) as server:
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in server.directory.iterdir()}
    expected = {"webhookd.db": 0o600, "webhookd.db-wal": 0o600, "master.key": 0o600, "control.sock": 0o600}
    assert {name: modes[name] for name in expected} == expected
    assert modes["ingest.sock"] == 0o660


async def test_a_second_server_and_a_busy_port_are_refused(tmp_path: Path) -> None:
    """A held lock and a busy port end `serve` with status 1 and one line, and no admin key is created."""
    async with running(tmp_path):
        status, error = await refused_start(tmp_path)
        assert (status, error.count("\n")) == (1, 1)
        assert "is in use by another webhookd" in error
    other = tmp_path / "other"
    other.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (other / "config.toml").write_text(CONFIG.replace("port = 0", f"port = {port}"))
        status, error = await refused_start(other)
        assert status == 1
        assert f"can't listen on 127.0.0.1:{port}" in error.splitlines()[-1]
    server = Server(other)
    await server.start()
    assert server.first_key.startswith("whd_admin_")
    await server.kill()


async def test_an_unusable_key_or_journal_prevents_the_start(tmp_path: Path) -> None:
    """A wrong, missing or world-readable master key is status 2, a file that is no journal 70, each with one line."""
    async with running(tmp_path) as server:
        await server.webhook("http://127.0.0.1:1234/")
        await server.stop()
    key = tmp_path / "master.key"
    saved = key.read_bytes()
    key.chmod(0o644)
    assert (await refused_start(tmp_path))[0] == 2
    key.unlink()
    status, error = await refused_start(tmp_path)
    assert status == 2
    assert "is missing, and the journal" in error.splitlines()[-1]
    key.write_bytes(b"A" * 43 + b"=\n")
    key.chmod(0o600)
    status, error = await refused_start(tmp_path)
    assert status == 2
    assert "isn't the one this journal was made with" in error.splitlines()[-1]
    key.write_bytes(saved)
    journal = tmp_path / "webhookd.db"
    good = tmp_path / "good.db"
    shutil.copy(journal, good)
    journal.write_bytes(b"This is a text file, and no journal.\n" * 100)
    status, error = await refused_start(tmp_path)
    assert (status, "is no SQLite file" in error) == (70, True)
    good.replace(journal)
    await server.start()
    await server.kill()


async def test_a_client_bridges_a_restart(tmp_path: Path) -> None:
    """The client retries while the server is down, and raises ServerUnavailable after its timeout."""
    async with running(tmp_path) as server:
        await server.kill()
        impatient = Client(server.socket, timeout=0.3)
        with impatient, pytest.raises(ServerUnavailable, match=str(server.socket)):
            impatient.send("user.created", {})
        results = []

        def send() -> None:
            with Client(server.socket, timeout=PATIENCE_SECONDS) as patient:
                results.append(patient.send("user.created", {}))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, send)
            await server.start()
        assert not results[0].duplicate
