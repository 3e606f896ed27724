"""The journal's tables, created and changed by numbered steps; a file's `user_version` is the last step it has had.

Each step is explicit DDL. The steps that a file lacks are one transaction together with the new version number. A step
that has been released never changes.
"""

from collections.abc import Callable, Sequence

from peewee import Database

from webhookd.base.event_types import STARTING_EVENT_TYPES
from webhookd.base.stages import reached
from webhookd.journal.queries.schema import EventTypeTable

APPLICATION_ID = 0x77686B64  # "whkd"

_ENDPOINTS = """
CREATE TABLE endpoints (
    pk INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, url TEXT NOT NULL, events TEXT NOT NULL, description TEXT NOT NULL,
    is_active INTEGER NOT NULL, disabled_reason TEXT, disabled_at REAL, organization_id TEXT, metadata TEXT NOT NULL,
    overrides TEXT NOT NULL, signature TEXT NOT NULL, header_names TEXT NOT NULL, secret_hint TEXT NOT NULL,
    previous_secret_expires_at REAL, ed25519_public_key TEXT, created_at REAL NOT NULL, updated_at REAL NOT NULL,
    deleted_at REAL
);
CREATE TABLE endpoint_state (
    endpoint_pk INTEGER PRIMARY KEY, last_sequence INTEGER NOT NULL DEFAULT 0, breaker TEXT NOT NULL DEFAULT 'closed',
    consecutive_faults INTEGER NOT NULL DEFAULT 0, reopenings INTEGER NOT NULL DEFAULT 0,
    pauses INTEGER NOT NULL DEFAULT 0, retry_at REAL, paused_until REAL, failing_since REAL,
    failures_since_success INTEGER NOT NULL DEFAULT 0, last_success_at REAL, last_failure_at REAL, last_error TEXT,
    warned_at REAL, recovered_at REAL
);
CREATE TABLE secrets (
    endpoint_pk INTEGER NOT NULL, kind TEXT NOT NULL, sealed BLOB NOT NULL, PRIMARY KEY (endpoint_pk, kind)
) WITHOUT ROWID;
"""

# AUTOINCREMENT: a number is never used again, so a reader of the feed that has seen one has seen all lower ones.
_EVENTS = """
CREATE TABLE events (
    pk INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, type TEXT NOT NULL, organization_id TEXT,
    ordering_key TEXT, traceparent TEXT, timestamp REAL NOT NULL, accepted_at REAL NOT NULL,
    deliveries INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE INDEX events_organization ON events (organization_id, pk);
CREATE INDEX events_accepted ON events (accepted_at);
CREATE TABLE event_types (
    name TEXT PRIMARY KEY, description TEXT NOT NULL, schema_json TEXT, example_json TEXT, deprecated INTEGER NOT NULL,
    created_at REAL NOT NULL, updated_at REAL NOT NULL
) WITHOUT ROWID;
"""

# The partial indexes are the queues: deliveries that have ended cost a window nothing, however many there are.
_DELIVERIES = """
CREATE TABLE deliveries (
    pk INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, endpoint_pk INTEGER NOT NULL,
    event_pk INTEGER NOT NULL, event_type TEXT NOT NULL, ordering_key TEXT, sequence INTEGER NOT NULL,
    status TEXT NOT NULL, trigger TEXT NOT NULL, attempts INTEGER NOT NULL, refusals INTEGER NOT NULL,
    backoff_step INTEGER NOT NULL, next_attempt_at REAL, created_at REAL NOT NULL, expires_at REAL NOT NULL,
    completed_at REAL, response_status INTEGER, error TEXT, duration_seconds REAL
);
CREATE INDEX deliveries_line ON deliveries (endpoint_pk, sequence) WHERE status = 'pending';
CREATE INDEX deliveries_due ON deliveries (endpoint_pk, next_attempt_at, sequence) WHERE status = 'pending';
CREATE INDEX deliveries_parked ON deliveries (endpoint_pk, next_attempt_at) WHERE status = 'parked';
CREATE INDEX deliveries_expiry ON deliveries (endpoint_pk, expires_at) WHERE status IN ('pending', 'parked');
CREATE INDEX deliveries_failed ON deliveries (endpoint_pk, sequence) WHERE status = 'failed';
CREATE INDEX deliveries_list ON deliveries (endpoint_pk, created_at, pk);
CREATE INDEX deliveries_event ON deliveries (event_pk);
CREATE TABLE attempts (
    delivery_pk INTEGER NOT NULL, number INTEGER NOT NULL, id TEXT NOT NULL, trigger TEXT NOT NULL,
    started_at REAL NOT NULL, duration_seconds REAL NOT NULL, remote_address TEXT, response_status INTEGER,
    response_headers TEXT NOT NULL, response_body BLOB NOT NULL, truncated INTEGER NOT NULL, error TEXT,
    detail TEXT NOT NULL, retry_after_seconds REAL, PRIMARY KEY (delivery_pk, number)
) WITHOUT ROWID;
"""

