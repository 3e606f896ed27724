"""Upgrades: from every released version, with a copy made first, killed in the middle, and undone."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from peewee import Database
from playhouse.apsw_ext import APSWDatabase

from tests.journal.harness import CLOCK, VAULT, all_deliveries, event, publish, running
from tests.journal.old import VERSIONS, ask, make_old, tables_of, version_of
from webhookd.base.errors import JournalError
from webhookd.base.models import DeliveryStatus
from webhookd.journal import copy_before_upgrade
from webhookd.journal.queries import audit, endpoints
from webhookd.journal.sqlite import migrations
from webhookd.journal.sqlite.inspection import inspect
from webhookd.journal.sqlite.migrations import CURRENT_VERSION, migrate

OLDER = VERSIONS[:-1]


def made_by_steps(path: Path, version: int) -> Path:
    """Make an empty journal of a version by the program's own steps."""
    database: Any = APSWDatabase(str(path))
    with database.connection_context():
        migrate(database, version=0, now=0.0, steps=migrations._STEPS[:version])
    return path


def test_every_version_has_its_fixture() -> None:
    """Every step has a dump of the tables that it makes."""
    assert list(range(1, CURRENT_VERSION + 1)) == VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_a_step_that_was_released_has_not_changed(tmp_path: Path, version: int) -> None:
    """The steps make the tables that journals of that version have."""
    make_old(tmp_path / "old.db", version)
    made = made_by_steps(tmp_path / "made.db", version)
    assert tables_of(made) == tables_of(tmp_path / "old.db")


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_journal_of_any_version_goes_on(tmp_path: Path, version: int) -> None:
    """A journal of an older program is intact after the upgrade, opens with its key, and takes events and changes."""
    path = tmp_path / "journal.db"
    make_old(path, version)
    async with running(path) as journal:
        [endpoint] = await journal.transactions.read(endpoints.all)
        opened = await journal.transactions.read(endpoints.credentials, VAULT, endpoint.pk, CLOCK.now())
        assert opened is not None
        assert opened.secret.reveal() == f"whsec_{'A' * 43}="
        assert [(row.event_id, row.status) for row in await all_deliveries(journal, endpoint)] == [
            ("e2", DeliveryStatus.PENDING),
            ("e1", DeliveryStatus.SUCCEEDED),
        ]
        assert (await publish(journal, event("e1"), endpoint).wait()).duplicate
        assert (await publish(journal, event("e3"), endpoint).wait()).deliveries == 1
        assert (await all_deliveries(journal, endpoint))[0].sequence == 3
        chain = await journal.transactions.read(audit.verify)
        assert (chain.entries, chain.broken) == (int(version >= 2), None)
    with inspect(path) as after:
        assert after.version() == (CURRENT_VERSION, CURRENT_VERSION)
        assert (after.bad_pages(), after.dangling(), after.missing_triggers()) == ([], [], [])
    assert tables_of(path) == tables_of(made_by_steps(tmp_path / "made.db", CURRENT_VERSION))


@pytest.mark.parametrize("version", OLDER)
async def test_going_back_is_putting_the_copy_in_place(tmp_path: Path, version: int) -> None:
    """Before an upgrade the journal is copied to a private file next to it, and the copy can be used as a journal."""
    path = tmp_path / "journal.db"
    make_old(path, version)
    tables, rows = tables_of(path), ask(path, "SELECT * FROM deliveries")
    async with running(path):
        pass
    copy = copy_before_upgrade(path)
    assert copy.name == f"journal.db.before-v{CURRENT_VERSION}"
    assert copy.stat().st_mode & 0o777 == 0o600
    assert (version_of(copy), tables_of(copy), ask(copy, "SELECT * FROM deliveries")) == (version, tables, rows)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "journal.db",
        copy.name,
        "journal.db.lock",
        "journal.db.reserve",
    ]
    # Gone back and forth again: the copy is of the second time.
    copy.rename(path)
    ask(path, "UPDATE events SET organization_id = 'second'")
    async with running(path) as journal:
        assert len(await journal.transactions.read(endpoints.all)) == 1
    assert ask(copy, "SELECT DISTINCT organization_id FROM events") == [("second",)]


async def test_nothing_is_copied_without_an_upgrade(tmp_path: Path) -> None:
    """A new journal and one of this version leave no copy."""
    for _ in range(2):
        async with running(tmp_path / "journal.db"):
            pass
    assert not copy_before_upgrade(tmp_path / "journal.db").exists()


async def test_without_a_copy_there_is_no_upgrade(tmp_path: Path) -> None:
    """If the copy can't be made, the journal is unchanged."""
    path = tmp_path / "journal.db"
    make_old(path, 1)
    copy_before_upgrade(path).mkdir()
    with pytest.raises(Exception, match=r"can't write .*before-v"):
        async with running(path):
            pass
    assert version_of(path) == 1


def killed(database: Database, _now: float) -> None:
    """A step that is killed when it has done most of its work."""
    database.execute_sql("CREATE INDEX half ON events (type)")  # type: ignore[no-untyped-call]  # peewee's stubs
    database.execute_sql("UPDATE events SET organization_id = 'half done'")  # type: ignore[no-untyped-call]  # as above
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("before", range(1, CURRENT_VERSION + 1))
async def test_killed_in_a_step_the_journal_is_as_before(tmp_path: Path, before: int) -> None:
    """A process that is killed in any step leaves the old version, and the next start upgrades it."""
    path = tmp_path / "journal.db"
    make_old(path, 1)
    with trio.fail_after(60):
        done = await trio.run_process([sys.executable, "-m", __name__, str(path), str(before)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (version_of(path), ask(path, "SELECT DISTINCT organization_id FROM events")) == (1, [(None,)])
    assert tables_of(path) == tables_of(made_by_steps(tmp_path / "made.db", 1))
    async with running(path) as journal:
        assert len(await journal.transactions.read(endpoints.all)) == 1
    assert version_of(path) == CURRENT_VERSION


async def test_a_newer_journal_is_left_alone(tmp_path: Path) -> None:
    """A later version is refused, and neither changed nor copied."""
    path = tmp_path / "journal.db"
    make_old(path, CURRENT_VERSION)
    ask(path, f"PRAGMA user_version = {CURRENT_VERSION + 1}")
    with pytest.raises(JournalError, match="run the newer one"):
        async with running(path):
            pass
    assert version_of(path) == CURRENT_VERSION + 1
    assert not copy_before_upgrade(path).exists()


def upgrade_and_die(path: str, before: int) -> None:
    """Upgrade from version 1, and be killed in a step after those up to version `before`."""
    database: Any = APSWDatabase(path, pragmas={"journal_mode": "WAL"})
    database.connect()
    migrate(database, version=1, now=0.0, steps=(*migrations._STEPS[:before], killed))


if __name__ == "__main__":
    upgrade_and_die(sys.argv[1], int(sys.argv[2]))
