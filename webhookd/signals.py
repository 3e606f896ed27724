"""The signals that don't stop the server: HUP, USR1 and USR2.

By default they would end the process without a drain, and systemd would take that for a success. HUP reads the
configuration again and logs which keys a restart would change; nothing is applied. USR1 and USR2 do nothing.
"""

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from webhookd.base.errors import WebhookdError
from webhookd.config import KEYS, Config
from webhookd.dispatch.supervisor import Supervisor
from webhookd.observe.logs import get_logger

SURVIVED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

_log = get_logger("signals")


def ignore() -> None:
    """Ignore the signals while no `hearing` block runs."""
    for number in SURVIVED:
        signal.signal(number, signal.SIG_IGN)


@asynccontextmanager
async def hearing(config: Config, read: Callable[[], Config]) -> AsyncIterator[None]:
    """Handle the signals while the block runs.

    `read` returns the configuration that a start would use now, or raises a WebhookdError. It is called in a thread,
    which is abandoned if it still runs when the block ends.
    """
    # Its own limit: a read that hangs must not delay other threads, nor they this one.
    limiter = trio.CapacityLimiter(1)

    async def hear() -> None:
        with trio.open_signal_receiver(*SURVIVED) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    await compare(config, read, limiter)
                else:
                    _log.info("signal.ignored", signal=signal.Signals(number).name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Supervisor("signals").run, hear)
        yield
        nursery.cancel_scope.cancel()


async def compare(config: Config, read: Callable[[], Config], limiter: trio.CapacityLimiter) -> None:
    """Log what a restart would change, or what would prevent a start."""
    try:
        found = await trio.to_thread.run_sync(read, limiter=limiter, abandon_on_cancel=True)
    except WebhookdError as error:
        _log.error("config.unusable", error=str(error))
    else:
        _log.info("config.checked", restart_changes=changed(config, found))


def changed(old: Config, new: Config) -> tuple[str, ...]:
    """Return the keys whose values differ, without the values: one may hold a password."""
    return tuple(
        f"{section}.{key}"
        for section, keys in KEYS.items()
        for key in keys
        if getattr(getattr(old, section), key) != getattr(getattr(new, section), key)
    )
