"""The outbox of each framework creates one event for each committed row, even if its relay is killed."""

import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import trio

from tests.client.feed import feed
from tests.e2e.harness import Server, running
from tests.patience import PATIENCE_SECONDS
from tests.ports import held_port
from tests.recipes.pages import write
from tests.recipes.processes import listening, program

SIGNUPS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """The commands that set up and run an application of docs/recipes/outbox.md; `{port}` is replaced."""

    name: str
    set_up: Sequence[Sequence[str]]
    serve: Sequence[str]
    relay: Sequence[str]
    table: str = "outbox"


MANAGE = (sys.executable, "manage.py")
RELAY = (sys.executable, "relay.py")
APPLICATIONS = (
    Application(
        name="flask", set_up=(), serve=("flask", "--app", "flask_outbox", "run", "--port", "{port}"), relay=RELAY
    ),
    Application(
        name="fastapi", set_up=(), serve=("hypercorn", "fastapi_outbox:app", "--bind", "127.0.0.1:{port}"), relay=RELAY
    ),
    Application(
        name="django",
        set_up=((*MANAGE, "makemigrations", "signups"), (*MANAGE, "migrate")),
        serve=(*MANAGE, "runserver", "--noreload", "127.0.0.1:{port}"),
        relay=(*MANAGE, "relay"),
        table="signups_outbox",
    ),
)


async def test_each_committed_row_becomes_exactly_one_event(tmp_path: Path) -> None:
    """Each committed row becomes one event, also after a kill of the relay; a row that was rolled back becomes none."""
    async with running(tmp_path) as server:
        async with trio.open_nursery() as nursery:
            for application in APPLICATIONS:
                directory = tmp_path / application.name
                directory.mkdir()
                write("outbox.md", directory)
                nursery.start_soon(_check, server, application, directory)
        assert len(await feed(server)) == len(APPLICATIONS) * 2 * SIGNUPS


async def _check(server: Server, application: Application, directory: Path) -> None:
    database, log = directory / "app.db", directory / "log"
    environ = {"DATABASE": str(database), "INGEST": str(server.socket)}
    for command in application.set_up:
        async with program(command, directory, environ, log=log) as process:
            assert await process.wait() == 0, log.read_text()
    with held_port() as port:
        serve = [word.format(port=port) for word in application.serve]
        async with program(serve, directory, environ, log=log) as process:
            await listening(port, process, log)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                for number in range(SIGNUPS):
                    wanted = {"email": f"{number}@{application.name}.example", "plan": "team"}
                    assert (await client.post("/signup", json=wanted)).status_code == 201, log.read_text()
                refused = await client.post("/signup", json={"email": "x@x.example", "plan": "none"})
                assert refused.status_code == 409
    rows = unsent(database, application.table)
    assert len(rows) == 2 * SIGNUPS
    with _locked(database):
        # The relay can read and send, but can't mark rows as sent, so it is killed before that.
        async with program(application.relay, directory, environ, log=log) as process:
            await _wait_for_events(server, rows, process, log)
            process.kill()
            await process.wait()
    assert unsent(database, application.table) == rows
    async with program(application.relay, directory, environ, log=log) as process:
        with trio.fail_after(PATIENCE_SECONDS):
            while unsent(database, application.table):
                assert process.poll() is None, log.read_text()
                await trio.sleep(0.02)
    events = [event for event in await feed(server) if event["id"] in rows]
    assert [event["id"] for event in events] == rows
    assert [event["type"] for event in events] == ["user.created", "subscription.created"] * SIGNUPS
    assert events[0]["data"]["email"] == f"0@{application.name}.example"
    assert not refusals(database, application.table)


@contextmanager
def _locked(database: Path) -> Iterator[None]:
    """Hold the write lock of a database during the block."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.rollback()


async def _wait_for_events(server: Server, ids: list[str], process: trio.Process, log: Path) -> None:
    """Wait until the server has all of these events."""
    with trio.fail_after(PATIENCE_SECONDS):
        while not set(ids) <= {event["id"] for event in await feed(server)}:
            assert process.poll() is None, log.read_text()
            await trio.sleep(0.02)


def unsent(database: Path, table: str) -> list[str]:
    return [row[0] for row in _query(database, f"SELECT id FROM {table} WHERE sent_at IS NULL ORDER BY number")]  # noqa: S608


def refusals(database: Path, table: str) -> list[Any]:
    return _query(database, f"SELECT refused FROM {table} WHERE refused IS NOT NULL")  # noqa: S608


def _query(database: Path, text: str) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(text).fetchall()
