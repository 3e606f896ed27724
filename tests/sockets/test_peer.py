"""Peer credentials as the kernel reports them, and the lists of allowed users and groups."""

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from webhookd.sockets.peer import Peer, is_allowed, read_peer


def test_kernel_names_this_process_with_all_its_groups() -> None:
    """Uid, primary and supplementary groups are those of the process that connected."""
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        peer = read_peer(left)
    assert (peer.pid, peer.uid) == (os.getpid(), os.getuid())
    assert peer.gids == {os.getgid(), *os.getgroups()}


@pytest.mark.parametrize("count", [2, 256, 257, 3000])
def test_supplementary_groups_are_seen(tmp_path: Path, count: int) -> None:
    """All supplementary groups of another process are read, however many there are."""
    path = tmp_path / "s"
    # Only root may give a process groups of its choice.
    groups = list(range(4242, 4242 + count)) if os.getuid() == 0 else os.getgroups()
    connect = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(path)!r}); s.recv(1)"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(10)
        with subprocess.Popen(
            [sys.executable, "-c", connect], extra_groups=groups if os.getuid() == 0 else None
        ) as process:
            accepted, _ = listener.accept()
            with accepted:
                peer = read_peer(accepted)
    assert peer.pid == process.pid
    assert peer.gids == {os.getgid(), *groups}
    assert is_allowed(peer, (), tuple(groups[-1:]))


@pytest.mark.parametrize(
    ("uids", "gids", "allowed"),
    [
        ((), (), True),
        ((1000,), (), True),
        ((1001,), (), False),
        ((), (50,), True),
        ((), (51,), False),
        ((1001,), (50,), True),
        ((0,), (51,), False),
    ],
)
def test_either_list_admits(uids: tuple[int, ...], gids: tuple[int, ...], *, allowed: bool) -> None:
    """A peer is allowed by its user or by one of its groups; with two empty lists, always."""
    peer = Peer(pid=1, uid=1000, gids=frozenset({40, 50}))
    assert is_allowed(peer, uids, gids) is allowed


class OldKernel:
    """A socket of a kernel without SO_PEERGROUPS."""

    def getsockopt(self, _level: int, optname: int, _buflen: int, /) -> bytes:
        if optname == 59:
            raise OSError(errno.ENOPROTOOPT, "no such option")
        return (1).to_bytes(4, "little") + (7).to_bytes(4, "little") + (8).to_bytes(4, "little")

    def fileno(self) -> int:
        raise AssertionError("asked for a descriptor")


def test_a_kernel_that_tells_no_groups_leaves_the_primary_one() -> None:
    """If the kernel doesn't report supplementary groups, only the primary group counts."""
    assert read_peer(OldKernel()) == Peer(pid=1, uid=7, gids=frozenset({8}))
