"""What to tell an operator whose machine refuses a file: why, to which user, and how to mend it."""

import errno
import os
import pwd
import stat
from pathlib import Path
from typing import BinaryIO


def refusal(error: OSError, path: Path, otherwise: str) -> str:
    """Return one sentence on why `path` can't be used, and how to mend it; `otherwise` is the way around.

    It names the user that asked, since the files of a service, a volume or a mount often belong to another.
    """
    reason = error.strerror or str(error)
    directory = _existing(path)
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
            return f"it is a directory where a file is wanted: {otherwise}"
        case _:
            return reason


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading; OSError for what can't be, and for a pipe, a socket or a device.

    A pipe that nobody writes to would keep its reader waiting, and a signal would not end that.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        check_file(descriptor, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_file(descriptor: int, path: Path) -> None:
    """Raise OSError where a descriptor is of no regular file."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, and no file", str(path))


def make_directory(directory: Path, *, mode: int = 0o755) -> None:
    """Make a missing directory and the missing ones above it, of which nobody else may replace what is in them.

    Whatever the umask is, none of them is looser than 0755; the last one has exactly `mode` where it was made here. One
    that is there already is somebody's, and stays as it is. Raises OSError.
    """
    missing = []
    place = directory.absolute()
    while not place.is_dir():
        missing.append(place)
        place = place.parent
    for each in reversed(missing):
        try:
            # Made tight at once: between a loose one and a chmod somebody could get in.
            each.mkdir(mode=mode if each is missing[0] else 0o755)
        except FileExistsError:
            if not each.is_dir():
                raise
        else:
            if each is missing[0]:
                each.chmod(mode)  # an umask may have taken what its owner needs


def _existing(path: Path) -> Path:
    """Return the nearest directory above `path` that exists, or the file that stands where one should be."""
    for parent in path.parents:
        if os.path.lexists(parent):
            return parent
    return Path("/")


def user(uid: int) -> str:
    """Name a user for people: by name and number, or by number alone where it has no name."""
    try:
        return f"user {pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:  # in a container a number may be all that there is
        return f"uid {uid}"
