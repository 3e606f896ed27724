"""Which endpoints get an event: an index in memory, so that publishing needs no query. Pure.

Operational events go to endpoints that name them exactly; `*` and prefixes don't match them.
"""

from collections.abc import Iterator

from webhookd.base.event_types import OPERATIONAL_EVENTS
from webhookd.base.models import Endpoint, Policy, Target
from webhookd.delivery.policy.resolve import queued_status

MAX_CACHED = 1000


class Subscriptions:
    """The endpoints by organization and pattern; every change is one synchronous step."""

    def __init__(self) -> None:
        self._by_pattern: dict[tuple[str | None, str], dict[int, Target]] = {}
        self._patterns: dict[int, list[tuple[str | None, str]]] = {}
        self._cached: dict[tuple[str, str | None], tuple[Target, ...]] = {}

    def put(self, endpoint: Endpoint, policy: Policy) -> None:
        """Add an endpoint, or apply a change of it."""
        self.remove(endpoint.pk)
        status = queued_status(endpoint, policy)
        target = Target(endpoint_pk=endpoint.pk, status=status, max_age_seconds=policy.max_age_seconds)
        keys = [(endpoint.organization_id, pattern) for pattern in endpoint.events]
        self._patterns[endpoint.pk] = keys
        for key in keys:
            self._by_pattern.setdefault(key, {})[endpoint.pk] = target

    def remove(self, endpoint_pk: int) -> None:
        """Remove an endpoint, if it is there."""
        self._cached.clear()
        for key in self._patterns.pop(endpoint_pk, ()):
            subscribers = self._by_pattern.get(key, {})
            subscribers.pop(endpoint_pk, None)
            if not subscribers:
                self._by_pattern.pop(key, None)

    def targets(self, event_type: str, organization_id: str | None) -> tuple[Target, ...]:
        """Return the targets of an event: endpoints of its organization, and those of none, each once."""
        asked = (event_type, organization_id)
        targets = self._cached.get(asked)
        if targets is None:
            if len(self._cached) >= MAX_CACHED:
                self._cached.clear()
            targets = self._cached[asked] = self._find(event_type, organization_id)
        return targets

    def _find(self, event_type: str, organization_id: str | None) -> tuple[Target, ...]:
        found: dict[int, Target] = {}
        owners = (None,) if organization_id is None else (None, organization_id)
        for pattern in _patterns_for(event_type):
            for owner in owners:
                found |= self._by_pattern.get((owner, pattern), {})
        return tuple(found[endpoint_pk] for endpoint_pk in sorted(found))


def matches(pattern: str, event_type: str) -> bool:
    """Whether a webhook with this pattern gets events of the type."""
    return pattern in _patterns_for(event_type)


def _patterns_for(event_type: str) -> Iterator[str]:
    yield event_type
    if event_type in OPERATIONAL_EVENTS:
        return
    yield "*"
    stem = event_type
    while "." in stem:
        stem = stem.rpartition(".")[0]
        yield f"{stem}.*"
