"""Directories that webhookd creates have a safe mode whatever the umask is."""

import ast
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.foreign import PACKAGE
from webhookd.base.files import make_directory
from webhookd.cli import program
from webhookd.cli.checks import _open_to_others
from webhookd.crypto.key_file import create_master_key
from webhookd.journal.sqlite.database import exclusive_lock
from webhookd.sockets.unix import bind_unix


@contextmanager
def masked(umask: int) -> Iterator[None]:
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)


def modes(top: Path) -> dict[str, int]:
    """Return the modes of all directories below one."""
    return {str(each.relative_to(top)): stat.S_IMODE(each.stat().st_mode) for each in top.rglob("*") if each.is_dir()}


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_missing_directories_are_made_tight(tmp_path: Path, umask: int) -> None:
    """Parents get 0755 or less, the directory exactly the given mode; existing directories are not changed."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there").chmod(0o777)
    with masked(umask):
        make_directory(tmp_path / "there" / "a" / "b", mode=0o750)
        make_directory(tmp_path / "there" / "a" / "b", mode=0o700)
    parent = 0o755 & ~umask
    assert modes(tmp_path) == {"there": 0o777, "there/a": parent, "there/a/b": 0o750}


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    """If a parent is a file, nothing is created."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "a"):
        with pytest.raises(OSError, match="file"):
            make_directory(path)


def test_every_door_makes_them_so(tmp_path: Path) -> None:
    """Under umask 000, no other user can write to the new directories of socket, journal, key and configuration."""
    with masked(0):
        bind_unix(tmp_path / "run/p/q/ingest.sock", mode=0o660, key="ingest.socket", backlog=1).close()
        with exclusive_lock(tmp_path / "var/p/q/webhookd.db"):
            pass
        create_master_key(tmp_path / "etc/p/q/master.key")
        program.main(["init", "--json", str(tmp_path / "here/p/q")], standalone_mode=False)
    for name, mode in modes(tmp_path).items():
        assert not mode & 0o022, (name, oct(mode))
    config = tmp_path / "here/p/q/config.toml"
    assert stat.S_IMODE(config.stat().st_mode) == 0o644


def test_nothing_else_makes_a_directory() -> None:
    """Only `make_directory` creates directories in the package: no other call is safe under every umask."""
    calls = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in {"mkdir", "makedirs"}
    }
    assert calls == {"base/files.py"}


def test_doctor_names_what_others_may_write(tmp_path: Path) -> None:
    """A directory that all users or a group can write to is reported, at any level; a sticky parent is not."""
    place = tmp_path / "a" / "b"
    make_directory(place)
    assert [found.detail for found in _open_to_others(place) if str(tmp_path) in found.detail] == []
    for each, mode, says in (
        (place, 0o777, "every user"),
        (place.parent, 0o757, "every user"),
        (place, 0o1777, "every user"),
    ):
        each.chmod(mode)
        [found] = [one for one in _open_to_others(place) if str(tmp_path) in one.detail]
        assert found.detail.startswith(f"{says} can write to {each}: chmod")
        each.chmod(0o755)
    place.parent.chmod(0o1777)
    assert [one for one in _open_to_others(place) if str(tmp_path) in one.detail] == []
    if os.geteuid() == 0:
        place.parent.chmod(0o775)
        os.chown(place.parent, -1, 4711)
        [found] = [one for one in _open_to_others(place) if str(tmp_path) in one.detail]
        assert found.detail.startswith(f"the group 4711 can write to {place.parent}: chmod g-w")
