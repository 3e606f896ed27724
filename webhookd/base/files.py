"""Opening files and creating directories, and error messages that say how to fix a refused path."""

import errno
import os
import pwd
import stat
from pathlib import Path
from typing import BinaryIO


def refusal(error: OSError, path: Path, otherwise: str) -> str:
    """Return a sentence on why `path` can't be used and how to fix it; `otherwise` is the alternative.

    It names the process's user: the files of a service, a volume or a mount often belong to another one.
    """
    reason = error.strerror or str(error)
    directory = next(filter(os.path.lexists, path.parents), Path("/"))  # the nearest that exists; it may be a file
    match error.errno:
        case errno.EACCES | errno.EPERM:
            uid = os.geteuid()
            return (
                f"{reason}. webhookd runs as {user(uid)}: give it that place (chown -R {uid} {directory}), "
                f"or {otherwise}"
            )
        case errno.EROFS:
            return (
                f"{reason}: mount {directory} for writing (in a systemd unit: ReadWritePaths={directory}), "
                f"or {otherwise}"
            )
        case errno.ENOTDIR | errno.EEXIST:
            return f"{directory} is a file, not a directory: move it away, or {otherwise}"
        case errno.EISDIR:
            return f"it is a directory, not a file: {otherwise}"
        case _:
            return reason


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading; OSError if it can't be opened, or is a pipe, a socket or a device.

    Reading from a pipe without a writer would block for ever, and a signal would not end it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        check_file(descriptor, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_file(descriptor: int, path: Path) -> None:
    """Raise OSError if a descriptor is not a regular file."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, not a file", str(path))


def make_directory(directory: Path, *, mode: int = 0o755) -> None:
    """Create a directory and its missing parents, in which no other user can replace files. Raises OSError.

    Parents get at most mode 0755, and the directory itself exactly `mode`, whatever the umask is. A directory that
    exists is not changed.
    """
    missing = []
    place = directory.absolute()
    while not place.is_dir():
        missing.append(place)
        place = place.parent
    for each in reversed(missing):
        try:
            # Not with a chmod afterwards: another user could get in before it.
            each.mkdir(mode=mode if each is missing[0] else 0o755)
        except FileExistsError:
            if not each.is_dir():
                raise
        else:
            if each is missing[0]:
                each.chmod(mode)  # the umask may have removed the owner's bits


def sync_directory(path: Path) -> None:
    """Write a directory's entries to disk; OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def user(uid: int) -> str:
    """Return a user's name and number for a message, or the number alone if it has no name."""
    try:
        return f"user {pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:  # in a container a user may have no name
        return f"uid {uid}"
