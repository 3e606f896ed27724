"""Resolves names in its own threads, so that names whose servers don't answer delay no others.

A lookup can't be canceled: it holds its thread until the system's resolver gives up, even if the caller has long given
up. So each name is looked up by one thread at a time, for all callers, and these threads have their own bound. A name
whose last lookup was slow shares a few threads with other slow names. However many of them there are, they leave the
remaining threads to the other names.
"""

import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import trio

THREADS = 64
SLOW_THREADS = 16
SLOW_SECONDS = 1.0
SLOW_NAMES_REMEMBERED = 10_000

Lookup = Callable[[str, int], Sequence[str]]


class _Pending:
    def __init__(self) -> None:
        self.done = trio.Event()
        self.answers: Sequence[str] = ()
        self.error: OSError | None = None


def _getaddrinfo(host: str, port: int) -> Sequence[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(address[0]) for _, _, _, _, address in found))


class SystemResolver:
    """Asks the system's resolver, `/etc/hosts` included; `look_up` runs in a thread and raises OSError."""

    def __init__(
        self, look_up: Lookup = _getaddrinfo, *, threads: int = THREADS, slow_threads: int = SLOW_THREADS
    ) -> None:
        self._look_up = look_up
        self._limiter = trio.CapacityLimiter(threads)
        self._slow_limiter = trio.CapacityLimiter(slow_threads)
        self._slow: OrderedDict[str, None] = OrderedDict()  # the one that was last slow the longest ago comes first
        self._pending: dict[str, _Pending] = {}

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Return the numeric addresses of a name, in the system's order; OSError if there are none."""
        pending = self._pending.get(host)
        if pending is None:
            pending = self._pending[host] = _Pending()
            # It may outlive the first caller, whose deadline may be shorter than the lookup.
            trio.lowlevel.spawn_system_task(self._run, host, port, pending)
        await pending.done.wait()
        if pending.error is not None:
            raise pending.error
        return pending.answers

    async def _run(self, host: str, port: int, pending: _Pending) -> None:
        limiter = self._slow_limiter if host in self._slow else self._limiter
        try:
            found, seconds = await trio.to_thread.run_sync(
                _timed, self._look_up, host, port, limiter=limiter, abandon_on_cancel=True
            )
            self._remember(host, seconds)
            if isinstance(found, OSError):
                pending.error = found
            else:
                pending.answers = found
        finally:
            del self._pending[host]
            pending.done.set()

    def _remember(self, host: str, seconds: float) -> None:
        self._slow.pop(host, None)
        if seconds > SLOW_SECONDS:
            self._slow[host] = None
            if len(self._slow) > SLOW_NAMES_REMEMBERED:
                self._slow.popitem(last=False)


def _timed(look_up: Lookup, host: str, port: int) -> tuple[Sequence[str] | OSError, float]:
    """Return the answers or the error, and the seconds of the lookup without the wait for a thread."""
    began = time.monotonic()
    found: Sequence[str] | OSError
    try:
        found = look_up(host, port)
    except OSError as error:
        found = error
    except UnicodeError:
        found = OSError("it is no name that DNS could have")
    return found, time.monotonic() - began
