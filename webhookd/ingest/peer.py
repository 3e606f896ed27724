"""Who is at the other end of a Unix socket, by the kernel's word, and whether that peer may submit events."""

import errno
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

_SO_PEERGROUPS = 59  # asm-generic/socket.h; Python has no name for it
_GID = struct.Struct("=I")
_UCRED = struct.Struct("=iII")
_MOST_OPTION_BYTES = 1024  # what Python's getsockopt takes: 256 groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A peer's credentials as they were when it connected; `gids` holds its primary and supplementary groups."""

    pid: int
    uid: int
    gids: frozenset[int]


def read_peer(getsockopt: Callable[[int, int, int], bytes]) -> Peer:
    """Ask the kernel for the peer of a connected Unix socket, given that socket's `getsockopt`.

    A peer in more than 256 groups shows its primary group alone, so that a rule on the others refuses it.
    """
    pid, uid, gid = _UCRED.unpack(getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    try:
        packed = getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_OPTION_BYTES)
    except OSError as error:
        # ENOPROTOOPT: a kernel before 4.13, which can't tell.
        if error.errno not in {errno.ERANGE, errno.ENOPROTOOPT}:
            raise
        packed = b""
    return Peer(pid=pid, uid=uid, gids=frozenset({gid, *(group for (group,) in _GID.iter_unpack(packed))}))


def is_allowed(peer: Peer, uids: tuple[int, ...], gids: tuple[int, ...]) -> bool:
    """Whether the lists admit the peer: by its user or by any of its groups; two empty lists admit everybody."""
    if not uids and not gids:
        return True
    return peer.uid in uids or not peer.gids.isdisjoint(gids)
