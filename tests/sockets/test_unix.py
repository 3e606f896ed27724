"""Binding a Unix socket: the mode, a stale socket, a socket in use, other files, and paths that are too long."""

import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from webhookd.base.errors import CommandError, ConfigError
from webhookd.sockets.unix import MOST_PATH_BYTES, bind_unix


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def bind(path: Path, stack: ExitStack, mode: int = 0o660) -> socket.socket:
    return stack.enter_context(bind_unix(path, mode=mode, key="ingest.socket", backlog=8).socket)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_mode_is_exact_whatever_the_umask(tmp_path: Path, stack: ExitStack, umask: int) -> None:
    """The socket has exactly the given mode, whatever the umask is."""
    path = tmp_path / "s.sock"
    stack.callback(os.umask, os.umask(umask))
    bind(path, stack)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_missing_parent_is_made_for_owner_and_group(tmp_path: Path, stack: ExitStack, umask: int) -> None:
    """A missing directory is created with 0750 whatever the umask is: for owner and group only."""
    path = tmp_path / "var" / "s.sock"
    stack.callback(os.umask, os.umask(umask))
    bind(path, stack)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750


def test_stale_socket_is_replaced(tmp_path: Path, stack: ExitStack) -> None:
    """A socket file left by a killed server is replaced."""
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    bind(path, stack)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_socket_in_use_is_left_alone(tmp_path: Path, stack: ExitStack) -> None:
    """The socket of a running server is never replaced, and the error is one line."""
    path = tmp_path / "s.sock"
    bind(path, stack)
    before = path.stat().st_ino
    with pytest.raises(CommandError, match=r"^another server listens on .*s\.sock; stop it[^\n]*$"):
        bind(path, stack)
    assert path.stat().st_ino == before


def test_socket_with_a_full_backlog_is_in_use(tmp_path: Path, stack: ExitStack) -> None:
    """A server that is too busy to accept is still a server."""
    path = tmp_path / "s.sock"
    stack.enter_context(bind_unix(path, mode=0o660, key="ingest.socket", backlog=0).socket)
    for _ in range(3):
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.setblocking(False)
        client.connect_ex(str(path))
    with pytest.raises(CommandError, match="another server listens"):
        bind(path, stack)


def test_other_files_are_left_alone(tmp_path: Path, stack: ExitStack) -> None:
    """A file that is not a socket is never removed."""
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(CommandError, match="is not a socket"):
        bind(path, stack)
    assert path.read_text() == "data"


def test_long_path_says_how_to_mend_it(tmp_path: Path, stack: ExitStack) -> None:
    """A path over the kernel's limit is a configuration error with the key; the longest path works."""
    room = MOST_PATH_BYTES - len(os.fsencode(tmp_path)) - 1
    with pytest.raises(ConfigError, match=r"ingest\.socket: the path has 108 bytes .* choose a shorter one"):
        bind(tmp_path / ("x" * (room + 1)), stack)
    bind(tmp_path / ("x" * room), stack)


def test_two_servers_starting_at_once_do_not_mix(tmp_path: Path, stack: ExitStack) -> None:
    """While one server binds in a directory, another one that starts there is refused."""
    directory = os.open(tmp_path, os.O_RDONLY)
    stack.callback(os.close, directory)
    fcntl.flock(directory, fcntl.LOCK_EX)
    with pytest.raises(CommandError, match="just starting"):
        bind(tmp_path / "s.sock", stack)


def test_unusable_directory_is_one_line(tmp_path: Path, stack: ExitStack) -> None:
    """A parent that is not a directory is an error of one line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match=r"^can't listen on [^\n]*$"):
        bind(tmp_path / "file" / "s.sock", stack)
