"""Litestream next to a server, as docs/backup.md describes: it restores every row of the journal."""

import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
import yaml

from tests.e2e.harness import Server
from tests.receiver import Receiver
from webhookd.client import Client

PAGE = (Path(__file__).parents[2] / "docs/backup.md").read_text()
LITESTREAM = Path(sys.executable).with_name("litestream")
EVENTS = 200

pytestmark = pytest.mark.skipif(not LITESTREAM.exists(), reason="litestream is not installed next to this Python")


def configuration(directory: Path) -> Path:
    """Write the configuration of docs/backup.md with the journal and replica of this test."""
    (text,) = re.findall(r"^```yaml\n(dbs:.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    document = yaml.safe_load(text)
    (database,) = document["dbs"]
    database["path"] = str(directory / "webhookd.db")
    database["replica"]["url"] = f"file://{directory / 'replica'}"
    file = directory / "litestream.yml"
    file.write_text(yaml.safe_dump(document))
    return file


@asynccontextmanager
async def replicating(file: Path) -> AsyncIterator[None]:
    """Run Litestream during the block; it copies everything before it stops, once it has made its first copy."""
    with (file.parent / "litestream.log").open("ab") as log:
        process = await trio.lowlevel.open_process(
            [LITESTREAM, "replicate", "-config", str(file)], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        # It opens the journal at its first copy; stopped before that, it would copy nothing.
        while not any((file.parent / "replica").rglob("*.ltx")):
            assert process.poll() is None, (file.parent / "litestream.log").read_text()
            await trio.sleep(0.05)
        yield
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0, (file.parent / "litestream.log").read_text()
    finally:
        if process.returncode is None:
            process.kill()


def rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return every row of every table of webhookd, by table name."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        names = [
            name
            for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
            if not name.startswith(("sqlite_", "_litestream"))
        ]
        return {name: sorted(database.execute(f"SELECT * FROM {name}"), key=repr) for name in names}  # noqa: S608


async def test_a_replica_equals_the_journal(tmp_path: Path) -> None:
    """After a kill -9 and a clean stop, a restored replica has every row, and a server can start on it."""
    file = configuration(tmp_path)
    server = Server(tmp_path)
    async with trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver().run)
        await server.start()
        async with replicating(file):
            webhook = await server.webhook(receiver.url)

            def send(first: int) -> None:
                with Client(server.socket) as client:
                    for number in range(first, first + EVENTS):
                        client.send("user.created", {"number": number}, id=f"event-{number}")

            await trio.to_thread.run_sync(send, 0)
            await server.kill()
            await server.start()
            await trio.to_thread.run_sync(send, EVENTS)
            await server.settled(webhook["id"])
            assert await server.stop() == 0
        restored = tmp_path / "restored.db"
        subprocess.run(  # noqa: ASYNC221 - nothing else is running
            [LITESTREAM, "restore", "-config", str(file), "-o", str(restored), str(tmp_path / "webhookd.db")],
            check=True,
            capture_output=True,
        )
        kept = rows(tmp_path / "webhookd.db")
        assert len(kept["events"]) == 2 * EVENTS
        found = rows(restored)
        assert list(found) == list(kept)
        for name, table in kept.items():
            assert found[name] == table, name
        # As docs/backup.md says, `webhookd restore` verifies the file before a server starts on it.
        command = [sys.executable, "-m", "webhookd", "restore", "--config", str(server.config_file), str(restored)]
        subprocess.run(command, check=True, capture_output=True)  # noqa: ASYNC221 - as above
        await server.start()
        assert [each["status"] for each in await server.deliveries(webhook["id"])][:1] == ["succeeded"]
        assert await server.stop() == 0
        nursery.cancel_scope.cancel()
