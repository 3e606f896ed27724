"""One batch of operations as one transaction: the hot path of the journal.

Runs in the writer's thread. Hot rows go by `executemany` with SQL that peewee made once; between two calls the order of
publishes and records doesn't matter, since a record only touches deliveries that were on disk before it.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from traceback import clear_frames

import msgspec
from peewee import SQL, Database, Expression, Model, Query

from webhookd.errors import ErrorCode, Rejected, WebhookdError
from webhookd.ids import IdFactory, Prefix
from webhookd.journal.database import size_bytes
from webhookd.journal.operations import Call, Operation, Publish, Record
from webhookd.journal.schema import AttemptTable, DeliveryTable, EndpointStateTable, EventTable
from webhookd.models import (
    AcceptedEvent,
    AttemptRecord,
    DeliveryError,
    DeliveryStatus,
    EndpointState,
    PublishResult,
    Target,
    Trigger,
)

FULL_RETRY_SECONDS = 5

_IN_CHUNK = 500
_json = msgspec.json.Encoder().encode


def _sql(query: Query) -> str:
    return str(query.sql()[0])


def _insert(table: type[Model], columns: Sequence[str]) -> str:
    return _sql(table.insert(dict.fromkeys(_in_order(table, columns), 0)))


def _update(table: type[Model], columns: Sequence[str], chosen: Expression) -> str:
    return _sql(table.update(dict.fromkeys(_in_order(table, columns), 0)).where(chosen))


def _in_order(table: type[Model], columns: Sequence[str]) -> Sequence[str]:
    """Return the columns; peewee writes them in the order of the table, and the rows must follow it."""
    declared = table._meta.sorted_field_names
    assert list(columns) == [name for name in declared if name in columns], columns  # noqa: S101 - checked on import
    return columns


_EVENT_COLUMNS = tuple(EventTable._meta.sorted_field_names)
_DELIVERY_COLUMNS = tuple(
    name
    for name in DeliveryTable._meta.sorted_field_names
    if name not in {"completed_at", "response_status", "error", "duration_seconds"}
)
_ATTEMPT_COLUMNS = tuple(AttemptTable._meta.sorted_field_names)
_STATE_COLUMNS = EndpointState.__struct_fields__

_INSERT_EVENT = _insert(EventTable, _EVENT_COLUMNS)
_INSERT_DELIVERY = _insert(DeliveryTable, _DELIVERY_COLUMNS)
_INSERT_ATTEMPT = _insert(AttemptTable, _ATTEMPT_COLUMNS)
_UPDATE_SEQUENCE = _update(EndpointStateTable, ("last_sequence",), EndpointStateTable.endpoint_pk == 0)
_UPDATE_STATE = _update(EndpointStateTable, _STATE_COLUMNS, EndpointStateTable.endpoint_pk == 0)
# What has ended keeps its state: the webhook may have been deleted while the request was in flight.
_UPDATE_DELIVERY = _update(
    DeliveryTable,
    ("status", "trigger", "refusals", "backoff_step", "next_attempt_at", "completed_at", "error"),
    (DeliveryTable.pk == 0) & SQL("status IN ('pending', 'parked')"),
)
_COUNT_ATTEMPT = _update(DeliveryTable, ("attempts", "response_status", "duration_seconds"), DeliveryTable.pk == 0)


class Batches:
    """Commits batches of operations on the writer's connection.

    `max_bytes` bounds what the file may hold before events are refused; attempts and changes still go in.
    """

    def __init__(self, database: Database, ids: IdFactory, max_bytes: int | None) -> None:
        self._database = database
        self._ids = ids
        self._max_bytes = max_bytes

    def commit(self, operations: Sequence[Operation]) -> None:
        """Commit all operations in one transaction, leaving each its result or its own error.

        What this raises has rolled everything back.
        """
        database = self._database
        with database.atomic():
            for is_call, group in groupby(operations, key=lambda operation: isinstance(operation, Call)):
                if is_call:
                    for operation in group:
                        assert isinstance(operation, Call)  # noqa: S101 - the group's key
                        self._call(operation)
                else:
                    hot = list(group)
                    self._publish([operation for operation in hot if isinstance(operation, Publish)])
                    self._record([operation.record for operation in hot if isinstance(operation, Record)])

    def _call(self, call: Call) -> None:
        call.result = call.error = None
        try:
            with self._database.atomic():
                call.result = call.change(self._database)
        except WebhookdError as error:
            # Its frames may hold a cursor, and an open one keeps the writer from its next checkpoint.
            clear_frames(error.__traceback__)
            call.error = error

    def _publish(self, publishes: Sequence[Publish]) -> None:
        if not publishes:
            return
        is_full = self._max_bytes is not None and size_bytes(self._database) > self._max_bytes
        known = self._known(publish.event.id for publish in publishes)
        sequences = self._sequences({target.endpoint_pk for publish in publishes for target in publish.targets})
        event_pk, delivery_pk = self._last_number("events"), self._last_number("deliveries")
        events: list[tuple[object, ...]] = []
        deliveries: list[tuple[object, ...]] = []
        for publish in publishes:
            event = publish.event
            publish.event_pk = publish.result = publish.error = None
            if event.id in known:
                self._answer_again(publish, *known[event.id])
                continue
            if is_full and not publish.insists:
                publish.error = full()
                continue
            event_pk += 1
            targets = [target for target in publish.targets if target.endpoint_pk in sequences]
            for target in targets:
                delivery_pk += 1
                sequences[target.endpoint_pk] += 1
                deliveries.append(self._delivery(delivery_pk, event_pk, event, target, sequences[target.endpoint_pk]))
            events.append(_event(event_pk, event, len(targets)))
            known[event.id] = (event.organization_id, len(targets))
            publish.event_pk = event_pk
            publish.result = PublishResult(id=event.id, deliveries=len(targets), duplicate=False)
        connection = self._database.connection()
        connection.executemany(_INSERT_EVENT, events)
        connection.executemany(_INSERT_DELIVERY, deliveries)
        connection.executemany(_UPDATE_SEQUENCE, [(number, endpoint_pk) for endpoint_pk, number in sequences.items()])

    def _known(self, event_ids: Iterable[str]) -> dict[str, tuple[str | None, int]]:
        """Return what is stored of these ids: whose event it is and how many deliveries it had."""
        wanted = list(dict.fromkeys(event_ids))
        known: dict[str, tuple[str | None, int]] = {}
        for start in range(0, len(wanted), _IN_CHUNK):
            query = EventTable.select(EventTable.id, EventTable.organization_id, EventTable.deliveries).where(
                EventTable.id.in_(wanted[start : start + _IN_CHUNK])
            )
            for event_id, organization_id, count in query.tuples().execute(self._database):
                known[event_id] = (organization_id, count)
        return known

    def _sequences(self, endpoint_pks: set[int]) -> dict[int, int]:
        """Return the last sequence of each endpoint that there still is."""
        wanted = sorted(endpoint_pks)
        found: dict[int, int] = {}
        for start in range(0, len(wanted), _IN_CHUNK):
            query = EndpointStateTable.select(EndpointStateTable.endpoint_pk, EndpointStateTable.last_sequence).where(
                EndpointStateTable.endpoint_pk.in_(wanted[start : start + _IN_CHUNK])
            )
            found |= dict(query.tuples().execute(self._database))
        return found

    def _last_number(self, table: str) -> int:
        row = self._database.execute_sql("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
        return 0 if row is None else int(row[0])

    def _answer_again(self, publish: Publish, organization_id: str | None, count: int) -> None:
        if organization_id == publish.event.organization_id:
            publish.result = PublishResult(id=publish.event.id, deliveries=count, duplicate=True)
        else:
            publish.error = Rejected(
                ErrorCode.CONFLICT,
                f"the id {publish.event.id} belongs to an event of another organization: choose another",
            )

    def _delivery(
        self, pk: int, event_pk: int, event: AcceptedEvent, target: Target, sequence: int
    ) -> tuple[object, ...]:
        """Return the row in the order of `_DELIVERY_COLUMNS`."""
        ends = target.status is DeliveryStatus.CANCELED
        return (
            pk,
            self._ids.new(Prefix.DELIVERY),
            target.endpoint_pk,
            event_pk,
            event.type,
            event.ordering_key,
            sequence,
            target.status.value,
            Trigger.AUTO.value,
            0,
            0,
            0,
            None if ends else event.accepted_at,
            event.accepted_at,
            event.accepted_at + target.max_age_seconds,
        )

    def _record(self, records: Sequence[AttemptRecord]) -> None:
        if not records:
            return
        connection = self._database.connection()
        connection.executemany(_INSERT_ATTEMPT, [_attempt(record) for record in records])
        connection.executemany(
            _COUNT_ATTEMPT,
            [
                (record.number, record.outcome.status, record.outcome.duration_seconds, record.delivery.pk)
                for record in records
            ],
        )
        connection.executemany(_UPDATE_DELIVERY, [_delivery_update(record) for record in records])
        # Of several attempts of one endpoint the last one's state holds.
        states = {record.delivery.endpoint_pk: record.endpoint for record in records}
        connection.executemany(
            _UPDATE_STATE, [(*msgspec.structs.astuple(state), endpoint_pk) for endpoint_pk, state in states.items()]
        )


def full() -> Rejected:
    """Return the answer to an event that there is no room for."""
    return Rejected(
        ErrorCode.JOURNAL_FULL,
        "the journal has no room for more events; send it again later",
        retry_after_seconds=FULL_RETRY_SECONDS,
    )


def _event(pk: int, event: AcceptedEvent, deliveries: int) -> tuple[object, ...]:
    """Return the row in the order of `_EVENT_COLUMNS`."""
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


def attempt_values(record: AttemptRecord) -> dict[str, object]:
    """Return the row of an attempt by column."""
    return dict(zip(_ATTEMPT_COLUMNS, _attempt(record), strict=True))


def _attempt(record: AttemptRecord) -> tuple[object, ...]:
    """Return the row in the order of `_ATTEMPT_COLUMNS`."""
    outcome = record.outcome
    return (
        record.delivery.pk,
        record.number,
        record.attempt_id,
        record.trigger.value,
        record.started_at,
        outcome.duration_seconds,
        outcome.remote_address,
        outcome.status,
        _json(outcome.headers).decode(),
        outcome.body,
        outcome.truncated,
        None if record.error is None else record.error.value,
        outcome.detail,
        record.retry_after_seconds,
    )


def _delivery_update(record: AttemptRecord) -> tuple[object, ...]:
    # An attempt that was cut off is made again for the reason it was made for.
    trigger = record.trigger if record.error is DeliveryError.INTERRUPTED else Trigger.AUTO
    return (
        record.status.value,
        trigger.value,
        record.refusals,
        record.backoff_step,
        record.next_attempt_at,
        record.completed_at,
        None if record.error is None else record.error.value,
        record.delivery.pk,
    )
