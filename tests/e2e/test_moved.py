"""A server whose journal is moved to PostgreSQL and back between its runs goes on where it was."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.harness import CONFIG, PROGRAM, Server, running, submit
from tests.forked import run_soon
from tests.patience import PATIENCE_SECONDS
from tests.receiver import Receiver

BEFORE, WHILE_PAUSED, LATER = 4, 30, 10


async def publish(server: Server, name: str, number: int) -> list[str]:
    ids = [f"{name}-{at}" for at in range(number)]
    events = [{"type": "user.created", "id": each, "data": {}} for each in ids]
    results = await trio.to_thread.run_sync(partial(submit, server.socket, events))
    assert all(each["ok"] for each in results)
    return ids


async def migrate(server: Server, to: object) -> str:
    done = await run_soon([*PROGRAM, "migrate", "--to", str(to), "--config", str(server.config_file)])
    assert done.returncode == 0, done.stderr
    return done.stdout


def settings_in(said: str, port: str) -> str:
    """Return the configuration with the [journal] that the command printed."""
    printed = said.partition("in place of the present [journal]:\n\n")[2].partition("\n\nand ")[0]
    head, rest = port.split("[journal]\n")
    return f"{head}{rest.partition(chr(10))[2]}\n{printed}\n"


async def ids_in_feed(server: Server, after: str) -> list[str]:
    page: Any = await server.get(f"/api/events?limit=100&after={after}")
    return [each["id"] for each in page["data"]]


async def test_a_backlog_is_delivered_in_order_after_each_move(tmp_path: Path, empty_database: str) -> None:
    """What was paused is sent in order, signed; the feed goes on after its cursors; ids are known; the log is whole."""
    with trio.fail_after(3 * PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            receiver: Receiver = await nursery.start(Receiver().run)
            async with running(tmp_path) as server:
                webhook = await server.webhook(f"{receiver.url}/one", headers={"x-key": "secret"})
                sent = await publish(server, "before", BEFORE)
                await server.settled(webhook["id"])
                cursor = (await server.get("/api/events?limit=3"))["nextCursor"]
                await _pause(server, webhook)
                sent += await publish(server, "paused", WHILE_PAUSED)
                with pytest.raises(AssertionError, match="a server is running: stop it first"):
                    await migrate(server, empty_database)
                await server.kill()  # which leaves a part of the journal in its log
                assert (tmp_path / "webhookd.db-wal").stat().st_size > 0
                said = await migrate(server, empty_database)
                assert f"moved and verified: 1 webhooks, {len(sent)} events" in said
                server.config_file.write_text(settings_in(said, CONFIG))
                for end in ("", "-wal"):
                    (tmp_path / f"webhookd.db{end}").rename(tmp_path / f"old.db{end}")
                await server.start()
                assert await ids_in_feed(server, cursor) == sent[3:]
                [again] = await trio.to_thread.run_sync(
                    partial(submit, server.socket, [{"type": "user.created", "id": sent[0], "data": {}}])
                )
                assert again["duplicate"]
                sent += await publish(server, "on-postgresql", LATER)
                await server.enable(webhook["id"])
                await server.settled(webhook["id"])
                assert [request.headers["webhook-id"] for request in receiver.requests] == sent
                assert {request.headers["x-key"] for request in receiver.requests} == {"secret"}
                assert await ids_in_feed(server, sent[0]) == sent[1:]
                await _pause(server, webhook)
                sent += await publish(server, "paused-again", LATER)
                assert await server.stop() == 0
                said = await migrate(server, tmp_path / "back.db")
                server.config_file.write_text(settings_in(said, server.config_file.read_text()))
                await server.start()
                sent += await publish(server, "in-a-file", LATER)
                await server.enable(webhook["id"])
                await server.settled(webhook["id"])
                assert [request.headers["webhook-id"] for request in receiver.requests] == sent
                sequences = [each["sequence"] for each in await server.deliveries(webhook["id"])]
                assert sequences == list(range(1, len(sent) + 1))
                assert await server.stop() == 0
                done = await run_soon([*PROGRAM, "doctor", "--config", str(server.config_file)])
                assert "the chain is intact" in done.stdout
            nursery.cancel_scope.cancel()


async def _pause(server: Server, webhook: dict[str, Any]) -> None:
    path, body = f"/api/webhooks/{webhook['id']}", {"isActive": False}
    await trio.to_thread.run_sync(partial(server.control.patch, path, body, dict[str, Any]))
