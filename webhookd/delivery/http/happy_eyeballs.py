"""Happy Eyeballs (RFC 8305): connect to several addresses of one name, each before the earlier ones have answered.

At most one connection is returned; all others are closed, whether the race is won, lost or canceled. The addresses
share the time until trio's current deadline, so one that never answers doesn't use up the time of another.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Generic, Protocol, TypeVar

import trio

ATTEMPT_DELAY_SECONDS = 0.25  # RFC 8305, section 5, "Connection Attempt Delay"
LEAST_DELAY_SECONDS = 0.01  # its lowest value, section 8
MAX_AT_ONCE = 4  # sockets, even if no address of a name answers


class Closable(Protocol):
    """A connection, as `race` sees it."""

    def close(self) -> None:
        """Close it at once."""
        ...


Connected = TypeVar("Connected", bound=Closable)
Failure = TypeVar("Failure", bound=Exception)


@dataclass(frozen=True, slots=True)
class FailedAddress(Generic[Failure]):
    """A failure `at` an address; a final one ends the race.

    `got_through`: a server was reached and then failed, which is more useful to report than an address without one.
    """

    error: Failure
    at: str
    got_through: bool = False
    is_final: bool = False


def attempt_delay_seconds(count: int, left: float) -> float:
    """Return the delay between the attempts at `count` addresses, with `left` seconds for all of them.

    All are tried within half of that time, where RFC 8305's bounds allow it.
    """
    return max(min(ATTEMPT_DELAY_SECONDS, left / (2 * max(count - 1, 1))), LEAST_DELAY_SECONDS)


def most_telling(lost: Sequence[FailedAddress[Failure]]) -> FailedAddress[Failure]:
    """Return the failure to report: a final one, else one that got through, else the first."""
    return min(lost, key=lambda each: (not each.is_final, not each.got_through))


async def race(
    addresses: Sequence[str],
    connect: Callable[[str], Awaitable[Connected | FailedAddress[Failure]]],
    lost: list[FailedAddress[Failure]],
) -> Connected | None:
    """Connect to the first of `addresses` that answers; None if none does.

    The next address is tried after 250 ms, or earlier if the last one has failed or time is short. Failures are added
    to `lost` as they happen, so they can be read after a cancelation too. When `connect` is canceled, it closes its
    socket itself.
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
                # The last four may take all the time; earlier ones get a share of it, to make room.
                seconds = share if place + MAX_AT_ONCE < len(addresses) else inf
                nursery.start_soon(attempt, address, seconds, is_over)
                with trio.move_on_after(delay):
                    await is_over.wait()
        if any(each.is_final for each in lost):
            return None
        return won.pop(0) if won else None
    finally:
        # Another one may have connected, or the deadline have passed, in the same step.
        for connected in won:
            connected.close()
