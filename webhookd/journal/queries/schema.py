"""The tables as peewee models, bound to no database: every query names the one it runs on.

Explicit DDL is in `migrations`; a test compares the two. Times are REAL epoch seconds, enums their text, structured
settings JSON. `pk` is the row's number inside the process, `id` its public name.
"""

from peewee import (
    SQL,
    AutoField,
    BlobField,
    BooleanField,
    CompositeKey,
    Database,
    FloatField,
    IntegerField,
    Model,
    TextField,
)


class EndpointTable(Model):
    """A webhook. Deleting one keeps the row (`deleted_at`), since its deliveries stay readable."""

    pk = AutoField()
    id = TextField(unique=True)
    url = TextField()
    events = TextField()  # JSON array of patterns
    description = TextField()
    is_active = BooleanField()
    disabled_reason = TextField(null=True)
    disabled_at = FloatField(null=True)
    organization_id = TextField(null=True)
    metadata = TextField()  # JSON object
    overrides = TextField()  # JSON of models.PolicyOverrides
    signature = TextField()  # JSON of models.SignatureChoice
    header_names = TextField()  # JSON array; the values are sealed, among the secrets
    secret_hint = TextField()
    previous_secret_expires_at = FloatField(null=True)
    ed25519_public_key = TextField(null=True)
    created_at = FloatField()
    updated_at = FloatField()
    deleted_at = FloatField(null=True)

    class Meta:
        """Where it is stored."""

        table_name = "endpoints"


class EndpointStateTable(Model):
    """What an endpoint's past means for its next request (models.EndpointState); gone once it is deleted."""

    endpoint_pk = IntegerField(primary_key=True)
    breaker = TextField(default="closed")
    consecutive_faults = IntegerField(default=0)
    reopenings = IntegerField(default=0)
    pauses = IntegerField(default=0)
    retry_at = FloatField(null=True)
    paused_until = FloatField(null=True)
    failing_since = FloatField(null=True)
    failures_since_success = IntegerField(default=0)
    last_success_at = FloatField(null=True)
    last_failure_at = FloatField(null=True)
    last_error = TextField(null=True)
    warned_at = FloatField(null=True)
    recovered_at = FloatField(null=True)

    class Meta:
        """Where it is stored."""

        table_name = "endpoint_state"


class SequenceTable(Model):
    """The last sequence of an endpoint's queue; gone once the endpoint is deleted.

    `edition` counts the changes of what is already queued (retries, recovers, cancelations), each of which may make a
    delivery with a low sequence unfinished again.
    """

    endpoint_pk = IntegerField(primary_key=True)
    last = IntegerField(default=0)
    edition = IntegerField(default=0)

    class Meta:
        """Where it is stored."""

        table_name = "sequences"


class SecretTable(Model):
    """A sealed secret of an endpoint: `current`, `previous`, `ed25519` or `headers` (JSON of name and value pairs)."""

    endpoint_pk = IntegerField()
    kind = TextField()
    sealed = BlobField()

    class Meta:
        """Where it is stored."""

        table_name = "secrets"
        primary_key = CompositeKey("endpoint_pk", "kind")


class EventTable(Model):
    """An accepted event with the bytes that every attempt sends; `deliveries` answers its duplicates."""

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
        """Where it is stored."""

        table_name = "events"


class DeliveryTable(Model):
    """One event for one endpoint."""

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
    duration_seconds = FloatField(null=True)  # of the last attempt

    class Meta:
        """Where it is stored."""

        table_name = "deliveries"


# What an endpoint is still to be sent, in two parts: SQLite takes a partial index for one status, and for either of two
# it looks at every delivery that the endpoint ever had.
TO_BE_SENT_BY_STATUS = (SQL("status = 'pending'"), SQL("status = 'parked'"))


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
    response_headers = TextField()  # JSON array of name and value pairs
    response_body = BlobField()
    truncated = BooleanField()
    error = TextField(null=True)
    detail = TextField()
    retry_after_seconds = FloatField(null=True)

    class Meta:
        """Where it is stored."""

        table_name = "attempts"
        primary_key = CompositeKey("delivery_pk", "number")


class EventTypeTable(Model):
    """A name of the catalogue."""

    name = TextField(primary_key=True)
    description = TextField()
    schema_json = TextField(null=True)
    example_json = TextField(null=True)
    deprecated = BooleanField()
    created_at = FloatField()
    updated_at = FloatField()

    class Meta:
        """Where it is stored."""

        table_name = "event_types"


class KeyTable(Model):
    """An API key, of which only the hash is known; revoking one removes its row."""

    id = TextField(primary_key=True)
    role = TextField()
    name = TextField()
    organization_id = TextField(null=True)
    key_hash = BlobField()
    created_at = FloatField()
    expires_at = FloatField(null=True)
    last_used_at = FloatField(null=True)

    class Meta:
        """Where it is stored."""

        table_name = "api_keys"


class AuditTable(Model):
    """Who changed what: only ever added to, and chained by hashes (see `audit`)."""

    sequence = AutoField()
    at = FloatField()
    actor_kind = TextField()
    actor = TextField()
    role = TextField(null=True)
    action = TextField()
    object = TextField()
    organization_id = TextField(null=True)
    request_id = TextField(null=True)
    fields = TextField()  # JSON array of names
    hash = BlobField()

    class Meta:
        """Where it is stored."""

        table_name = "audit"


class ReplayTable(Model):
    """A recover or replay under way or ended; `position` is the last sequence or event number that was looked at."""

    id = TextField(primary_key=True)
    endpoint_pk = IntegerField()
    kind = TextField()
    since = FloatField()
    until = FloatField()
    events = TextField()  # JSON array of patterns
    last = IntegerField()  # the greatest delivery or event number when it was asked for
    position = IntegerField()
    matched = IntegerField()
    queued = IntegerField()
    status = TextField()
    created_at = FloatField()

    class Meta:
        """Where it is stored."""

        table_name = "replays"


class IdempotencyTable(Model):
    """An answer kept for an Idempotency-Key; sealed, since it may show a secret."""

    caller = TextField()
    route = TextField()
    key = TextField()
    body_hash = BlobField()
    status = IntegerField()
    sealed = BlobField()
    created_at = FloatField()

    class Meta:
        """Where it is stored."""

        table_name = "idempotency"
        primary_key = CompositeKey("caller", "route", "key")


class StatisticsTable(Model):
    """The counts (`observe.statistics.Counts`) of a subject in the period of `seconds` that starts at `at`."""

    seconds = IntegerField()
    at = IntegerField()
    subject = TextField()
    counts = TextField()  # JSON array

    class Meta:
        """Where it is stored."""

        table_name = "statistics"
        primary_key = CompositeKey("seconds", "at", "subject")


class MetaTable(Model):
    """Facts about the journal itself, such as the value that shows whether a master key is the right one."""

    name = TextField(primary_key=True)
    value = BlobField()

    class Meta:
        """Where it is stored."""

        table_name = "meta"


def count_edition(database: Database, endpoint_pk: int) -> None:
    """Note that what an endpoint has queued was changed; nothing for a deleted one."""
    SequenceTable.update({SequenceTable.edition: SequenceTable.edition + 1}).where(
        SequenceTable.endpoint_pk == endpoint_pk
    ).execute(database)
