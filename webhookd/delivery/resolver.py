"""Resolving names in threads of its own, so that dead names keep nobody else waiting.

A lookup can't be canceled: it holds its thread until the system's resolver gives up, long after the one who asked. So
each name is looked up by one thread at a time, whoever asks meanwhile waits for that one, and the threads are bounded
apart from all others.
"""

import socket
from collections.abc import Sequence

import trio

THREADS = 32


class _Lookup:
    def __init__(self) -> None:
        self.done = trio.Event()
        self.answers: Sequence[str] = ()
        self.error: OSError | None = None


class SystemResolver:
    """Asks the machine's resolver, `/etc/hosts` included."""

    def __init__(self, threads: int = THREADS) -> None:
        self._limiter = trio.CapacityLimiter(threads)
        self._lookups: dict[str, _Lookup] = {}

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Return the numeric addresses of a name, in the system's order; OSError where there are none."""
        lookup = self._lookups.get(host)
        if lookup is None:
            lookup = self._lookups[host] = _Lookup()
            # It outlives the one who asked first, whose deadline may be shorter than the lookup.
            trio.lowlevel.spawn_system_task(self._look_up, host, port, lookup)
        await lookup.done.wait()
        if lookup.error is not None:
            raise lookup.error
        return lookup.answers

    async def _look_up(self, host: str, port: int, lookup: _Lookup) -> None:
        try:
            lookup.answers = await trio.to_thread.run_sync(
                _getaddrinfo, host, port, limiter=self._limiter, abandon_on_cancel=True
            )
        except OSError as error:
            lookup.error = error
        except UnicodeError as error:
            lookup.error = OSError(f"not a name: {error}")
        finally:
            del self._lookups[host]
            lookup.done.set()


def _getaddrinfo(host: str, port: int) -> Sequence[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(address[0]) for _, _, _, _, address in found))
