"""The event types that webhookd knows by name: its own, and those that the catalogue starts with."""

from enum import StrEnum


class OperationalEvent(StrEnum):
    """An event of webhookd itself; a webhook gets one only if its patterns name the type, not by a wildcard."""

    FAILING = "webhook.failing"
    RECOVERED = "webhook.recovered"
    DISABLED = "webhook.disabled"
    DELIVERY_FAILED = "delivery.failed"


OPERATIONAL_EVENTS = frozenset(event.value for event in OperationalEvent)
TEST_EVENT = "webhook.test"
"""The type of a test delivery."""

STARTING_EVENT_TYPES = (
    "user.created",
    "user.updated",
    "user.deleted",
    "user.email_verified",
    "organization.created",
    "organization.updated",
    "organization.deleted",
    "organization.member_added",
    "organization.member_removed",
    "subscription.created",
    "subscription.updated",
    "subscription.canceled",
    "subscription.renewed",
    "security.account_locked",
    "security.suspicious_login",
    "security.2fa_enabled",
    "security.2fa_disabled",
)
"""The catalogue of a new journal."""
