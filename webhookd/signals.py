"""The signals that don't stop the server: HUP, USR1 and USR2.

Their default would end the process at once, without a drain and, for systemd, as if all were well. HUP reads the
configuration again and says in the log what a restart would change; nothing of it is applied. The others do nothing.
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
    """Let the signals pass until they are heard, and after that again."""
    for number in SURVIVED:
        signal.signal(number, signal.SIG_IGN)


@asynccontextmanager
async def hearing(config: Config, read: Callable[[], Config]) -> AsyncIterator[None]:
    """Answer the signals within the block.

    `read` returns the configuration that a start would use now, or raises a WebhookdError; it is called in a thread,
    which is left to itself where it is still at it when the block ends.
    """
    # Of its own: whoever waits for a file must not wait for other threads, nor they for it.
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
    """Say what a restart would change, or what would keep it from starting."""
    try:
        found = await trio.to_thread.run_sync(read, limiter=limiter, abandon_on_cancel=True)
    except WebhookdError as error:
        _log.error("config.unusable", error=str(error))
    else:
        _log.info("config.checked", restart_changes=changed(config, found))


def changed(old: Config, new: Config) -> tuple[str, ...]:
    """Return the keys whose values differ, not the values: one may hold a password."""
    return tuple(
        f"{section}.{key}"
        for section, keys in KEYS.items()
        for key in keys
        if getattr(getattr(old, section), key) != getattr(getattr(new, section), key)
    )
