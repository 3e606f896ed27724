"""Keeps scheduled times right when the wall clock is not: those of the queue, the endpoints' states and the buckets.

A clock that is set while the server runs moves all times by as much, in memory and in the journal, in one synchronous
step. Rows that were submitted before it are moved; rows that are submitted after it have the new time; windows are read
again once the move is on disk. A clock that was set back while no server ran shows by times further ahead than any wait
can be; they are corrected when an actor starts. A clock that was set forward meanwhile looks like a long time without
attempts, which doesn't count as failing time (`breaker.rested`).
"""

from collections.abc import Callable

from webhookd.base.clock import Timeline
from webhookd.base.models import Endpoint, Policy
from webhookd.base.retry_after import MAX_RETRY_AFTER_SECONDS
from webhookd.crypto.vault import Vault
from webhookd.delivery.policy.clock_correction import Bounds
from webhookd.journal import Loaded, Store, Ticket
from webhookd.observe.logs import get_logger

_log = get_logger("clock")


class Schedule:
    """Loads what an actor starts from; once it has begun, moves all times when the clock is set."""

    def __init__(self, store: Store, clock: Timeline, vault: Vault, policy: Callable[[Endpoint], Policy]) -> None:
        self._store = store
        self._clock = clock
        self._vault = vault
        self._policy = policy
        self._moving: Ticket[None] | None = None
        self._moves = 0
        self._corrected: Callable[[], None] = lambda: None

    def begin(
        self, *, shift: Callable[[float], None], reload: Callable[[], None], corrected: Callable[[], None]
    ) -> None:
        """From now on move all times when the clock is set.

        `shift` moves the times in memory; `reload` has the actors read settings and queues again, and is called once
        the journal has been moved; `corrected` is called whenever times in the journal have been moved or corrected.
        """

        def moved(_: None) -> None:
            reload()
            corrected()

        def move(seconds: float) -> None:
            _log.warning("clock.was_set", seconds=seconds)
            self._moves += 1
            self._moving = self._store.webhooks.move_times(seconds, moved)
            shift(seconds)

        self._corrected = corrected
        self._clock.stepped = move

    async def settled(self) -> None:
        """Return once the journal has been moved to the time of the clock."""
        while self._moving is not None:
            moving = self._moving
            await moving.wait()
            if self._moving is moving:
                self._moving = None

    async def load(self, endpoint: Endpoint) -> Loaded | None:
        """Read an endpoint, its secrets and its state in one transaction; None if it has been deleted."""
        while True:
            self._clock.now()  # notices whether it was set
            await self.settled()
            bounds, moves, clock = _bounds(self._policy(endpoint)), self._moves, self._clock.running()
            loaded, is_beyond = await self._store.webhooks.load(self._vault, endpoint.pk, bounds, clock)
            if self._moves != moves:
                continue
            if not is_beyond:
                return loaded
            await self._store.webhooks.bring_in(endpoint.pk, bounds, clock)
            self._corrected()
            _log.warning("schedule.reined_in", endpoint=endpoint.id)


def _bounds(policy: Policy) -> Bounds:
    longest = max(policy.delays) * (1 + policy.jitter) + 1
    return Bounds(
        retry_seconds=longest,
        throttled_seconds=max(longest, MAX_RETRY_AFTER_SECONDS),
        age_seconds=policy.max_age_seconds,
    )
