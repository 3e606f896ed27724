"""What the service manager is told: ready, stopping, and alive as long as the loop turns (sd_notify(3)).

Where nobody asked to be told, nothing happens; where it can't be told, that is logged and changes nothing else.
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
    """Send facts such as `READY=1` in one datagram, without waiting."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.setblocking(False)
            # A name that starts with @ is in the abstract namespace, which the kernel writes with a zero byte.
            manager.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            manager.send("\n".join(facts).encode())
    except OSError as error:
        _log.warning("sdnotify.failed", facts=facts, error=error.strerror)


def watchdog_seconds(environ: Mapping[str, str] = os.environ) -> float | None:
    """Return how long the service manager waits for a sign of life, None where it doesn't wait for this process's."""
    text, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not text.isdigit() or int(text) == 0 or (pid.isdigit() and int(pid) != os.getpid()):
        return None
    return int(text) / 1_000_000


@asynccontextmanager
async def alive(environ: Mapping[str, str] = os.environ) -> AsyncIterator[None]:
    """Tell the service manager within the block that this process is alive, three times as often as it asks.

    It is the event loop that tells: one that is stuck falls silent, and the service manager starts the process again.
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
