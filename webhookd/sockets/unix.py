"""Binding a Unix socket: it never has a wrong mode, and never replaces the socket of a running server."""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from webhookd.base.errors import CommandError, ConfigError
from webhookd.base.files import make_directory, refusal

MOST_PATH_BYTES = 107  # sockaddr_un.sun_path has 108 bytes, the final zero included (unix(7))
_PROBE_SECONDS = 1.0
_DIRECTORY_MODE = 0o750


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixListener:
    """A listening socket and its file, which `identity` (device, inode) distinguishes from a later one."""

    socket: socket.socket
    path: Path
    identity: tuple[int, int] | None

    def close(self) -> None:
        """Stop listening, and remove the socket file unless another server has replaced it; may be called again."""
        if self.identity is not None and _identity(self.path) == self.identity:
            self.path.unlink(missing_ok=True)
        self.socket.close()


def bind_unix(path: Path, *, mode: int, key: str, backlog: int) -> UnixListener:
    """Listen on a socket at `path` with exactly that mode; a missing parent directory is created with mode 0750.

    A socket file on which no server listens is replaced. Raises ConfigError, naming the configuration's `key`, if the
    path is too long for the kernel, and CommandError if the path is in use or can't be used.
    """
    length = len(os.fsencode(path))
    if length > MOST_PATH_BYTES:
        raise ConfigError(
            f"{key}: the path has {length} bytes and a Unix socket's may have {MOST_PATH_BYTES}; "
            f"choose a shorter one, such as /run/webhookd/{path.name[-40:]} ({path})"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        make_directory(path.parent, mode=_DIRECTORY_MODE)
        with _only_binder(path.parent):
            _clear_place(path)
            listener.bind(str(path))
            # Connections are refused until listen(), so the mode that bind() has left lets no client in.
            path.chmod(mode)
            listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise CommandError(f"can't listen on {path}: {refusal(error, path, f'set {key} to another place')}") from error
    except BaseException:
        listener.close()
        raise
    return UnixListener(socket=listener, path=path, identity=_identity(path))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def _only_binder(directory: Path) -> Iterator[None]:
    """Keep two servers that start at the same time from replacing each other's new socket as a stale one."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CommandError(f"another server is just starting in {directory}; try again") from error
        yield
    finally:
        os.close(descriptor)


def _clear_place(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise CommandError(f"{path} exists and is not a socket; move it away or choose another path")
    if _is_listened_on(path):
        raise CommandError(f"another server listens on {path}; stop it or choose another path")
    path.unlink(missing_ok=True)


def _is_listened_on(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except (TimeoutError, BlockingIOError):
            return True  # its backlog is full: a server listens, and is busy
        except OSError as error:
            if error.errno == errno.EPROTOTYPE:
                return True  # a socket of another type, such as a datagram socket, is in use
            raise
    return True
