"""The feed of committed changes, for all state that the server keeps in memory.

Followers are called on the event loop in the order of the commits, so memory follows the disk and never runs ahead of
it, and no change overtakes another.
"""

from collections import defaultdict
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
    """A webhook that is new or has been changed; `forgiveness` is how the change has reset its delivery state."""

    endpoint: Endpoint
    forgiveness: Forgiveness | None = None


class WebhookChangedElsewhere(NamedTuple):
    """A webhook that another node has added or changed; whether that forgave something is in its state on disk."""

    endpoint: Endpoint


class WebhookDeleted(NamedTuple):
    """A webhook that has been deleted."""

    endpoint: Endpoint


class EventTypeAdded(NamedTuple):
    """An event type that is in the catalogue now; it may have been there before."""

    name: str


class EventTypeRemoved(NamedTuple):
    """An event type that is no longer in the catalogue."""

    name: str


class KeyAdded(NamedTuple):
    """An API key that is valid now."""

    key: KeyRow


class KeyRevoked(NamedTuple):
    """An API key that is no longer valid, by its id."""

    key_id: str


class MasterKeyChanged(NamedTuple):
    """The id of the master key that seals everything from now on, in hex.

    Once `is_resealed`, nothing is sealed with the previous one any more; `resealed` is how many values that were.
    """

    key_id: str
    is_resealed: bool
    resealed: int = 0


class ReplayAdded(NamedTuple):
    """A recover or replay that is to be carried out by the process that drives the endpoint."""

    endpoint_pk: int


class SettingsReread(NamedTuple):
    """All settings, as they are now: what was known of them isn't a past of the database that is there."""

    endpoints: Sequence[Endpoint]
    event_types: Sequence[str]
    keys: Sequence[KeyRow]


class DatabaseReplaced(NamedTuple):
    """The database may be a copy from before, or have lost its last commits: its numbers are given out again.

    What this process has by a number, such as the body of an event, may be something else there.
    """


class QueueGrown(NamedTuple):
    """An endpoint whose queue another node has changed, or a change of this process that is seen again."""

    endpoint_pk: int


class SlotsTaken(NamedTuple):
    """Slots whose endpoints this process drives from now on: what they have queued, or were just sent, isn't known."""

    slots: frozenset[int]


class QueuesFound(NamedTuple):
    """Slots that this process drives, with endpoints of which it sees for the first time that something was queued."""

    slots: frozenset[int]


class SlotsLost(NamedTuple):
    """Slots that may be another node's by now: nothing more may be sent to their endpoints."""

    slots: frozenset[int]


class SlotsAskedBack(NamedTuple):
    """Slots that another node should have: they are given back once nothing is in flight there."""

    slots: frozenset[int]


Setting = (
    WebhookChanged
    | WebhookChangedElsewhere
    | WebhookDeleted
    | EventTypeAdded
    | EventTypeRemoved
    | KeyAdded
    | KeyRevoked
    | MasterKeyChanged
    | ReplayAdded
)
Change = (
    Setting
    | SettingsReread
    | DatabaseReplaced
    | DeliveriesQueued
    | QueueGrown
    | QueuesFound
    | SlotsTaken
    | SlotsLost
    | SlotsAskedBack
)


class Feed:
    """Passes each change to all followers of its kind, in the order in which they began to follow."""

    def __init__(self) -> None:
        self._followers: defaultdict[type, list[Callable[[Any], None]]] = defaultdict(list)

    def follow(self, kind: type[C], follower: Callable[[C], None]) -> None:
        """Call `follower` with each later change of this kind; it must not block."""
        self._followers[kind].append(follower)

    def announce(self, change: Change) -> None:
        """Pass on a change that has been committed; for the store only."""
        for follower in self._followers[type(change)]:
            follower(change)
