"""How long a test waits for what must happen: so long that only a fault runs it out, however busy the machine is."""

import time
from collections.abc import Callable

import trio

PATIENCE_SECONDS = 120.0
_LOOK_SECONDS = 0.005


async def until(is_so: Callable[[], object], *, seconds: float = PATIENCE_SECONDS) -> None:
    """Return once it is so; trio.TooSlowError where that never comes. Works while a test's own clock stands still."""
    from trio.testing import MockClock  # noqa: PLC0415 - imports pytest, which most programs of the tests do without

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
    """Do as `until` does, where no loop runs."""
    given_up_at = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > given_up_at:
            raise TimeoutError
        time.sleep(_LOOK_SECONDS)
