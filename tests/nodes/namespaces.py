"""A network of two namespaces: the database in one, a node in the other, and a cable between them that can be pulled.

With the cable pulled, packets vanish without a word, as when a switch fails. Both namespaces have a loopback of their
own; the sockets of a test can listen in each.
"""

import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DATABASE_ADDRESS = "192.0.2.1"  # of the network for documentation
_NODE_ADDRESS = "192.0.2.2"
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_BACKLOG = 512


class Network:
    """The names of the namespaces; `pull` and `plug` are for the cable between them."""

    def __init__(self, name: str) -> None:
        self.database = f"{name}-database"
        self.node = f"{name}-node"

    @property
    def database_command(self) -> tuple[str, ...]:
        """The beginning of a command that runs in the namespace of the database."""
        return ("nsenter", f"--net=/run/netns/{self.database}")

    def pull(self) -> None:
        """Let no packet through."""
        _ip("-n", self.database, "link", "set", "database", "down")

    def plug(self) -> None:
        """Let packets through."""
        _ip("-n", self.database, "link", "set", "database", "up")


def enter(namespace: str) -> None:
    """Move this thread, and those that it starts, into a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/run/netns", namespace).open() as file:
        if libc.setns(file.fileno(), _NEW_NETWORK):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), namespace)


def listen_in(namespace: str | None, port: int) -> socket.socket:
    """Return a socket that listens on the loopback of a namespace (None: this one); port 0 takes a free one."""
    listener = socket.socket() if namespace is None else _socket_of(namespace)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(_BACKLOG)
    return listener


def _socket_of(namespace: str) -> socket.socket:
    """Make a socket in a thread that has entered the namespace; the socket stays there."""
    made: list[socket.socket] = []

    def make() -> None:
        enter(namespace)
        made.append(socket.socket())

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


def why_not() -> str:
    """Return why this machine can't make namespaces; empty if it can."""
    if os.geteuid() != 0:
        return "only root may make a network namespace"
    missing = [program for program in ("ip", "nsenter") if shutil.which(program) is None]
    return f"{' and '.join(missing)} not installed" if missing else ""


@contextmanager
def network(name: str) -> Iterator[Network]:
    """Make the network; skip the test where that isn't possible."""
    if reason := why_not():
        pytest.skip(reason)
    made = Network(name)
    try:
        _ip("netns", "add", made.database)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made here: {error.stderr.decode().strip()}")
    try:
        _ip("netns", "add", made.node)
        _ip(
            *("link", "add", "database", "netns", made.database, "type", "veth"),
            *("peer", "name", "node", "netns", made.node),
        )
        for namespace, link, address in (
            (made.database, "database", DATABASE_ADDRESS),
            (made.node, "node", _NODE_ADDRESS),
        ):
            _ip("-n", namespace, "addr", "add", f"{address}/30", "dev", link)
            _ip("-n", namespace, "link", "set", "lo", "up")
            _ip("-n", namespace, "link", "set", link, "up")
        yield made
    finally:
        for namespace in (made.database, made.node):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
