"""The tables as peewee models, bound to no database: every query names the one that it runs on.

A column is declared here: its name, and how a value is stored. What a query returns or inserts follows from that and
from the fields of a Struct (see `structs`). The explicit DDL is in `migrations`; a test compares the two. The table
`statistics` has no model, because its queries are SQL. Times are REAL epoch seconds, enums their text. `pk` is the row
number, which never leaves the process; `id` is the public name.
"""

from typing import Any

import msgspec
from peewee import (
    SQL,
    AutoField,
    BlobField,
    BooleanField,
    Case,
    ColumnBase,
    CompositeKey,
    Database,
    FloatField,
    IntegerField,
    Model,
    TextField,
)

from webhookd.journal.queries.dialect import EngineSQL


class JsonField(TextField):
    """A structured value, stored as JSON text."""

    def db_value(self, value: object) -> str:
        """Return what is stored of a value."""
        return msgspec.json.encode(value).decode()

    def python_value(self, value: str) -> Any:
        """Return a stored value as lists and dicts."""
        return msgspec.json.decode(value)


class EndpointTable(Model):
    """A webhook. A deleted one keeps its row, with `deleted_at`, because its deliveries stay readable."""

    pk = AutoField()
    id = TextField(unique=True)
    url = TextField()
    events = JsonField()  # an array of patterns
    description = TextField()
    is_active = BooleanField()
    disabled_reason = TextField(null=True)
    disabled_at = FloatField(null=True)
    organization_id = TextField(null=True)
    metadata = JsonField()
    overrides = JsonField()  # models.PolicyOverrides
    signature = JsonField()  # models.SignatureChoice
    header_names = JsonField()  # an array; the values are sealed, in SecretTable
    secret_hint = TextField()
    previous_secret_expires_at = FloatField(null=True)
    ed25519_public_key = TextField(null=True)
    created_at = FloatField()
    updated_at = FloatField()
    deleted_at = FloatField(null=True)

    class Meta:
        table_name = "endpoints"


class EndpointStateTable(Model):
    """An endpoint's delivery state (models.EndpointState); deleted with the endpoint."""

    endpoint_pk = IntegerField(primary_key=True)
    breaker = TextField()
    consecutive_faults = IntegerField()
    reopenings = IntegerField()
    pauses = IntegerField()
    retry_at = FloatField(null=True)
    paused_until = FloatField(null=True)
    failing_since = FloatField(null=True)
    failures_since_success = IntegerField()
    last_success_at = FloatField(null=True)
    last_failure_at = FloatField(null=True)
    last_error = TextField(null=True)
    warned_at = FloatField(null=True)
    recovered_at = FloatField(null=True)
    forgiven = IntegerField()

    class Meta:
        table_name = "endpoint_state"


class SequenceTable(Model):
    """The last sequence of an endpoint's queue; deleted with the endpoint.

    `edition` counts the changes of deliveries that are already queued (retries, recovers, cancelations, ended
    back-offs). Each of them may make a delivery with a low sequence pending again, or due earlier. No delivery in the
    queue expires after `last_expires_at`.
    """

    endpoint_pk = IntegerField(primary_key=True)
    last = IntegerField(default=0)
    edition = IntegerField(default=0)
    last_expires_at = FloatField(default=0.0)

    class Meta:
        table_name = "sequences"


class SecretTable(Model):
    """A sealed secret of an endpoint: `current`, `previous`, `ed25519` or `headers` (JSON of name and value pairs)."""

    endpoint_pk = IntegerField()
    kind = TextField()
    sealed = BlobField()

    class Meta:
        table_name = "secrets"
        primary_key = CompositeKey("endpoint_pk", "kind")


class EventTable(Model):
    """An accepted event. `body` is what every attempt sends; `deliveries` is the answer to a duplicate."""

    pk = AutoField()
    id = TextField(unique=True)
    type = TextField()
    organization_id = TextField(null=True)
    ordering_key = TextField(null=True)
    traceparent = TextField(null=True)
    timestamp = FloatField()
    accepted_at = FloatField()
    deliveries = IntegerField()
    body = BlobField()

    class Meta:
        table_name = "events"


class DeliveryTable(Model):
    """One event for one endpoint, with the result of its last attempt."""

    pk = AutoField()
    id = TextField(unique=True)
    endpoint_pk = IntegerField()
    event_pk = IntegerField()
    event_type = TextField()
    ordering_key = TextField(null=True)
    sequence = IntegerField()
    status = TextField()
    trigger = TextField()
    attempts = IntegerField()
    refusals = IntegerField()
    backoff_step = IntegerField()
    next_attempt_at = FloatField(null=True)
    created_at = FloatField()
    expires_at = FloatField()
    completed_at = FloatField(null=True)
    response_status = IntegerField(null=True)
    error = TextField(null=True)
    duration_seconds = FloatField(null=True)

    class Meta:
        table_name = "deliveries"


