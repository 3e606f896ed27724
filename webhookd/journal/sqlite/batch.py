"""One batch of operations as one transaction: the hot path of the journal.

Runs in the writer's thread. Hot rows go in bulk; between two calls the order of publishes and records doesn't matter,
since a record only touches deliveries that were on disk before it. What the next batch needs of the last one (row
numbers, sequences) is remembered rather than read again; whatever else may have changed it makes it forgotten.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import groupby
from traceback import clear_frames

import msgspec
from peewee import Database

from webhookd.base.errors import WebhookdError
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import (
    AcceptedEvent,
    AttemptRecord,
    DeliveryError,
    DeliveryStatus,
    EndpointState,
    QueuedDelivery,
    Trigger,
)
from webhookd.base.stages import reached
from webhookd.journal.operations import DatabaseCall, Publish, Record, Submission
from webhookd.journal.planning import Numbers, Stored, plan, settle
from webhookd.journal.queries.bulk import BulkInsert, BulkUpdate
from webhookd.journal.queries.schema import AttemptTable, DeliveryTable, EventTable, SequenceTable
from webhookd.journal.sqlite.database import size_bytes

_IN_CHUNK = 500
_MOST_REMEMBERED = 10_000
_KEPT_HEADER_BYTES = 4 * 1024
_json = msgspec.json.Encoder().encode

_ATTEMPT_COLUMNS = tuple(AttemptTable._meta.sorted_field_names)
_INSERT_EVENT = BulkInsert(EventTable, EventTable._meta.sorted_field_names)
_INSERT_DELIVERY = BulkInsert(
    DeliveryTable,
    [
        name
        for name in DeliveryTable._meta.sorted_field_names
        if name not in {"completed_at", "response_status", "error", "duration_seconds"}
    ],
)
_INSERT_ATTEMPT = BulkInsert(AttemptTable, _ATTEMPT_COLUMNS)
_UPDATE_SEQUENCE = BulkUpdate("sequences", "endpoint_pk", ("last",))
_UPDATE_STATE = BulkUpdate("endpoint_state", "endpoint_pk", EndpointState.__struct_fields__)
_COUNTED = ("attempts", "response_status", "duration_seconds")
_COUNT_ATTEMPT = BulkUpdate("deliveries", "pk", _COUNTED)
_UPDATE_DELIVERY = BulkUpdate(
    "deliveries",
    "pk",
    (*_COUNTED, "status", "trigger", "refusals", "backoff_step", "next_attempt_at", "completed_at", "error"),
    "status IN ('pending', 'parked')",
)


class Batches:
    """Commits batches of operations on the writer's connection.

    `max_bytes` bounds what the file may hold before events are refused; attempts and changes still go in. The file
    `is_above_bound` as the last commit found it.
    """

    def __init__(self, database: Database, ids: IdFactory, max_bytes: int | None) -> None:
        self._database = database
        self._ids = ids
        self.is_above_bound = False
        self._max_bytes = max_bytes
        self._sequences: dict[int, int] = {}
        self._last_numbers: dict[str, int] = {}

    def commit(self, operations: Sequence[Submission]) -> None:
        """Commit all operations in one transaction, leaving each its result or its own error.

        What this raises has rolled everything back.
        """
        try:
            with self._database.atomic():
                if self._max_bytes is not None:
                    self.is_above_bound = size_bytes(self._database) > self._max_bytes
                for is_call, group in groupby(operations, key=lambda operation: isinstance(operation, DatabaseCall)):
                    if is_call:
                        for operation in group:
                            assert isinstance(operation, DatabaseCall)  # noqa: S101 - the group's key
                            self._call(operation)
                    else:
                        hot = list(group)
                        self._publish([publish for operation in hot for publish in _publishes(operation)])
                        self._record([operation.record for operation in hot if isinstance(operation, Record)])
        except BaseException:
            self._forget()
            raise
        reached("batch.committed")

    def _forget(self) -> None:
        self._sequences.clear()
        self._last_numbers.clear()

    def _call(self, call: DatabaseCall) -> None:
        call.result = call.error = None
        call.notices = ()
        try:
            with self._database.atomic():
                call.result = call.change(self._database)
                if call.tell is not None:
                    self._forget()
                    call.notices = call.tell(call.result)
                    self._publish(call.notices)
        except WebhookdError as error:
            # Its frames may hold a cursor, and an open one keeps the writer from its next checkpoint.
            clear_frames(error.__traceback__)
            call.error = error
        self._forget()

    def _publish(self, publishes: Sequence[Publish]) -> None:
        if not publishes:
            return
        planned = plan(
            publishes,
            known=self._known(publish.event.id for publish in publishes if publish.may_repeat),
            sequences=self._last_sequences({to.endpoint_pk for publish in publishes for to in publish.targets}),
            numbers=Numbers(event=self._last_number("events"), delivery=self._last_number("deliveries")),
            is_full=self.is_above_bound,
            new_delivery_id=partial(self._ids.new, Prefix.DELIVERY),
        )
        connection = self._database.connection()
        stored = planned.stored
        _INSERT_EVENT.run(connection, [_event(pk, publish.event, len(queued)) for pk, publish, queued in stored])
        _INSERT_DELIVERY.run(
            connection, [_delivery(each, publish.event.type) for _, publish, queued in stored for each in queued]
        )
        _UPDATE_SEQUENCE.run(connection, list(planned.sequences.items()))
        self._sequences.update(planned.sequences)
        self._last_numbers = {"events": planned.numbers.event, "deliveries": planned.numbers.delivery}
        settle(planned)
        reached("event.written")

    def _known(self, event_ids: Iterable[str]) -> dict[str, Stored]:
        """Return what is stored of these ids: whose event it is and how many deliveries it had."""
        wanted = list(dict.fromkeys(event_ids))
        known: dict[str, Stored] = {}
        for start in range(0, len(wanted), _IN_CHUNK):
            query = EventTable.select(EventTable.id, EventTable.organization_id, EventTable.deliveries).where(
                EventTable.id.in_(wanted[start : start + _IN_CHUNK])
            )
            for event_id, organization_id, count in query.tuples().execute(self._database):
                known[event_id] = (organization_id, count)
        return known

    def _last_sequences(self, endpoint_pks: set[int]) -> dict[int, int]:
        """Return the last sequence of each endpoint that there still is, among others."""
        if len(self._sequences) > _MOST_REMEMBERED:
            self._sequences.clear()
        wanted = sorted(endpoint_pks - self._sequences.keys())
        for start in range(0, len(wanted), _IN_CHUNK):
            query = SequenceTable.select(SequenceTable.endpoint_pk, SequenceTable.last).where(
                SequenceTable.endpoint_pk.in_(wanted[start : start + _IN_CHUNK])
            )
            self._sequences |= dict(query.tuples().execute(self._database))
        return self._sequences

    def _last_number(self, table: str) -> int:
        if table not in self._last_numbers:
            query = "SELECT seq FROM sqlite_sequence WHERE name = ?"
            row = self._database.execute_sql(query, (table,)).fetchone()
            self._last_numbers[table] = 0 if row is None else int(row[0])
        return self._last_numbers[table]

    def _record(self, records: Sequence[AttemptRecord]) -> None:
        if not records:
            return
        connection = self._database.connection()
        _INSERT_ATTEMPT.run(connection, [_attempt(record) for record in records])
        if _UPDATE_DELIVERY.run(connection, [_delivery_update(record) for record in records]) < len(records):
            # What has ended keeps its state: the webhook may have been deleted while the request was in flight.
            _COUNT_ATTEMPT.run(connection, [_delivery_update(record)[: 1 + len(_COUNTED)] for record in records])
        # Of several attempts of one endpoint the last one's state holds.
        states = {record.delivery.endpoint_pk: record.endpoint for record in records}
        _UPDATE_STATE.run(
            connection, [(endpoint_pk, *msgspec.structs.astuple(state)) for endpoint_pk, state in states.items()]
        )
        reached("record.written")


def _publishes(operation: Submission) -> Sequence[Publish]:
    """Return what an operation publishes: itself, or the events that tell of it."""
    return (operation,) if isinstance(operation, Publish) else operation.notices


def _event(pk: int, event: AcceptedEvent, deliveries: int) -> tuple[object, ...]:
    """Return the row in the order of the table's columns."""
    return (
        pk,
        event.id,
        event.type,
        event.organization_id,
        event.ordering_key,
        event.traceparent,
        event.timestamp,
        event.accepted_at,
        deliveries,
        event.body,
    )


