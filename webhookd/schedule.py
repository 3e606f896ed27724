"""Keeps what is scheduled right when the wall clock isn't: what is queued, each endpoint's state, the buckets.

A clock that is set while the server runs moves everything by as much, memory and journal in one synchronous step: what
was submitted before it is moved, what is submitted after it goes by the new time, and windows are read once the move is
on disk. A clock that was set back while no server ran is noticed by times that lie further ahead than any wait can be;
they are brought in as an actor starts. One that was set forward then can't be told from a long rest, which doesn't
count as failing time (`breaker.rested`).
"""

from collections.abc import Callable

from webhookd.clock import Timeline
from webhookd.delivery import breaker
from webhookd.journal import Database, Journal, Ticket, endpoints, schedule
from webhookd.logs import get_logger
from webhookd.models import Credentials, Endpoint, EndpointState, Policy
from webhookd.registry import Registry
from webhookd.retry_after import MAX_RETRY_AFTER_SECONDS
from webhookd.secrets import Vault

Loaded = tuple[Endpoint, Credentials, EndpointState]

_log = get_logger("clock")


class Schedule:
    """What actors start from, and what moves it; `begin` before anything is sent."""

    def __init__(
        self, journal: Journal, clock: Timeline, vault: Vault, registry: Registry, policy: Callable[[Endpoint], Policy]
    ) -> None:
        self._journal = journal
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
        self._moving = self._journal.divide(schedule.move, self._moved, seconds)
        self._registry.move(seconds)

    def _moved(self, _: None) -> None:
        self._registry.renew()

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
            await self.settled()
            self._clock.now()  # which sees whether it was set
            policy, moves, clock = self._policy(endpoint), self._moves, self._clock.running()
            loaded, is_beyond = await self._journal.read(_load, self._vault, endpoint.pk, policy, clock)
            if self._moves != moves:
                continue
            if not is_beyond:
                return loaded
            await self._journal.insist(_rein_in, None, endpoint.pk, policy, clock).wait()
            _log.warning("schedule.reined_in", endpoint=endpoint.id)


def _bounds(policy: Policy) -> schedule.Bounds:
    longest = max(policy.delays) * (1 + policy.jitter) + 1
    return schedule.Bounds(
        retry_seconds=longest,
        throttled_seconds=max(longest, MAX_RETRY_AFTER_SECONDS),
        age_seconds=policy.max_age_seconds,
    )


def _load(
    database: Database, vault: Vault, endpoint_pk: int, policy: Policy, clock: Callable[[], float]
) -> tuple[Loaded | None, bool]:
    """Return the endpoint, and whether anything of it lies further ahead than it can."""
    credentials = endpoints.credentials(database, vault, endpoint_pk, clock())
    if credentials is None:
        return None, False
    # After the first query, which fixes what is seen: all of it is from before, however long this waited for its turn.
    now = clock()
    state, bounds = endpoints.state(database, endpoint_pk), _bounds(policy)
    is_beyond = _reined_in(state, bounds, now) != state or schedule.is_beyond(database, endpoint_pk, bounds, now)
    return (endpoints.by_pk(database, endpoint_pk)[0], credentials, state), is_beyond


def _rein_in(database: Database, endpoint_pk: int, policy: Policy, clock: Callable[[], float]) -> None:
    now, bounds, state = clock(), _bounds(policy), endpoints.state(database, endpoint_pk)
    endpoints.set_state(database, endpoint_pk, _reined_in(state, bounds, now))
    schedule.rein_in(database, endpoint_pk, bounds, now, state.last_failure_at)


def _reined_in(state: EndpointState, bounds: schedule.Bounds, now: float) -> EndpointState:
    return breaker.reined_in(state, now=now, retry_seconds=bounds.retry_seconds, pause_seconds=bounds.throttled_seconds)
