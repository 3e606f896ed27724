"""A server whose log is not read still delivers, reports its health and stops."""

import json
import os
from contextlib import suppress
from pathlib import Path

import trio

from tests.admin.test_metrics import Exposition
from tests.e2e.harness import PROGRAM, Server
from tests.e2e.test_metrics import over_the_control_socket, scrape
from tests.patience import PATIENCE_SECONDS
from tests.receiver import Receiver
from webhookd.client import Client

EVENTS = 300  # their log lines are three times the size of a pipe


def send(path: Path, first: int) -> None:
    """Send events one by one."""
    with Client(path, timeout=PATIENCE_SECONDS) as producer:
        for number in range(first, first + EVENTS):
            producer.send("user.created", {}, id=f"e{number}")


def full_pipe() -> tuple[int, int]:
    """Return the two ends of a full pipe."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with suppress(BlockingIOError):
        while True:
            os.write(theirs, b"\n")
    os.set_blocking(theirs, True)
    return ours, theirs


def read_to_end(descriptor: int) -> bytes:
    """Read a pipe without writers to its end."""
    chunks = []
    while chunk := os.read(descriptor, 65_536):
        chunks.append(chunk)
    return b"".join(chunks)


async def deliver(server: Server, receiver: Receiver, rounds: int) -> None:
    """Send `rounds` times `EVENTS` events, and wait for each round at the receiver."""
    for nth in range(rounds):
        await trio.to_thread.run_sync(send, server.socket, nth * EVENTS)
        with trio.fail_after(60):
            await receiver.wait_for((nth + 1) * EVENTS)


async def test_a_full_stdout_and_log_stop_nothing(tmp_path: Path) -> None:
    """With a full stdout and soon a full log pipe, events are delivered, health is reported, and the server stops.

    The log then contains complete lines, from the first one on.
    """
    server = Server(tmp_path)
    (out, their_out), (log, their_log) = full_pipe(), os.pipe()
    process = await trio.lowlevel.open_process(
        [*PROGRAM, "serve", "--config", str(server.config_file)], stdout=their_out, stderr=their_log
    )
    async with trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver().run)
        with trio.fail_after(60):
            while not await trio.to_thread.run_sync(server.control.is_served):
                await trio.sleep(0.05)
            while (await server.get("/readyz"))["status"] != "ok":
                await trio.sleep(0.05)
        await server.webhook(receiver.url, ordering="none", concurrency=32)
        await deliver(server, receiver, 2)
        assert await server.get("/healthz")
        metrics = await trio.to_thread.run_sync(over_the_control_socket, tmp_path / "control.sock")
        assert Exposition(metrics).value("webhookd_log_lines_dropped_total") == 0
        process.terminate()
        with trio.fail_after(60):
            assert await process.wait() == 0
        nursery.cancel_scope.cancel()
    for descriptor in (their_out, their_log):
        os.close(descriptor)
    *whole, _cut = read_to_end(log).split(b"\n")
    lines = [json.loads(line) for line in whole]
    assert "server.ready" in [line["event"] for line in lines]
    assert 20 < len([line for line in lines if line["event"] == "delivery.attempted"]) < 2 * EVENTS
    for descriptor in (out, log):
        os.close(descriptor)


async def test_a_log_without_a_reader_stops_nothing(tmp_path: Path) -> None:
    """With a broken pipe only log lines are lost: they are counted, and the server ends with status 0."""
    server, (ours, theirs) = Server(tmp_path), os.pipe()
    async with trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver().run)
        await server.start(stderr=theirs)
        os.close(ours)
        os.close(theirs)
        await server.webhook(receiver.url, ordering="none", concurrency=32)
        await deliver(server, receiver, 1)
        with trio.fail_after(60):
            while (await scrape(server)).value("webhookd_log_lines_dropped_total") < EVENTS:
                await trio.sleep(0.1)
        assert await server.stop() == 0
        nursery.cancel_scope.cancel()
