"""What commits have changed, for all that is remembered in memory: told on the loop, in the order of the commits.

Memory follows the disk and never runs ahead of it, and two changes never cross.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from webhookd.base.models import Endpoint, QueuedDelivery
from webhookd.delivery.policy.forgiveness import Forgiveness
from webhookd.journal.rows import KeyRow

C = TypeVar("C", bound="Change")


class DeliveriesQueued(NamedTuple):
    """Deliveries that are new at the end of their endpoints' queues; a long list comes in parts."""

    deliveries: Sequence[QueuedDelivery]


class WebhookChanged(NamedTuple):
    """A webhook that is new or has been changed; `forgiveness` is what the change forgave it."""

    endpoint: Endpoint
    forgiveness: Forgiveness | None = None


class WebhookDeleted(NamedTuple):
    """A webhook that has been deleted."""

    endpoint: Endpoint


class EventTypeAdded(NamedTuple):
    """A name that is in the catalogue of event types."""

    name: str


class EventTypeRemoved(NamedTuple):
    """A name that is no longer in the catalogue."""

    name: str


class KeyAdded(NamedTuple):
    """An API key that is valid."""

    key: KeyRow


class KeyRevoked(NamedTuple):
    """An API key that is not valid any more."""

    key: KeyRow


Change = DeliveriesQueued | WebhookChanged | WebhookDeleted | EventTypeAdded | EventTypeRemoved | KeyAdded | KeyRevoked


class Feed:
    """Tells each kind of change to the one that follows it; what nobody follows yet is told to nobody."""

    def __init__(self) -> None:
        self._followers: dict[type, Callable[[Any], None]] = {}

    def follow(self, kind: type[C], follower: Callable[[C], None]) -> None:
        """Call `follower` with each change of this kind from now on; it must not block."""
        self._followers[kind] = follower

    def tell(self, change: Change) -> None:
        """Tell of a change; for the store alone, once it is committed."""
        follower = self._followers.get(type(change))
        if follower is not None:
            follower(change)
