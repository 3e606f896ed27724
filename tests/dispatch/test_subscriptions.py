"""Which endpoints get an event."""

import msgspec
import pytest

from tests.samples import endpoint
from webhookd.base.models import DeliveryStatus, PolicyOverrides, WhenInactive
from webhookd.config import DeliveryConfig
from webhookd.delivery.policy.resolve import resolve
from webhookd.dispatch.subscriptions import Subscriptions

POLICY = resolve(PolicyOverrides(), DeliveryConfig())


def index(*subscribers: tuple[int, tuple[str, ...], str | None]) -> Subscriptions:
    subscriptions = Subscriptions()
    for pk, events, organization_id in subscribers:
        subscriptions.put(
            msgspec.structs.replace(endpoint(), pk=pk, events=events, organization_id=organization_id), POLICY
        )
    return subscriptions


def reached(subscriptions: Subscriptions, event_type: str, organization_id: str | None = None) -> list[int]:
    return [target.endpoint_pk for target in subscriptions.targets(event_type, organization_id)]


@pytest.mark.parametrize(
    ("event_type", "pks"),
    [
        ("user.created", [1, 2, 3]),
        ("user.email.verified", [2, 3, 4]),
        ("user", [3]),
        ("users.created", [3]),
        ("webhook.disabled", [5]),
        ("webhook.failing", []),
        ("webhook.test", [3, 6]),
    ],
)
def test_patterns_match_whole_segments_and_operational_events_only_by_name(event_type: str, pks: list[int]) -> None:
    """`user.*` matches all below `user.`; `*` matches all but operational events, which need their exact name."""
    subscriptions = index(
        (1, ("user.created",), None),
        (2, ("user.*", "user.created"), None),
        (3, ("*",), None),
        (4, ("user.email.*",), None),
        (5, ("webhook.disabled",), None),
        (6, ("webhook.*",), None),
    )
    assert reached(subscriptions, event_type) == pks


def test_organizations_get_their_own_events_and_unbound_webhooks_get_all() -> None:
    """An event of an organization reaches its webhooks and those of none; an event of none only the latter."""
    subscriptions = index((1, ("*",), None), (2, ("*",), "acme"), (3, ("*",), "globex"))
    assert reached(subscriptions, "user.created", "acme") == [1, 2]
    assert reached(subscriptions, "user.created", "nobody") == [1]
    assert reached(subscriptions, "user.created") == [1]


def test_changes_and_removals_take_effect_at_once() -> None:
    """After a change only the new patterns match, and a removed endpoint gets no events."""
    subscriptions = index((1, ("user.*", "*"), None))
    subscriptions.put(msgspec.structs.replace(endpoint(), pk=1, events=("organization.created",)), POLICY)
    assert reached(subscriptions, "user.created") == []
    assert reached(subscriptions, "organization.created") == [1]
    subscriptions.remove(1)
    subscriptions.remove(1)
    assert reached(subscriptions, "organization.created") == []


@pytest.mark.parametrize(
    ("is_active", "when_inactive", "status"),
    [
        (True, WhenInactive.DROP, DeliveryStatus.PENDING),
        (False, WhenInactive.HOLD, DeliveryStatus.PENDING),
        (False, WhenInactive.DROP, DeliveryStatus.CANCELED),
    ],
)
def test_an_inactive_webhook_holds_or_drops(
    is_active: bool, when_inactive: WhenInactive, status: DeliveryStatus
) -> None:
    """Held events are queued, dropped ones are recorded as canceled; an active webhook's are always queued."""
    subscriptions = Subscriptions()
    policy = msgspec.structs.replace(POLICY, when_inactive=when_inactive)
    subscriptions.put(msgspec.structs.replace(endpoint(), is_active=is_active), policy)
    assert [target.status for target in subscriptions.targets("user.created", None)] == [status]