_REST = """
CREATE TABLE api_keys (
    id TEXT PRIMARY KEY, role TEXT NOT NULL, name TEXT NOT NULL, organization_id TEXT, key_hash BLOB NOT NULL,
    created_at REAL NOT NULL, expires_at REAL
) WITHOUT ROWID;
CREATE TABLE replays (
    id TEXT PRIMARY KEY, endpoint_pk INTEGER NOT NULL, kind TEXT NOT NULL, since REAL NOT NULL, until REAL NOT NULL,
    events TEXT NOT NULL, last INTEGER NOT NULL, position INTEGER NOT NULL, matched INTEGER NOT NULL,
    queued INTEGER NOT NULL, status TEXT NOT NULL, created_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE idempotency (
    caller TEXT NOT NULL, route TEXT NOT NULL, key TEXT NOT NULL, body_hash BLOB NOT NULL, status INTEGER NOT NULL,
    sealed BLOB NOT NULL, created_at REAL NOT NULL, PRIMARY KEY (caller, route, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_created ON idempotency (created_at);
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""

# AUTOINCREMENT: SQLite remembers the last number, so that entries missing at the end are found too. REPLACE fires no
# DELETE trigger, which is why there is one on INSERT.
_AUDIT = (
    """
CREATE TABLE audit (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, actor_kind TEXT NOT NULL, actor TEXT NOT NULL,
    role TEXT, action TEXT NOT NULL, object TEXT NOT NULL, organization_id TEXT, request_id TEXT,
    fields TEXT NOT NULL, hash BLOB NOT NULL
)
""",
    "CREATE INDEX audit_organization ON audit (organization_id, sequence)",
    "CREATE INDEX audit_actor ON audit (actor, sequence)",
    "CREATE INDEX audit_object ON audit (object, sequence)",
    """
CREATE TRIGGER audit_appends BEFORE INSERT ON audit
WHEN NEW.sequence <> (SELECT coalesce(max(sequence), 0) + 1 FROM audit)
BEGIN SELECT RAISE(ABORT, 'the audit log is only added to'); END
""",
    """
CREATE TRIGGER audit_keeps BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is only added to'); END
""",
    """
