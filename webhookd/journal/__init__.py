"""The journal: the store of all data, in one SQLite file or a PostgreSQL database.

Other packages use only what is exported here.
"""

from webhookd.journal import cursors
from webhookd.journal.audit_entries import Action, AuditActor, AuditActorKind, AuditEntry, AuditRow
from webhookd.journal.errors import ConnectionLostError, FencedError
from webhookd.journal.feed import (
    DatabaseReplaced,
    DeliveriesQueued,
    EventTypeAdded,
    EventTypeRemoved,
    Feed,
    KeyAdded,
    KeyRevoked,
    MasterKeyChanged,
    QueueGrown,
    QueuesFound,
    ReplayAdded,
    SettingsReread,
    SlotsAskedBack,
    SlotsLost,
    SlotsTaken,
    WebhookChanged,
    WebhookChangedElsewhere,
    WebhookDeleted,
)
from webhookd.journal.floors import NO_FLOORS, NOTHING_UNFINISHED, Floors
from webhookd.journal.inspection import look_at, look_at_server
from webhookd.journal.moving import Moved
from webhookd.journal.moving import move as move_journal
from webhookd.journal.node_rows import Driver, NodeRow, Nodes, NodeStatus, Pooler, ServerFacts
from webhookd.journal.operations import Publish, Ticket
from webhookd.journal.ownership import Fence, slot_of
from webhookd.journal.queries.clock_steps import Loaded
from webhookd.journal.queries.idempotency import BEGUN
from webhookd.journal.queries.idempotency import unseal as unseal_answer
from webhookd.journal.queries.master_key import MasterKeys, Position
from webhookd.journal.rows import (
    AttemptRow,
    Census,
    Contents,
    DeliveryDetail,
    DeliveryRow,
    EndpointChanges,
    EndpointCondition,
    EventRow,
    EventTypeCondition,
    EventTypeRow,
    FoundEvents,
    FoundWebhooks,
    KeptAnswer,
    KeyRow,
    NewEndpoint,
    QueuedAs,
    QueueFacts,
    ReplayMatch,
    ReplayRow,
    RowPage,
    Selection,
    Situation,
    WebhookKind,
    WebhookOrder,
    WebhookSearch,
    Window,
    WindowRequest,
)
from webhookd.journal.runners import InlineRunner, Runner, ThreadRunner
from webhookd.journal.server import CONNECTIONS_A_NODE, NO_COPY, LeaseTimes, Server, check_driver, place_of
from webhookd.journal.session_rows import NewSession, SessionLimits, StoredSession
from webhookd.journal.sessions import Sessions
from webhookd.journal.sqlite.backup import check_place
from webhookd.journal.sqlite.database import SQLITE_VERSION, copy_before_upgrade
from webhookd.journal.sqlite.inspection import Inspection, inspect
from webhookd.journal.sqlite.restore import Restored
from webhookd.journal.sqlite.restore import restore as restore_journal
from webhookd.journal.store import READ_LIMIT_SECONDS, Store, open_store
from webhookd.journal.transactions import finished
from webhookd.journal.views import Views

__all__ = [
    "BEGUN",
    "CONNECTIONS_A_NODE",
    "NOTHING_UNFINISHED",
    "NO_COPY",
    "NO_FLOORS",
    "READ_LIMIT_SECONDS",
    "SQLITE_VERSION",
    "Action",
    "AttemptRow",
    "AuditActor",
    "AuditActorKind",
    "AuditEntry",
    "AuditRow",
    "Census",
    "ConnectionLostError",
    "Contents",
    "DatabaseReplaced",
    "DeliveriesQueued",
    "DeliveryDetail",
    "DeliveryRow",
    "Driver",
    "EndpointChanges",
    "EndpointCondition",
    "EventRow",
    "EventTypeAdded",
    "EventTypeCondition",
    "EventTypeRemoved",
    "EventTypeRow",
    "Feed",
    "Fence",
    "FencedError",
    "Floors",
    "FoundEvents",
    "FoundWebhooks",
    "InlineRunner",
    "Inspection",
    "KeptAnswer",
    "KeyAdded",
    "KeyRevoked",
    "KeyRow",
    "LeaseTimes",
    "Loaded",
    "MasterKeyChanged",
    "MasterKeys",
    "Moved",
    "NewEndpoint",
    "NewSession",
    "NodeRow",
    "NodeStatus",
    "Nodes",
    "Pooler",
    "Position",
    "Publish",
    "QueueFacts",
    "QueueGrown",
    "QueuedAs",
    "QueuesFound",
    "ReplayAdded",
    "ReplayMatch",
    "ReplayRow",
    "Restored",
    "RowPage",
    "Runner",
    "Selection",
    "Server",
    "ServerFacts",
    "SessionLimits",
    "Sessions",
    "SettingsReread",
    "Situation",
    "SlotsAskedBack",
    "SlotsLost",
    "SlotsTaken",
    "Store",
    "StoredSession",
    "ThreadRunner",
    "Ticket",
    "Views",
    "WebhookChanged",
    "WebhookChangedElsewhere",
    "WebhookDeleted",
    "WebhookKind",
    "WebhookOrder",
    "WebhookSearch",
    "Window",
    "WindowRequest",
    "check_driver",
    "check_place",
    "copy_before_upgrade",
    "cursors",
    "finished",
    "inspect",
    "look_at",
    "look_at_server",
    "move_journal",
    "open_store",
    "place_of",
    "restore_journal",
    "slot_of",
    "unseal_answer",
]
