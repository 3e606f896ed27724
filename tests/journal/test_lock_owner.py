"""The owner of a journal's lock file, when a command of root has made it."""

import os
from pathlib import Path

import pytest

from webhookd.journal.sqlite.database import exclusive_lock

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
SERVER = 54_321


def owner(path: Path) -> tuple[int, int]:
    return path.stat().st_uid, path.stat().st_gid


@pytest.mark.parametrize("journal_is_there", [True, False])
def test_a_lock_that_root_makes_is_the_servers(tmp_path: Path, journal_is_there: bool) -> None:
    """It gets the owner of the journal or, before there is one, of the directory; an existing file keeps its owner."""
    directory = tmp_path / "var"
    directory.mkdir()
    journal, lock = directory / "webhookd.db", directory / "webhookd.db.lock"
    if journal_is_there:
        journal.touch()
        os.chown(journal, SERVER, SERVER + 1)
    else:
        os.chown(directory, SERVER, SERVER + 1)
    with exclusive_lock(journal):
        assert owner(lock) == (SERVER, SERVER + 1)
        assert lock.stat().st_mode & 0o777 == 0o600
    os.chown(lock, 0, 0)
    with exclusive_lock(journal):
        assert owner(lock) == (0, 0)


def test_a_link_gives_nothing_of_roots_away(tmp_path: Path) -> None:
    """If the server's user has put a link there, the link's target keeps its owner."""
    theirs, roots = tmp_path / "var", tmp_path / "shadow"
    theirs.mkdir()
    os.chown(theirs, SERVER, SERVER)
    roots.touch()
    (theirs / "webhookd.db.lock").symlink_to(roots)
    with exclusive_lock(theirs / "webhookd.db"):
        assert owner(roots) == (0, 0)
    (theirs / "webhookd.db.lock").unlink()
    (theirs / "webhookd.db.lock").symlink_to(tmp_path / "new")
    with exclusive_lock(theirs / "webhookd.db"):
        assert owner(tmp_path / "new") == (0, 0)
