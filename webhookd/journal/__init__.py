"""The journal: peewee on SQLite, the queue and the only truth. Nothing outside this package knows that it is SQLite."""

from peewee import Database

from webhookd.journal import audit, deliveries, endpoints, event_types, events, idempotency, keys, replays, trials
from webhookd.journal.database import SQLITE_VERSION
from webhookd.journal.journal import Journal, open_journal
from webhookd.journal.master import check_master_key, forget_master_key, holds_secrets
from webhookd.journal.operations import Ticket
from webhookd.journal.rows import (
    AttemptRow,
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
    "SQLITE_VERSION",
    "AttemptRow",
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
    "NewEndpoint",
    "Page",
    "QueueFacts",
    "ReplayRow",
    "Runner",
    "ThreadRunner",
    "Ticket",
    "Window",
    "WindowRequest",
    "audit",
    "check_master_key",
    "deliveries",
    "endpoints",
    "event_types",
    "events",
    "forget_master_key",
    "holds_secrets",
    "idempotency",
    "keys",
    "open_journal",
    "replays",
    "trials",
]
