"""The journal: peewee on SQLite, the queue and the only truth. Nothing outside this package knows that it is SQLite."""

from peewee import Database

from webhookd.journal import (
    audit,
    census,
    deliveries,
    directory,
    endpoints,
    event_types,
    events,
    idempotency,
    keys,
    replays,
    searching,
    statistics,
    trials,
)
from webhookd.journal.backup import check_place
from webhookd.journal.database import SQLITE_VERSION, copy_before_upgrade
from webhookd.journal.inspection import Contents
from webhookd.journal.journal import READ_LIMIT_SECONDS, Journal, open_journal
from webhookd.journal.master import (
    MasterKeys,
    Position,
    adopt_master_key,
    begin_change,
    end_change,
    forget_master_key,
    forget_previous,
    holds_secrets,
    reseal,
)
from webhookd.journal.operations import Ticket
from webhookd.journal.restoring import Restored
from webhookd.journal.restoring import restore as restore_journal
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
    Page,
    QueueFacts,
    ReplayRow,
    Window,
    WindowRequest,
)
from webhookd.journal.runners import InlineRunner, Runner, ThreadRunner

__all__ = [
    "READ_LIMIT_SECONDS",
    "SQLITE_VERSION",
    "AttemptRow",
    "Census",
    "Contents",
    "Database",
    "DeliveryDetail",
    "DeliveryRow",
    "EndpointChanges",
    "EventRow",
    "EventTypeRow",
    "InlineRunner",
    "Journal",
    "KeptAnswer",
    "KeyRow",
    "MasterKeys",
    "NewEndpoint",
    "Page",
    "Position",
    "QueueFacts",
    "ReplayRow",
    "Restored",
    "Runner",
    "ThreadRunner",
    "Ticket",
    "Window",
    "WindowRequest",
    "adopt_master_key",
    "audit",
    "begin_change",
    "census",
    "check_place",
    "copy_before_upgrade",
    "deliveries",
    "directory",
    "end_change",
    "endpoints",
    "event_types",
    "events",
    "forget_master_key",
    "forget_previous",
    "holds_secrets",
    "idempotency",
    "keys",
    "open_journal",
    "replays",
    "reseal",
    "restore_journal",
    "searching",
    "statistics",
    "trials",
]
