"""Wait for conditions: so long that only a fault exceeds the limit, however busy the machine is."""

import time
from collections.abc import Callable

import trio

PATIENCE_SECONDS = 120.0
_LOOK_SECONDS = 0.005


async def until(is_so: Callable[[], object], *, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until `is_so` returns true; raise trio.TooSlowError after `seconds` of real time.

    It also works under a virtual clock, which it does not advance.
    """
    from trio.testing import MockClock  # noqa: PLC0415 - imports pytest, which most test programs don't need

    is_virtual = isinstance(trio.lowlevel.current_clock(), MockClock)
    given_up_at = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > given_up_at:
            raise trio.TooSlowError
        if is_virtual:
            await trio.to_thread.run_sync(time.sleep, _LOOK_SECONDS)
        else:
            await trio.sleep(_LOOK_SECONDS)


def wait_until(is_so: Callable[[], object]) -> None:
    """Wait until `is_so` returns true, as `until` does, but without an event loop; raise TimeoutError."""
    given_up_at = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > given_up_at:
            raise TimeoutError
        time.sleep(_LOOK_SECONDS)