def _delivery(queued: QueuedDelivery, event_type: str) -> tuple[object, ...]:
    """Return the row in the order of the table's columns, up to `expires_at`."""
    return (
        queued.pk,
        queued.id,
        queued.endpoint_pk,
        queued.event_pk,
        event_type,
        queued.ordering_key,
        queued.sequence,
        queued.status.value,
        queued.trigger.value,
        queued.attempts,
        queued.refusals,
        queued.backoff_step,
        None if queued.status is DeliveryStatus.CANCELED else queued.next_attempt_at,
        queued.created_at,
        queued.expires_at,
    )


def attempt_values(record: AttemptRecord) -> dict[str, object]:
    """Return the row of an attempt by column."""
    return dict(zip(_ATTEMPT_COLUMNS, _attempt(record), strict=True))


def _attempt(record: AttemptRecord) -> tuple[object, ...]:
    """Return the row in the order of `_ATTEMPT_COLUMNS`."""
    outcome = record.outcome
    headers = _kept(outcome.headers)
    return (
        record.delivery.pk,
        record.number,
        record.attempt_id,
        record.trigger.value,
        record.started_at,
        outcome.duration_seconds,
        outcome.remote_address,
        outcome.status,
        _json(headers).decode(),
        outcome.body,
        outcome.truncated or len(headers) < len(outcome.headers),
        None if record.error is None else record.error.value,
        outcome.detail,
        record.retry_after_seconds,
    )


def _kept(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Return those of an answer's headers that are stored: as many of the first ones as fit.

    A receiver may send 60 KiB of them each time, with any number of attempts of one delivery.
    """
    left = _KEPT_HEADER_BYTES
    for at, (name, value) in enumerate(headers):
        left -= len(name) + len(value)
        if left < 0:
            return headers[:at]
    return headers


def _delivery_update(record: AttemptRecord) -> tuple[object, ...]:
    # An attempt that was cut off is made again for the reason it was made for.
    trigger = record.trigger if record.error is DeliveryError.INTERRUPTED else Trigger.AUTO
    return (
        record.delivery.pk,
        record.number,
        record.outcome.status,
        record.outcome.duration_seconds,
        record.status.value,
        trigger.value,
        record.refusals,
        record.backoff_step,
        record.next_attempt_at,
        record.completed_at,
        None if record.error is None else record.error.value,
    )
