"""An upgrade to the next version and the way back, with real processes of both versions on one journal.

The next version is a copy of this package's source with one more migration.
"""

import shutil
from pathlib import Path

import trio

import webhookd
from tests.e2e.harness import CONFIG, PROGRAM, Server
from tests.e2e.test_master_key import command
from tests.journal.old import version_of
from tests.receiver import Receiver, Reply
from webhookd.client import Client
from webhookd.journal.sqlite.migrations import CURRENT_VERSION

NEXT = CURRENT_VERSION + 1
STEP = """

def _next(database: Database, _now: float) -> None:
    database.execute_sql("ALTER TABLE events ADD COLUMN next TEXT")


_STEPS = (*_STEPS, _next)
CURRENT_VERSION = len(_STEPS)
migrate.__kwdefaults__["steps"] = _STEPS
"""


def next_version(directory: Path) -> dict[str, str]:
    """Write the source of the next version; return the environment with which `python -m webhookd` runs it."""
    package = directory / "webhookd"
    shutil.copytree(Path(webhookd.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    with (package / "journal/sqlite/migrations.py").open("a") as source:
        source.write(STEP)
    return {"PYTHONPATH": str(directory), "PYTHONSAFEPATH": "1"}


async def test_an_upgrade_can_be_reverted(tmp_path: Path) -> None:
    """The next version makes a copy and migrates; this version refuses that journal, and works on the restored copy."""
    later = next_version(tmp_path / "next")
    home = tmp_path / "home"
    home.mkdir()
    copy = home / f"webhookd.db.before-v{NEXT}"
    replies = [Reply(status=503)]
    async with trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver(lambda _request, _nth: replies[-1]).run)
        server = Server(home, CONFIG)
        await server.start(PROGRAM)
        webhook = await server.webhook(receiver.url)

        def send(name: str) -> None:
            with Client(server.socket) as producer:
                producer.send("user.created", {"name": name}, id=name)

        await trio.to_thread.run_sync(send, "before")
        await receiver.wait_for(1)
        assert await server.stop() == 0
        assert version_of(home / "webhookd.db") == CURRENT_VERSION

        await server.start(PROGRAM, later)
        await trio.to_thread.run_sync(send, "after")
        assert await server.stop() == 0
        assert version_of(home / "webhookd.db") == NEXT
        assert version_of(copy) == CURRENT_VERSION

        status, _, error = await command(home, "serve")
        assert status == 70
        assert f"has version {NEXT} and this webhookd knows {CURRENT_VERSION}: run the newer one, or go back" in error
        assert error.endswith(f"webhookd restore {copy}\n")
        assert error.count("\n") == 1

        status, output, _ = await command(home, "restore", copy)
        assert status == 0
        assert "1 events" in output
        assert "1 of them pending" in output
        replies.append(Reply())
        await server.start(PROGRAM)
        await server.settled(webhook["id"])
        assert [each["id"] for each in (await server.get("/api/events"))["data"]] == ["before"]
        assert [each["status"] for each in await server.deliveries(webhook["id"])] == ["succeeded"]
        # The producer sends again what only the next version had accepted.
        await trio.to_thread.run_sync(send, "after")
        await server.settled(webhook["id"])
        assert [each["event"] for each in await server.deliveries(webhook["id"])] == ["user.created"] * 2
        assert await server.stop() == 0
        nursery.cancel_scope.cancel()
