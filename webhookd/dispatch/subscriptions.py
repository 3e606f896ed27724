"""Which endpoints an event goes to: an index in memory, so that publishing needs no query. Pure.

Operational events go to endpoints that name them exactly; `*` and prefixes never cover them.
"""

from collections.abc import Iterator

from webhookd.base.event_types import OPERATIONAL_EVENTS
from webhookd.base.models import DeliveryStatus, Endpoint, Policy, Target, WhenInactive

MOST_REMEMBERED = 1000


class Subscriptions:
    """The endpoints by organization and pattern; every change is one synchronous step."""

    def __init__(self) -> None:
        self._by_pattern: dict[tuple[str | None, str], dict[int, Target]] = {}
        self._patterns: dict[int, list[tuple[str | None, str]]] = {}
        self._found: dict[tuple[str, str | None], tuple[Target, ...]] = {}

    def put(self, endpoint: Endpoint, policy: Policy) -> None:
        """Add an endpoint, or take over what changed of it."""
        self.remove(endpoint.pk)
        drops = not endpoint.is_active and policy.when_inactive is WhenInactive.DROP
        target = Target(
            endpoint_pk=endpoint.pk,
            status=DeliveryStatus.CANCELED if drops else DeliveryStatus.PENDING,
            max_age_seconds=policy.max_age_seconds,
        )
        places = [(endpoint.organization_id, pattern) for pattern in endpoint.events]
        self._patterns[endpoint.pk] = places
        for place in places:
            self._by_pattern.setdefault(place, {})[endpoint.pk] = target

    def remove(self, endpoint_pk: int) -> None:
        """Forget an endpoint; one that isn't known is no error."""
        self._found.clear()
        for place in self._patterns.pop(endpoint_pk, ()):
            subscribers = self._by_pattern.get(place, {})
            subscribers.pop(endpoint_pk, None)
            if not subscribers:
                self._by_pattern.pop(place, None)

    def targets(self, event_type: str, organization_id: str | None) -> tuple[Target, ...]:
        """Return whom an event goes to: its organization's endpoints and those with none, each once."""
        asked = (event_type, organization_id)
        targets = self._found.get(asked)
        if targets is None:
            if len(self._found) >= MOST_REMEMBERED:
                self._found.clear()
            targets = self._found[asked] = self._find(event_type, organization_id)
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
