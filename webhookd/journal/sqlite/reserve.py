"""Room that is kept back for the time when the disk is full: a file beside the journal that holds nothing.

It is whole while events are taken. Once the disk is full it is removed, and what nobody could submit again (attempts,
what time has done) is written into the room that it leaves. Events are taken again when it could be made whole, with
room to spare, so the next full disk finds it there. Every call blocks and is for the writer's turn.
"""

import errno
import os
from pathlib import Path

from webhookd.base.errors import JournalError

RESERVE_BYTES = 4 * 1024 * 1024
_SHARE_OF_DISK = 8  # of a disk that is smaller than it should be, this part of it
_SPARE = 4  # a quarter of the reserve has to be free beside it, or it would be given up again at once
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Reserve:
    """The reserve of the journal at a path."""

    def __init__(self, journal: Path) -> None:
        self.path = journal.with_name(journal.name + ".reserve")

    def make(self) -> bool:
        """Make it whole; False, and nothing of it there, where the disk has no room for it and some beside."""
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
            # Made by a command that root has run; it holds nothing.
            self.release()
            return os.open(self.path, flags, 0o600)

    def release(self) -> None:
        """Give its room to whoever needs it."""
        self.path.unlink(missing_ok=True)
