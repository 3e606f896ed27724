"""Keeps what is scheduled right when the wall clock isn't: what is queued, each endpoint's state, the buckets.

A clock that is set while the server runs moves everything by as much, memory and journal in one synchronous step: what
was submitted before it is moved, what is submitted after it goes by the new time, and windows are read once the move is
on disk. A clock that was set back while no server ran is noticed by times that lie further ahead than any wait can be;
they are corrected as an actor starts. One that was set forward then can't be told from a long rest, which doesn't
count as failing time (`breaker.rested`).
"""

from collections.abc import Callable

from webhookd.base.clock import Timeline
from webhookd.base.models import Endpoint, Policy
from webhookd.base.retry_after import MAX_RETRY_AFTER_SECONDS
from webhookd.crypto.vault import Vault
from webhookd.delivery.policy.correction import Bounds
from webhookd.dispatch.registry import Registry
from webhookd.journal import Loaded, Store, Ticket
from webhookd.observe.logs import get_logger

_log = get_logger("clock")


class Schedule:
    """What actors start from, and what moves it; `begin` before anything is sent."""

    def __init__(
        self, store: Store, clock: Timeline, vault: Vault, registry: Registry, policy: Callable[[Endpoint], Policy]
    ) -> None:
        self._store = store
        self._clock = clock
        self._vault = vault
        self._registry = registry
        self._policy = policy
        self._moving: Ticket[None] | None = None
        self._moves = 0

    def begin(self) -> None:
        """Hear from now on of a clock that is set."""
        self._clock.stepped = self._move

    def _move(self, seconds: float) -> None:
        _log.warning("clock.was_set", seconds=seconds)
        self._moves += 1
        self._moving = self._store.webhooks.move_times(seconds, self._moved)
        self._registry.shift(seconds)

    def _moved(self, _: None) -> None:
        self._registry.reload()

    async def settled(self) -> None:
        """Return once the journal's times are those of the clock."""
        while self._moving is not None:
            moving = self._moving
            await moving.wait()
            if self._moving is moving:
                self._moving = None

    async def load(self, endpoint: Endpoint) -> Loaded | None:
        """Read an endpoint, its secrets and its past, all as of one moment; None where it has been deleted."""
        while True:
            self._clock.now()  # which sees whether it was set
            await self.settled()
            bounds, moves, clock = _bounds(self._policy(endpoint)), self._moves, self._clock.running()
            loaded, is_beyond = await self._store.webhooks.load(self._vault, endpoint.pk, bounds, clock)
            if self._moves != moves:
                continue
            if not is_beyond:
                return loaded
            await self._store.webhooks.bring_in(endpoint.pk, bounds, clock)
            _log.warning("schedule.reined_in", endpoint=endpoint.id)


def _bounds(policy: Policy) -> Bounds:
    longest = max(policy.delays) * (1 + policy.jitter) + 1
    return Bounds(
        retry_seconds=longest,
        throttled_seconds=max(longest, MAX_RETRY_AFTER_SECONDS),
        age_seconds=policy.max_age_seconds,
    )
