"""The journal: peewee on SQLite, the queue and the only truth. Nothing outside this package knows that it is SQLite."""

from webhookd.journal.feed import (
    DeliveriesQueued,
    EventTypeAdded,
    EventTypeRemoved,
    Feed,
    KeyAdded,
    KeyRevoked,
    WebhookChanged,
    WebhookDeleted,
)
from webhookd.journal.operations import Publish, Ticket
from webhookd.journal.queries import audit, directory, endpoints, event_types, idempotency, replays
from webhookd.journal.queries.clock_steps import Loaded
from webhookd.journal.queries.master_key import MasterKeys, Position
from webhookd.journal.rows import (
    AttemptRow,
    Census,
    DeliveryDetail,
    DeliveryRow,
    EndpointChanges,
    EventRow,
    EventTypeRow,
    KeptAnswer,
    KeyRow,
    NewEndpoint,
    QueueFacts,
    ReplayRow,
    RowPage,
    Window,
    WindowRequest,
)
from webhookd.journal.sqlite.backup import check_place
from webhookd.journal.sqlite.database import SQLITE_VERSION, copy_before_upgrade
from webhookd.journal.sqlite.inspection import Contents
from webhookd.journal.sqlite.restore import Restored
from webhookd.journal.sqlite.restore import restore as restore_journal
from webhookd.journal.sqlite.runners import InlineRunner, Runner, ThreadRunner
from webhookd.journal.store import READ_LIMIT_SECONDS, Store, open_store
from webhookd.journal.transactions import finished

__all__ = [
    "READ_LIMIT_SECONDS",
    "SQLITE_VERSION",
    "AttemptRow",
    "Census",
    "Contents",
    "DeliveriesQueued",
    "DeliveryDetail",
    "DeliveryRow",
    "EndpointChanges",
    "EventRow",
    "EventTypeAdded",
    "EventTypeRemoved",
    "EventTypeRow",
    "Feed",
    "InlineRunner",
    "KeptAnswer",
    "KeyAdded",
    "KeyRevoked",
    "KeyRow",
    "Loaded",
    "MasterKeys",
    "NewEndpoint",
    "Position",
    "Publish",
    "QueueFacts",
    "ReplayRow",
    "Restored",
    "RowPage",
    "Runner",
    "Store",
    "ThreadRunner",
    "Ticket",
    "WebhookChanged",
    "WebhookDeleted",
    "Window",
    "WindowRequest",
    "audit",
    "check_place",
    "copy_before_upgrade",
    "directory",
    "endpoints",
    "event_types",
    "finished",
    "idempotency",
    "open_store",
    "replays",
    "restore_journal",
]
