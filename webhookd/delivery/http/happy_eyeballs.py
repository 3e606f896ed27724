"""Happy Eyeballs (RFC 8305): several addresses of one name, each tried while those before it have not answered yet.

Of all that is begun at most one connection comes out; every other one is closed, whether the race is won, lost or
canceled. The addresses share the time that is left until the deadline in force: one that says nothing takes none of
another's.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Generic, Protocol, TypeVar

import trio

ATTEMPT_DELAY_SECONDS = 0.25  # RFC 8305, section 5, "Connection Attempt Delay"
LEAST_DELAY_SECONDS = 0.01  # its lowest value, section 8
MAX_AT_ONCE = 4  # a name of dead addresses alone costs no more sockets than this


class Closable(Protocol):
    """What a won race gives."""

    def close(self) -> None:
        """Close it at once."""
        ...


Connected = TypeVar("Connected", bound=Closable)
Failure = TypeVar("Failure", bound=Exception)


@dataclass(frozen=True, slots=True)
class FailedAddress(Generic[Failure]):
    """What went wrong `at` an address.

    A final one ends the race for all of them. One that `got_through` reached a server that then said something wrong,
    which tells more than an address where nobody is.
    """

    error: Failure
    at: str
    got_through: bool = False
    is_final: bool = False


def attempt_delay_seconds(count: int, left: float) -> float:
    """Return how long after one of `count` addresses the next is tried, with `left` seconds for all of them.

    All have been tried by half of that time, where RFC 8305's bounds allow it.
    """
    return max(min(ATTEMPT_DELAY_SECONDS, left / (2 * max(count - 1, 1))), LEAST_DELAY_SECONDS)


def most_telling(lost: Sequence[FailedAddress[Failure]]) -> FailedAddress[Failure]:
    """Return which of several failures to report: a final one, else one that got through, else the first."""
    return min(lost, key=lambda each: (not each.is_final, not each.got_through))


async def race(
    addresses: Sequence[str],
    connect: Callable[[str], Awaitable[Connected | FailedAddress[Failure]]],
    lost: list[FailedAddress[Failure]],
) -> Connected | None:
    """Connect to the first of `addresses` that answers; None where none does.

    The next is tried 250 ms after the last one, earlier where that one has failed or time is short. What led nowhere
    is added to `lost` as it happens, so that it is there after a cancellation too. `connect` closes what it has begun
    when it is canceled.
    """
    if len(addresses) == 1:
        only = await connect(addresses[0])
        if isinstance(only, FailedAddress):
            lost.append(only)
            return None
        return only
    left = trio.current_effective_deadline() - trio.current_time()
    delay = attempt_delay_seconds(len(addresses), left)
    share = left / ceil(len(addresses) / MAX_AT_ONCE)
    places = trio.Semaphore(MAX_AT_ONCE)
    won: list[Connected] = []

    async def attempt(address: str, seconds: float, is_over: trio.Event) -> None:
        with trio.move_on_after(seconds):
            found = await connect(address)
            if isinstance(found, FailedAddress):
                lost.append(found)
                if found.is_final:
                    nursery.cancel_scope.cancel()
            else:
                won.append(found)
                nursery.cancel_scope.cancel()
        places.release()
        is_over.set()

    try:
        async with trio.open_nursery() as nursery:
            for place, address in enumerate(addresses):
                await places.acquire()
                is_over = trio.Event()
                # As many as can go on at once do so to the end; those before them make room.
                seconds = share if place + MAX_AT_ONCE < len(addresses) else inf
                nursery.start_soon(attempt, address, seconds, is_over)
                with trio.move_on_after(delay):
                    await is_over.wait()
        if any(each.is_final for each in lost):
            return None
        return won.pop(0) if won else None
    finally:
        # Another may have answered in the same moment, or the deadline have come in it.
        for connected in won:
            connected.close()
