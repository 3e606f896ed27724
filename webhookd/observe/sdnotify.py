"""Notifies the service manager: ready, stopping, and alive while the event loop runs (sd_notify(3)).

Without NOTIFY_SOCKET it does nothing. A notification that fails is logged and has no other effect.
"""

import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio

from webhookd.observe.logs import get_logger

READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"

_log = get_logger("sdnotify")


def notify(*facts: str, environ: Mapping[str, str] = os.environ) -> None:
    """Send assignments such as `READY=1` in one datagram, without waiting."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.setblocking(False)
            # A name that starts with @ is in the abstract namespace: for the kernel it starts with a zero byte.
            manager.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            manager.send("\n".join(facts).encode())
    except OSError as error:
        _log.warning("sdnotify.failed", facts=facts, error=error.strerror)


def watchdog_seconds(environ: Mapping[str, str] = os.environ) -> float | None:
    """Return the watchdog timeout that the service manager has for this process, or None."""
    text, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not text.isdigit() or int(text) == 0 or (pid.isdigit() and int(pid) != os.getpid()):
        return None
    return int(text) / 1_000_000


@asynccontextmanager
async def alive(environ: Mapping[str, str] = os.environ) -> AsyncIterator[None]:
    """Notify the watchdog while the block runs, three times within its timeout.

    A task of the event loop does it: if the loop is stuck, the service manager restarts the process.
    """
    seconds = watchdog_seconds(environ)
    async with trio.open_nursery() as nursery:
        if seconds is not None:
            nursery.start_soon(_beat, seconds / 3, environ)
        yield
        nursery.cancel_scope.cancel()


async def _beat(pause_seconds: float, environ: Mapping[str, str]) -> None:
    while True:
        notify(ALIVE, environ=environ)
        await trio.sleep(pause_seconds)
