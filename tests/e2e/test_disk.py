"""Disks that fail, are full or hold what is no journal, under the real process, and what is said of each."""

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
    """EIO ends it with status 70 and one line; nothing that it acknowledged is lost."""
    try:
        _, broken = run_error(tmp_path, what)
    except NotPossibleError as reason:
        pytest.skip(str(reason))
    assert broken == []


def test_a_full_disk_refuses_events_records_attempts_and_goes_on(tmp_path: Path) -> None:
    """JOURNAL_FULL over HTTP and the socket, attempts from the reserve, a restart, and events again with room."""
    try:
        _, broken = run_full(tmp_path)
    except NotPossibleError as reason:
        pytest.skip(str(reason))
    assert broken == []


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS[:2])
def test_a_planted_fault_is_found(tmp_path: Path, fault: str) -> None:
    """A server that trusts a disk after a failed sync, and one that has no room for attempts, are noticed."""
    try:
        assert finds(tmp_path, fault)
    except NotPossibleError as reason:
        pytest.skip(str(reason))


def cut_in_pages(journal: Path) -> None:
    """Overwrite all but the first page, which is looked at before the others."""
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
    ("change", "said"),
    [
        (cut_in_pages, "is damaged"),
        (make_foreign, "is a SQLite database of another program"),
        (make_newer, f"has version {CURRENT_VERSION + 1} and this webhookd knows {CURRENT_VERSION}: run the newer one"),
    ],
)
async def test_a_file_that_is_no_journal_of_ours_is_refused(
    tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    """Damaged pages, another program's file and a newer journal: status 70 and one line."""
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
    assert said in lines[-1]


async def test_events_are_refused_above_max_bytes_and_attempts_are_not(tmp_path: Path) -> None:
    """`journal.max_bytes` is a soft bound: refused events aren't stored, and what is queued is still worked off."""
    config = CONFIG.replace('path = "webhookd.db"', f'path = "webhookd.db"\nmax_bytes = {BOUND}')
    async with running(tmp_path, config) as server:
        webhook = await server.webhook("http://127.0.0.1:1234/")

        def fill() -> list[bool]:
            event = {"type": "user.created", "data": {"text": "x" * 200_000}}
            answers = [submit(server.socket, [event | {"id": f"e{number}"}])[0] for number in range(120)]
            assert {answer["error"]["code"] for answer in answers if not answer["ok"]} == {"JOURNAL_FULL"}
            return [answer["ok"] for answer in answers]

        taken = await trio.to_thread.run_sync(fill)
        ready = await server.get("/readyz")
        async with httpx.AsyncClient() as client:
            metrics = (await client.get(f"{server.url}/metrics")).text
        assert (ready["status"], ready["reasons"]) == (
            "degraded",
            ["the journal has reached journal.max_bytes; events are refused"],
        )
        said = await trio.to_thread.run_sync(partial(invoke, "health", "--config", server.config_file))
        assert said.output == f"degraded\n  {ready['reasons'][0]}\n"
        assert "webhookd_journal_full 1.0" in metrics
        assert 0.9 * BOUND < taken.count(True) * 200_000 < 1.3 * BOUND
        before = (await server.deliveries(webhook["id"]))[0]["attempts"]
        with trio.fail_after(PATIENCE_SECONDS):
            while (await server.deliveries(webhook["id"]))[0]["attempts"] <= before:
                await trio.sleep(0.05)
        assert await server.stop() == 0
    stored = {name for (name,) in ask(tmp_path / "webhookd.db", "SELECT id FROM events")}
    assert stored == {f"e{number}" for number, is_taken in enumerate(taken) if is_taken}
