"""The real process on disks that fail, that are full, or whose journal file is unusable."""

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import apsw
import httpx
import pytest
import trio

from tests.cli.conftest import invoke
from tests.disk import FAULTS, NotPossibleError, finds, run_error, run_full
from tests.e2e.harness import CONFIG, PROGRAM, running, submit
from tests.forked import run_soon
from tests.journal.old import ask
from tests.patience import PATIENCE_SECONDS
from webhookd.journal.sqlite.migrations import CURRENT_VERSION

MEBIBYTE = 1024 * 1024
BOUND = 16 * MEBIBYTE


@pytest.mark.parametrize("what", ["sync", "read"])
def test_an_error_of_the_disk_ends_the_server(tmp_path: Path, what: str) -> None:
    """EIO ends the server with status 70 and one line, and no acknowledged event is lost."""
    try:
        _, broken = run_error(tmp_path, what)
    except NotPossibleError as reason:
        pytest.skip(str(reason))
    assert broken == []


def test_a_server_survives_a_full_disk(tmp_path: Path) -> None:
    """On a full disk events are refused and attempts recorded, also after a restart; with space it continues."""
    try:
        _, broken = run_full(tmp_path)
    except NotPossibleError as reason:
        pytest.skip(str(reason))
    assert broken == []


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS[:2])
def test_a_planted_fault_is_found(tmp_path: Path, fault: str) -> None:
    """The harness finds a server that continues after a failed sync, and one that has no reserve."""
    try:
        assert finds(tmp_path, fault)
    except NotPossibleError as reason:
        pytest.skip(str(reason))


def damage_pages(journal: Path) -> None:
    """Overwrite all pages except the first, which is checked before the others."""
    size = journal.stat().st_size
    with journal.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))


def make_foreign(journal: Path) -> None:
    journal.unlink()
    with closing(apsw.Connection(str(journal))) as other:
        other.execute("PRAGMA application_id = 7; CREATE TABLE theirs (id INTEGER)")


def make_newer(journal: Path) -> None:
    with closing(apsw.Connection(str(journal))) as newer:
        newer.execute(f"PRAGMA user_version = {CURRENT_VERSION + 1}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damage_pages, "is damaged"),
        (make_foreign, "is a SQLite database of another program"),
        (make_newer, f"has version {CURRENT_VERSION + 1} and this webhookd knows {CURRENT_VERSION}: run the newer one"),
    ],
)
async def test_an_unusable_journal_is_refused(tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
    """A damaged journal, a newer one and a file of another program end `serve` with status 70 and one line."""
    async with running(tmp_path) as server:
        await server.webhook("http://127.0.0.1:1234/")
        await server.stop()
    journal = tmp_path / "webhookd.db"
    change(journal)
    result = await run_soon([*PROGRAM, "serve", "--config", str(tmp_path / "config.toml")])
    lines = result.stderr.splitlines()
    assert (result.returncode, result.stdout) == (70, "")
    assert [line for line in lines if not line.startswith("{")] == [lines[-1]]
    assert lines[-1].startswith(f"webhookd: the journal {journal}") or lines[-1].startswith(f"webhookd: {journal}")
    assert message in lines[-1]


async def test_events_are_refused_above_max_bytes_and_attempts_are_not(tmp_path: Path) -> None:
    """Above `journal.max_bytes` events are refused and not stored, and queued deliveries are still attempted."""
    config = CONFIG.replace('path = "webhookd.db"', f'path = "webhookd.db"\nmax_bytes = {BOUND}')
    async with running(tmp_path, config) as server:
        webhook = await server.webhook("http://127.0.0.1:1234/")

        def fill() -> list[bool]:
            event = {"type": "user.created", "data": {"text": "x" * 200_000}}
            answers = [submit(server.socket, [event | {"id": f"e{number}"}])[0] for number in range(120)]
            assert {answer["error"]["code"] for answer in answers if not answer["ok"]} == {"JOURNAL_FULL"}
            return [answer["ok"] for answer in answers]

        accepted = await trio.to_thread.run_sync(fill)
        ready = await server.get("/readyz")
        async with httpx.AsyncClient() as client:
            metrics = (await client.get(f"{server.url}/metrics")).text
        assert (ready["status"], ready["reasons"]) == (
            "degraded",
            ["the journal has reached journal.max_bytes; events are refused"],
        )
        health = await trio.to_thread.run_sync(partial(invoke, "health", "--config", server.config_file))
        assert health.output == f"degraded\n  {ready['reasons'][0]}\n"
        assert "webhookd_journal_full 1.0" in metrics
        assert 0.9 * BOUND < accepted.count(True) * 200_000 < 1.3 * BOUND
        before = (await server.deliveries(webhook["id"]))[0]["attempts"]
        with trio.fail_after(PATIENCE_SECONDS):
            while (await server.deliveries(webhook["id"]))[0]["attempts"] <= before:
                await trio.sleep(0.05)
        assert await server.stop() == 0
    stored = {name for (name,) in ask(tmp_path / "webhookd.db", "SELECT id FROM events")}
    assert stored == {f"e{number}" for number, is_accepted in enumerate(accepted) if is_accepted}
