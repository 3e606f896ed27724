"""The user and groups of the process at the other end of a Unix socket, as the kernel reports them."""

import ctypes
import errno
import os
import socket
import struct
from dataclasses import dataclass
from typing import Protocol

_SO_PEERGROUPS = 59  # asm-generic/socket.h; Python has no name for it
_GID = struct.Struct("=I")
_UCRED = struct.Struct("=iII")
_MOST_OPTION_BYTES = 1024  # what Python's getsockopt takes: 256 groups
_MOST_GROUPS = 65_536  # a process has no more (NGROUPS_MAX in linux/limits.h)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A peer's credentials at the time it connected; `gids` has its primary and its supplementary groups."""

    pid: int
    uid: int
    gids: frozenset[int]


class UnixSocket(Protocol):
    """A connected Unix socket of the standard library or of trio."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """Return an option's bytes."""
        ...

    def fileno(self) -> int:
        """Return the descriptor."""
        ...


def read_peer(connection: UnixSocket) -> Peer:
    """Return the peer of a connected Unix socket; OSError if the kernel doesn't report it.

    A kernel before 4.13 doesn't report supplementary groups. `gids` then has the primary group alone, so that a peer
    that is allowed by another group only is refused.
    """
    pid, uid, gid = _credentials(connection)
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_OPTION_BYTES)
    except OSError as error:
        match error.errno:
            case errno.ENOPROTOOPT:
                packed = b""
            case errno.ERANGE:
                packed = _many_groups(connection.fileno())
            case _:
                raise
    return Peer(pid=pid, uid=uid, gids=frozenset({gid, *(group for (group,) in _GID.iter_unpack(packed))}))


def read_uid(connection: UnixSocket) -> int:
    """Return the user id of the peer of a connected Unix socket; OSError if the kernel doesn't report it."""
    return _credentials(connection)[1]


def _credentials(connection: UnixSocket) -> tuple[int, int, int]:
    pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid, gid


def _many_groups(descriptor: int) -> bytes:
    """Call the C library's getsockopt, which takes a buffer of any size."""
    buffer = ctypes.create_string_buffer(_MOST_GROUPS * _GID.size)
    size = ctypes.c_uint32(len(buffer))
    library = ctypes.CDLL(None, use_errno=True)
    if library.getsockopt(descriptor, socket.SOL_SOCKET, _SO_PEERGROUPS, buffer, ctypes.byref(size)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return buffer.raw[: size.value]


def is_allowed(peer: Peer, uids: tuple[int, ...], gids: tuple[int, ...]) -> bool:
    """Whether the lists allow the peer: by its user, or by any of its groups; two empty lists allow every peer."""
    if not uids and not gids:
        return True
    return peer.uid in uids or not peer.gids.isdisjoint(gids)
