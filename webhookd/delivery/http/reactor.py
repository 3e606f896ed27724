"""Waits for all connections at once, and calls what belongs to each one that can be read or written.

A connection is registered once, for as long as it is open, so a request costs no system call for waiting: the kernel
keeps the set, and one trio task waits for it. The set itself is readable when one of its members is.
"""

import selectors
from collections.abc import Callable
from socket import socket

import trio

READS = selectors.EVENT_READ
WRITES = selectors.EVENT_WRITE
CALLS_A_TURN = 32  # before other tasks get a turn: each may take up to 0.3 ms, until the next request is sent


class Reactor:
    """Calls `ready` of each registered socket while `run` runs; a socket must be removed before it is closed."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def add(self, connected: socket, ready: Callable[[], None]) -> None:
        """Call `ready` whenever the socket can be read or has failed; it may be called once more after `remove`."""
        self._selector.register(connected, READS, ready)

    def wait_for(self, connected: socket, events: int) -> None:
        """Wait for other events from now on: `READS`, `WRITES` or both."""
        self._selector.modify(connected, events, self._selector.get_key(connected).data)

    def remove(self, connected: socket) -> None:
        """Wait for this socket no longer."""
        self._selector.unregister(connected)

    async def run(self) -> None:
        """Wait and call until canceled; what `ready` raises ends it."""
        while True:
            await trio.lowlevel.wait_readable(self._selector.fileno())
            for number, (key, _) in enumerate(self._selector.select(0), 1):
                key.data()
                if number % CALLS_A_TURN == 0:
                    await trio.lowlevel.checkpoint()