# Conditions on a delivery's status, as literals: SQLite takes a partial index only for the text that its DDL has.
PENDING = SQL("status = 'pending'")
PARKED = SQL("status = 'parked'")
UNFINISHED = SQL("status IN ('pending', 'parked')")
UNFINISHED_PARTS = (PENDING, PARKED)
"""`UNFINISHED` as two conditions. For the two together SQLite reads every delivery that the endpoint ever had: only the
index of all endpoints by `expires_at` is for both."""

# A pending delivery is fresh, and due at once, or it backs off: an attempt has failed since it was queued (again).
# `deliveries_line` has the fresh ones of an endpoint in sequence, and then those that back off in sequence.
# Of `(backoff_step > 0) = FALSE` PostgreSQL makes `backoff_step <= 0`, which isn't what the index has; for IS FALSE
# SQLite uses no index.
FRESH = EngineSQL(
    sqlite="status = 'pending' AND (backoff_step > 0) = FALSE",
    postgres="status = 'pending' AND (backoff_step > 0) IS FALSE",
)
BACKING_OFF = SQL("status = 'pending' AND (backoff_step > 0) = TRUE")
LINE_PARTS = (FRESH, BACKING_OFF)
BACKING_OFF_BY_TIME = SQL("status = 'pending' AND backoff_step > 0")
"""`BACKING_OFF` as `deliveries_due` has it, in the order of `next_attempt_at`."""


class AttemptTable(Model):
    """One request of a delivery, never changed once written."""

    delivery_pk = IntegerField()
    number = IntegerField()
    id = TextField()
    trigger = TextField()
    started_at = FloatField()
    duration_seconds = FloatField()
    remote_address = TextField(null=True)
    response_status = IntegerField(null=True)
    response_headers = JsonField()  # an array of name and value pairs
    response_body = BlobField()
    truncated = BooleanField()
    error = TextField(null=True)
    detail = TextField()
    retry_after_seconds = FloatField(null=True)

    class Meta:
        table_name = "attempts"
        primary_key = CompositeKey("delivery_pk", "number")


class EventTypeTable(Model):
    """An event type of the catalogue."""

    name = TextField(primary_key=True)
    description = TextField()
    schema_json = TextField(null=True)
    example_json = TextField(null=True)
    deprecated = BooleanField()
    created_at = FloatField()
    updated_at = FloatField()

    class Meta:
        table_name = "event_types"


class KeyTable(Model):
    """An API key, of which only the hash is stored; a revoked key has no row."""

    id = TextField(primary_key=True)
    role = TextField()
    name = TextField()
    organization_id = TextField(null=True)
    key_hash = BlobField()
    created_at = FloatField()
    expires_at = FloatField(null=True)
    last_used_at = FloatField(null=True)

    class Meta:
        table_name = "api_keys"


class AuditTable(Model):
    """An entry of the audit log, never changed or deleted, and chained to the entry before it by hashes."""

    sequence = AutoField()
    at = FloatField()
    actor_kind = TextField()
    actor = TextField()
    role = TextField(null=True)
    action = TextField()
    object = TextField()
    organization_id = TextField(null=True)
    request_id = TextField(null=True)
    fields = JsonField()  # an array of names
    hash = BlobField()

    class Meta:
        table_name = "audit"


class ReplayTable(Model):
    """A recover or replay; `position` is the last sequence or event number that it has looked at."""

    id = TextField(primary_key=True)
    endpoint_pk = IntegerField()
    kind = TextField()
    since = FloatField()
    until = FloatField()
    events = JsonField()  # an array of patterns
    last = IntegerField()  # the greatest delivery or event number when it was started
    position = IntegerField()
    matched = IntegerField()
    queued = IntegerField()
    status = TextField()
    created_at = FloatField()

    class Meta:
        table_name = "replays"


class IdempotencyTable(Model):
    """The answer to a request with an Idempotency-Key; sealed, because it may contain a secret."""

    caller = TextField()
    route = TextField()
    key = TextField()
    body_hash = BlobField()
    status = IntegerField()
    sealed = BlobField()
    created_at = FloatField()

    class Meta:
        table_name = "idempotency"
        primary_key = CompositeKey("caller", "route", "key")


class MetaTable(Model):
    """A fact about the journal itself, such as the value that shows whether a master key is the right one."""

    name = TextField(primary_key=True)
    value = BlobField()

    class Meta:
        table_name = "meta"


def last_expiry(expires_at: float) -> ColumnBase:
    """Return the new `last_expires_at` of a queue, to which deliveries are added that expire at that time."""
    known = SequenceTable.last_expires_at
    return Case(None, [(known < expires_at, expires_at)], known)


def count_edition(database: Database, endpoint_pk: int, expires_at: float = 0.0) -> None:
    """Count a change of deliveries that an endpoint has queued; does nothing for a deleted endpoint.

    None of the changed deliveries may expire after `expires_at`, unless it did so before.
    """
    values = {"edition": SequenceTable.edition + 1, "last_expires_at": last_expiry(expires_at)}
    SequenceTable.update(values).where(SequenceTable.endpoint_pk == endpoint_pk).execute(database)