CREATE TRIGGER audit_stays BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is only added to'); END
""",
)


def _first(database: Database, now: float) -> None:
    for script in (_ENDPOINTS, _EVENTS, _DELIVERIES, _REST):
        for statement in script.split(";\n"):
            if statement.strip():
                database.execute_sql(statement)
    EventTypeTable.insert_many(
        [
            {"name": name, "description": "", "deprecated": False, "created_at": now, "updated_at": now}
            for name in STARTING_EVENT_TYPES
        ]
    ).execute(database)


def _audit(database: Database, _now: float) -> None:
    for statement in _AUDIT:
        database.execute_sql(statement)
    database.execute_sql("ALTER TABLE api_keys ADD COLUMN last_used_at REAL")


def _rare_statuses(database: Database, _now: float) -> None:
    # Few deliveries among millions have these statuses, and users search for them.
    database.execute_sql(
        "CREATE INDEX deliveries_rare ON deliveries (endpoint_pk, status, created_at, pk) "
        "WHERE status IN ('parked', 'failed', 'canceled')"
    )


def _statistics(database: Database, _now: float) -> None:
    # In the order of time: rows that are written together are stored together, and the oldest are a range.
    database.execute_sql(
        "CREATE TABLE statistics (seconds INTEGER NOT NULL, at INTEGER NOT NULL, subject TEXT NOT NULL, "
        "counts TEXT NOT NULL, PRIMARY KEY (seconds, at, subject)) WITHOUT ROWID"
    )


def _of_organizations(database: Database, _now: float) -> None:
    # Counted with each webhook and key that is added to an organization.
    database.execute_sql("CREATE INDEX endpoints_organization ON endpoints (organization_id) WHERE deleted_at IS NULL")
    database.execute_sql("CREATE INDEX api_keys_organization ON api_keys (organization_id)")


def _sequences(database: Database, _now: float) -> None:
    # A publish and a record then never change the same row.
    database.execute_sql(
        "CREATE TABLE sequences (endpoint_pk INTEGER PRIMARY KEY, last INTEGER NOT NULL DEFAULT 0, "
        "edition INTEGER NOT NULL DEFAULT 0)"
    )
    database.execute_sql(
        "INSERT INTO sequences (endpoint_pk, last) SELECT endpoint_pk, last_sequence FROM endpoint_state"
    )
    database.execute_sql("ALTER TABLE endpoint_state DROP COLUMN last_sequence")
    database.execute_sql("CREATE INDEX replays_endpoint ON replays (endpoint_pk, status)")
    # Few deliveries are retried by hand, and those go before all others that are due.
    database.execute_sql(
        "CREATE INDEX deliveries_by_hand ON deliveries (endpoint_pk, next_attempt_at, sequence) "
        "WHERE status = 'pending' AND trigger = 'manual'"
    )


def _small_indexes(database: Database, _now: float) -> None:
    # An index that begins with the endpoint has its own page for each endpoint with a long queue, and each success
    # changes one in every such index. Only the queue itself is left as such: its deliveries that wait for no retry, and
    # then those that do, each part in sequence.
    database.execute_sql("ALTER TABLE sequences ADD COLUMN last_expires_at REAL NOT NULL DEFAULT 0")
    database.execute_sql(
        "UPDATE sequences SET last_expires_at = coalesce((SELECT max(expires_at) FROM deliveries "
        "WHERE endpoint_pk = sequences.endpoint_pk AND status IN ('pending', 'parked')), 0)"
    )
    for name in ("deliveries_line", "deliveries_due", "deliveries_expiry"):
        database.execute_sql(f"DROP INDEX {name}")
    database.execute_sql(
        "CREATE INDEX deliveries_line ON deliveries (endpoint_pk, backoff_step > 0, sequence) WHERE status = 'pending'"
    )
    database.execute_sql(
        "CREATE INDEX deliveries_due ON deliveries (endpoint_pk, next_attempt_at, sequence) "
        "WHERE status = 'pending' AND backoff_step > 0"
    )
    database.execute_sql(
        "CREATE INDEX deliveries_expiry ON deliveries (expires_at) WHERE status IN ('pending', 'parked')"
    )


def _forgiven(database: Database, _now: float) -> None:
    database.execute_sql("ALTER TABLE endpoint_state ADD COLUMN forgiven INTEGER NOT NULL DEFAULT 0")


_STEPS = (_first, _audit, _rare_statuses, _statistics, _of_organizations, _sequences, _small_indexes, _forgiven)
CURRENT_VERSION = len(_STEPS)


def migrate(
    database: Database, *, version: int, now: float, steps: Sequence[Callable[[Database, float], None]] = _STEPS
) -> None:
    """Migrate a journal of `version` (0: an empty file) to the current version.

    All steps are one transaction, so a killed process leaves the file as before the first step or after the last.
    """
    with database.atomic():
        for number, step in enumerate(steps[version:], start=version + 1):
            step(database, now)
            database.execute_sql(f"PRAGMA user_version = {number}")
            reached("migration.step")
