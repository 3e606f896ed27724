"""Restoring a backup: what is done with the old journal and with its log."""

from pathlib import Path

import apsw
import pytest

from tests.journal.harness import CLOCK, MASTER_KEY
from tests.journal.old import VERSIONS, ask, make_old
from webhookd.base.errors import CommandError, MasterKeyError
from webhookd.base.secret import Secret
from webhookd.journal import Action, AuditActor, AuditActorKind, AuditEntry, Restored, restore_journal
from webhookd.journal.sqlite.inspection import inspect

COUNT = "SELECT count(*) FROM events"
MORE = (
    "INSERT INTO events (id, type, timestamp, accepted_at, deliveries, body) "
    "VALUES ('more', 'user.created', 1, 1, 0, x'7b7d')"
)


def restore(tmp_path: Path, key: Secret[bytes] = MASTER_KEY) -> Restored:
    entry = AuditEntry(
        actor=AuditActor(kind=AuditActorKind.COMMAND, id="1000"),
        action=Action.JOURNAL_RESTORE,
        at=CLOCK.now(),
    )
    path = tmp_path / "journal.db"
    return restore_journal(tmp_path / "copy.db", path, load_key=lambda: key, kept_name="kept.db", entry=entry)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A journal with a log left by a killed process, and an older backup."""
    for name in ("journal.db", "copy.db"):
        make_old(tmp_path / name, VERSIONS[-1])
    leave_log(tmp_path / "journal.db")
    assert (tmp_path / "journal.db-wal").stat().st_size > 0
    return tmp_path / "journal.db"


def leave_log(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.execute(MORE)
    connection.close()


def test_the_journal_is_kept_whole(tmp_path: Path, journal: Path) -> None:
    """What was only in the log is in the kept file; the backup is the journal, with an audit entry."""
    restored = restore(tmp_path)
    assert restored.kept == tmp_path / "kept.db"
    assert (ask(restored.kept, COUNT), ask(journal, COUNT)) == ([(3,)], [(2,)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.db", "journal.db", "journal.db.lock", "kept.db"]
    with inspect(journal) as found:
        assert (found.audit_chain().entries, found.audit_chain().broken) == (2, None)
    assert ask(tmp_path / "copy.db", "SELECT count(*) FROM audit") == [(1,)], "the backup itself is left alone"


def test_a_damaged_journal_is_kept_with_its_log(tmp_path: Path, journal: Path) -> None:
    """If the journal can't even be opened, its two files are kept unchanged, and neither keeps the journal's name."""
    journal.write_bytes(b"nonsense" * 1000)
    log = b"no log" * 1000  # a good one would bring back each page that it has
    journal.with_name("journal.db-wal").write_bytes(log)
    restore(tmp_path)
    assert (tmp_path / "kept.db").read_bytes() == b"nonsense" * 1000
    assert (tmp_path / "kept.db-wal").read_bytes() == log
    assert not journal.with_name("journal.db-wal").exists()
    assert ask(journal, COUNT) == [(2,)]


def test_a_log_without_its_journal_goes(tmp_path: Path, journal: Path) -> None:
    """A log without its file is deleted, because SQLite would write it into the backup; nothing is kept."""
    journal.unlink()
    assert restore(tmp_path).kept is None
    assert ask(journal, COUNT) == [(2,)]


def test_a_journal_that_another_program_has_open_is_left(tmp_path: Path, journal: Path) -> None:
    """While a reader prevents the fold of the log, nothing is replaced or left behind."""
    reader = apsw.Connection(str(journal))
    reader.execute("BEGIN; SELECT count(*) FROM events").fetchall()
    leave_log_again = apsw.Connection(str(journal))
    leave_log_again.execute("INSERT INTO meta VALUES ('x', x'00')")
    with pytest.raises(CommandError, match="another program has"):
        restore(tmp_path)
    reader.close()
    leave_log_again.close()
    assert ask(journal, COUNT) == [(3,)]
    assert not list(tmp_path.glob("*kept*"))
    restore(tmp_path)
    assert ask(journal, COUNT) == [(2,)]


def test_another_master_key_is_refused_by_name(tmp_path: Path, journal: Path) -> None:
    """The error names the key that the backup needs, and the journal is unchanged."""
    with pytest.raises(MasterKeyError, match=r"nothing was restored from .*It needs the master key [0-9a-f]{16}\."):
        restore(tmp_path, Secret(bytes(32)))
    assert ask(journal, COUNT) == [(3,)]
    assert not list(tmp_path.glob(".journal*"))
