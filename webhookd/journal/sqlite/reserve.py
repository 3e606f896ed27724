"""The reserve: a file next to the journal that keeps disk space for the time when the disk is full.

It has its full size while events are accepted. Once the disk is full it is deleted, and what can't be submitted again
(attempts, and changes that time has caused) is written into the space that it frees. Events are accepted again when the
reserve could be made in full size, with room to spare, so that it is there when the disk is full again. `writer`
decides which operations are refused and which wait. Every method blocks, and is called in the writer's thread.
"""

import errno
import os
from pathlib import Path

from webhookd.base.errors import JournalError

RESERVE_BYTES = 4 * 1024 * 1024
_SHARE_OF_DISK = 8  # the reserve's largest part of a small disk
_SPARE = 4  # a quarter of its size must be free next to it, or it would be released again at once
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Reserve:
    """The reserve of the journal at a path."""

    def __init__(self, journal: Path) -> None:
        self.path = journal.with_name(journal.name + ".reserve")

    def make(self) -> bool:
        """Make it in full size; if the disk has no room for it and some to spare, delete it and return False."""
        try:
            descriptor = self._open()
            try:
                disk = os.fstatvfs(descriptor)
                size = min(RESERVE_BYTES, disk.f_blocks * disk.f_frsize // _SHARE_OF_DISK)
                os.posix_fallocate(descriptor, 0, size)
                disk = os.fstatvfs(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            self.release()
            if error.errno in _NO_ROOM:
                return False
            raise JournalError(f"the journal's reserve {self.path} can't be written: {error.strerror}") from error
        if disk.f_bavail * disk.f_frsize < size // _SPARE:
            self.release()
            return False
        return True

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(self.path, flags, 0o600)
        except PermissionError:
            # Made by a command that ran as root; it has no content.
            self.release()
            return os.open(self.path, flags, 0o600)

    def release(self) -> None:
        """Delete it, so that its space can be used."""
        self.path.unlink(missing_ok=True)
