"""The hot statements: the events, deliveries and attempts of a batch, in one transaction with few trips to the server.

    first trip    begin, the writer's number, the slots, the endpoints' states, the events
    second trip   the deliveries with their sequences, the changes of deliveries, the attempts, commit

Without events it is a single trip. A trip is a pipeline: its statements are sent together, and after one that fails the
server skips the others, the commit too. The row of an endpoint's sequence is locked in the trip that ends with the
commit, so no other publisher waits for this process; and whoever sees a sequence sees all lower ones. All transactions
lock in the same order, and so never wait for each other in a circle: `slots`, `endpoint_state`, `events`, `sequences`,
`deliveries`, `attempts`, each by its key.

A body and an attempt go into the partition of their day. If that isn't there any more, they go into a table that keeps
such rows: see `partitions`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from operator import attrgetter
from typing import Any

import msgspec
from peewee import BlobField, BooleanField, Field, FloatField, Model
from peewee import IntegerField as NumberField
from psycopg import Connection, Cursor

from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import AttemptRecord, DeliveryStatus, PublishResult, QueuedDelivery, Target, Trigger
from webhookd.base.stages import reached
from webhookd.journal.errors import MustRepeatError, StaleTargetsError
from webhookd.journal.operations import ChangeMark, Publish, Record
from webhookd.journal.planning import Stored, answer_to_repeated, queued_delivery
from webhookd.journal.postgres.changes import LAST
from webhookd.journal.queries.schema import AttemptTable, DeliveryTable, EndpointStateTable, EventTable
from webhookd.journal.record_rows import (
    ATTEMPT_COLUMNS,
    CHANGE_COLUMNS,
    COUNT_COLUMNS,
    STATE_COLUMNS,
    attempt_row,
    change_row,
    state_row,
)

_EVENT_COLUMNS = (
    *("id", "type", "organization_id", "ordering_key", "traceparent", "timestamp", "accepted_at"),
    "deliveries",
)
_DELIVERY_COLUMNS = (
    *("id", "endpoint_pk", "event_pk", "event_type", "ordering_key", "status", "next_attempt_at", "created_at"),
    "expires_at",
)
_WAITS = "d.status IN ('pending', 'parked') AND d.expires_at = new.expires_at"


def _type_of(column: Field) -> str:
    match column:
        case NumberField():
            return "bigint"
        case FloatField():
            return "double precision"
        case BooleanField():
            return "boolean"
        case BlobField():
            return "bytea"
        case _:
            return "text"


def _fields(table: type[Model], columns: Iterable[str]) -> dict[str, Field]:
    return {name: getattr(table, name) for name in columns}


def _rows_of(columns: Mapping[str, Field], *, numbers: Sequence[str] = ()) -> str:
    """Return the query of rows that a parameter holds as a JSON array of arrays, in their order: its `place`.

    The columns have the types of fields, and after them come `numbers`. A value costs the process a tenth of what an
    array of PostgreSQL's own for each column costs it.
    """
    types = [(name, _type_of(field)) for name, field in columns.items()] + [(name, "bigint") for name in numbers]
    values = ", ".join(f'(row ->> {at})::{kind} AS "{name}"' for at, (name, kind) in enumerate(types))
    return f"SELECT place, {values} FROM jsonb_array_elements(%s::jsonb) WITH ORDINALITY AS given (row, place)"


def _with_bytes(rows: str, name: str) -> str:
    """Return the query of rows with one more column, which a second parameter holds as an array."""
    return (
        f"SELECT * FROM ({rows}) AS t JOIN unnest(%b::bytea[]) WITH ORDINALITY AS other ({name}, place) USING (place)"
    )


def _names(columns: Iterable[str], prefix: str = "") -> str:
    return ", ".join(f'{prefix}"{name}"' for name in columns)


# The row numbers are in the order of submission, and the rows are added in the order of ids, so that two publishers of
# the same ids never wait for each other in a circle.
_ADD_EVENTS = f"""
WITH new AS MATERIALIZED (
    SELECT nextval(pg_get_serial_sequence('events', 'pk')) AS pk, t.*
    FROM ({_with_bytes(_rows_of(_fields(EventTable, _EVENT_COLUMNS)), "body")} ORDER BY place) AS t
), added AS (
    INSERT INTO events (pk, {_names(_EVENT_COLUMNS)}, body_bytes)
    SELECT pk, {_names(_EVENT_COLUMNS)}, octet_length(body) FROM new ORDER BY id, place
    ON CONFLICT (id) DO NOTHING RETURNING id, pk
), stored AS (
    INSERT INTO bodies (event_pk, accepted_at, body)
    SELECT pk, accepted_at, body FROM added JOIN new USING (pk)
)
SELECT id, pk FROM added
"""
_ADD_OLD_EVENTS = _ADD_EVENTS.replace(
    "FROM added JOIN new USING (pk)",
    """FROM added JOIN new USING (pk) WHERE accepted_at >= %s
), kept AS (
    INSERT INTO kept_bodies (event_pk, accepted_at, body)
    SELECT pk, accepted_at, body FROM added JOIN new USING (pk) WHERE accepted_at < %s""",
)
_FIND_DELIVERIES = "SELECT id, pk, sequence FROM deliveries WHERE id = ANY(%s)"
_FIND_EVENTS = "SELECT id, organization_id, deliveries FROM events WHERE id = ANY(%s)"
# A deleted endpoint has no sequence, and gets no delivery: the numbers of its events' deliveries are corrected.
_ADD_DELIVERIES = f"""
WITH new AS MATERIALIZED (
    {_rows_of(_fields(DeliveryTable, _DELIVERY_COLUMNS))}
), locked AS MATERIALIZED (
    SELECT endpoint_pk, last FROM sequences WHERE endpoint_pk = ANY(%s) ORDER BY endpoint_pk FOR NO KEY UPDATE
), added AS (
    INSERT INTO deliveries ({_names(_DELIVERY_COLUMNS)}, sequence, trigger, attempts, refusals, backoff_step)
    SELECT {_names(_DELIVERY_COLUMNS, "new.")},
        locked.last + row_number() OVER (PARTITION BY new.endpoint_pk ORDER BY place), '{Trigger.AUTO.value}', 0, 0, 0
    FROM new JOIN locked ON locked.endpoint_pk = new.endpoint_pk ORDER BY place
    RETURNING pk, id, endpoint_pk, event_pk, sequence, expires_at
), counted AS (
    UPDATE sequences SET last = ends.last, last_expires_at = greatest(sequences.last_expires_at, ends.expires_at)
    FROM (SELECT endpoint_pk, max(sequence) AS last, max(expires_at) AS expires_at FROM added GROUP BY 1) AS ends
    WHERE sequences.endpoint_pk = ends.endpoint_pk
), corrected AS (
    UPDATE events SET deliveries = found.number
    FROM (
        SELECT wanted.pk, count(added.pk) AS number FROM unnest(%s::bigint[]) AS wanted (pk)
        LEFT JOIN added ON added.event_pk = wanted.pk GROUP BY 1
    ) AS found
    WHERE events.pk = found.pk AND events.deliveries <> found.number
)
SELECT id, pk, sequence FROM added
"""
# A state from before a change by hand that has forgiven something, here or at another node, stays unwritten.
_SET_STATES = f"""
WITH new AS MATERIALIZED (
    {_rows_of(_fields(EndpointStateTable, ("endpoint_pk", *STATE_COLUMNS)))}
), locked AS MATERIALIZED (
    SELECT endpoint_pk FROM endpoint_state WHERE endpoint_pk = ANY(%s) ORDER BY endpoint_pk FOR NO KEY UPDATE
)
UPDATE endpoint_state SET {", ".join(f'"{name}" = new."{name}"' for name in STATE_COLUMNS)}
FROM new JOIN locked ON locked.endpoint_pk = new.endpoint_pk
WHERE endpoint_state.endpoint_pk = new.endpoint_pk AND endpoint_state.forgiven = new.forgiven
"""
# A delivery that has ended or was retried meanwhile keeps its state: a retry always changes when it expires. The id is
# compared because a server that took over after a failure may give a number again that was lost with it. An attempt
# from before a change by hand that has forgiven something puts nothing off: what the change has made due stays due.
_NOW = "round(extract(epoch FROM statement_timestamp()), 3)::double precision"
_IS_FORGIVEN = f"new.next_attempt_at > {_NOW} AND state.forgiven > new.forgiven"
_FORGIVEN = {"next_attempt_at": _NOW, "backoff_step": "0"}


def _changed(name: str) -> str:
    value = f'new."{name}"'
    if name in _FORGIVEN:
        value = f"CASE WHEN {_IS_FORGIVEN} THEN {_FORGIVEN[name]} ELSE {value} END"
    return f'"{name}" = CASE WHEN {_WAITS} THEN {value} ELSE d."{name}" END'


_CHANGE_DELIVERIES = f"""
WITH new AS MATERIALIZED (
    {_rows_of(_fields(DeliveryTable, ("pk", *CHANGE_COLUMNS, "id", "expires_at", "endpoint_pk")), numbers=["forgiven"])}
), locked AS MATERIALIZED (
    SELECT pk FROM deliveries WHERE pk = ANY(%s) ORDER BY pk FOR NO KEY UPDATE
)
UPDATE deliveries AS d SET {", ".join(f'"{name}" = new."{name}"' for name in COUNT_COLUMNS)},
    {", ".join(_changed(name) for name in CHANGE_COLUMNS if name not in COUNT_COLUMNS)}
FROM new JOIN locked ON locked.pk = new.pk LEFT JOIN endpoint_state AS state ON state.endpoint_pk = new.endpoint_pk
WHERE d.pk = new.pk AND d.id = new.id
"""
_ATTEMPT_COLUMNS = tuple(name for name in ATTEMPT_COLUMNS if name != "response_body")
_BODY_AT = ATTEMPT_COLUMNS.index("response_body")
_ATTEMPT_FIELDS = _fields(AttemptTable, _ATTEMPT_COLUMNS) | {"created_at": DeliveryTable.created_at}
# None for a delivery that is gone, or that was lost with its number.
_NEW_ATTEMPTS = f"""
SELECT {_names(_ATTEMPT_FIELDS, "new.")}, new.response_body
FROM ({_with_bytes(_rows_of(_ATTEMPT_FIELDS), "response_body")}) AS new
JOIN unnest(%s::bigint[], %s::text[]) AS known (pk, id) ON known.pk = new.delivery_pk
JOIN deliveries ON deliveries.pk = known.pk AND deliveries.id = known.id
"""
_ADD_ATTEMPTS = f"INSERT INTO attempts ({_names(_ATTEMPT_FIELDS)}, response_body) {_NEW_ATTEMPTS}"
_ADD_OLD_ATTEMPTS = f"""
WITH new AS MATERIALIZED ({_NEW_ATTEMPTS}), kept AS (
    INSERT INTO kept_attempts ({_names(_ATTEMPT_FIELDS)}, response_body) SELECT * FROM new WHERE created_at < %s
)
INSERT INTO attempts ({_names(_ATTEMPT_FIELDS)}, response_body) SELECT * FROM new WHERE created_at >= %s
"""

_json = msgspec.json.Encoder().encode

_event_of = attrgetter(*_EVENT_COLUMNS[:-1])
Row = Sequence[Any]
_Draft = tuple[Publish, Target, str]
"""An event, the target of one of its deliveries, and the delivery's id."""


class HotBatch:
    """Events and attempts that are committed in one transaction, which may have to be begun again.

    `kept_before` has for each partitioned table the time before which there are no partitions, if that is known.
    """

    def __init__(
        self, operations: Sequence[Publish | Record], ids: IdFactory, kept_before: Mapping[str, float]
    ) -> None:
        self._publishes = [publish for operation in operations for publish in _publishes_of(operation)]
        self._records = [operation.record for operation in operations if isinstance(operation, Record)]
        self._ids = ids
        self._kept_before = kept_before
        self._as_of = {publish.as_of for publish in self._publishes}
        self._added: dict[str, int] = {}  # the row numbers of the new events, by id
        self._known: dict[str, Stored] = {}  # the others
        self._drafts: list[_Draft] = []

    def commit(self, connection: "Connection[Any]", begin: Callable[["Connection[Any]"], None]) -> None:
        """Commit the events and attempts, and set the events' results; `begin` is called first in the transaction.

        Raises what psycopg raises, MustRepeatError, and StaleTargetsError if settings were changed since the targets
        were found; then nothing was committed, unless the connection was lost.
        """
        with connection.pipeline():
            connection.execute("BEGIN")
            begin(connection)
            _set_states(connection, self._records)
            if not self._publishes:
                self._record(connection)
                connection.execute("COMMIT")
                return
            last = connection.execute(LAST)
            inserted = self._add_events(connection)
        [found] = last.fetchall()
        if self._as_of != {ChangeMark(*found)}:
            raise StaleTargetsError(())
        self._plan(connection, inserted)
        reached("event.written")
        with connection.pipeline():
            numbered = _add_deliveries(connection, self._drafts, self._added)
            reached("sequences.locked")
            self._record(connection)
            connection.execute("COMMIT")
        self._settle([] if numbered is None else numbered.fetchall())

    def publish(self, connection: "Connection[Any]") -> None:
        """Add the events in a transaction that is open, and set their results."""
        self._plan(connection, self._add_events(connection))
        numbered = _add_deliveries(connection, self._drafts, self._added)
        self._settle([] if numbered is None else numbered.fetchall())
        reached("event.written")

    def read_back(self, connection: "Connection[Any]") -> None:
        """Set the events' results after a commit whose answer was lost."""
        if self._publishes:
            self._settle(connection.execute(_FIND_DELIVERIES, ([each[2] for each in self._drafts],)).fetchall())

    def _add_events(self, connection: "Connection[Any]") -> "Cursor[Any]":
        events = [publish.event for publish in self._publishes]
        rows = [
            (*_event_of(event), len(publish.targets)) for event, publish in zip(events, self._publishes, strict=True)
        ]
        values = [_text(rows), [event.body for event in events]]
        kept_before = self._kept_before.get("bodies", -inf)
        if min(event.accepted_at for event in events) < kept_before:
            return connection.execute(_ADD_OLD_EVENTS, [*values, kept_before, kept_before])
        return connection.execute(_ADD_EVENTS, values)

    def _record(self, connection: "Connection[Any]") -> None:
        records = self._records
        if not records:
            return
        rows = [
            (
                *(*change_row(record), record.delivery.id, record.delivery.expires_at),
                *(record.delivery.endpoint_pk, record.endpoint.forgiven),
            )
            for record in records
        ]
        connection.execute(_CHANGE_DELIVERIES, (_text(rows), [record.delivery.pk for record in records]))
        attempts = [[*attempt_row(record), record.delivery.created_at] for record in records]
        bodies = [row.pop(_BODY_AT) for row in attempts]
        known = {record.delivery.pk: record.delivery.id for record in records}
        values = [_text(attempts), bodies, list(known), list(known.values())]
        kept_before = self._kept_before.get("attempts", -inf)
        if min(record.delivery.created_at for record in records) < kept_before:
            connection.execute(_ADD_OLD_ATTEMPTS, [*values, kept_before, kept_before])
        else:
            connection.execute(_ADD_ATTEMPTS, values)
        reached("record.written")

    def _plan(self, connection: "Connection[Any]", inserted: "Cursor[Any]") -> None:
        self._added = dict(inserted.fetchall())
        self._known = _find_repeated(connection, self._publishes, self._added)
        self._drafts = [
            (publish, target, self._ids.new(Prefix.DELIVERY))
            for publish in _first_of_each(self._publishes)
            if publish.event.id in self._added
            for target in publish.targets
        ]

    def _settle(self, numbered: Iterable[tuple[str, int, int]]) -> None:
        """Set each event's result; `numbered` are the ids, row numbers and sequences of the deliveries."""
        numbers = {delivery_id: (pk, sequence) for delivery_id, pk, sequence in numbered}
        queued: dict[str, list[QueuedDelivery]] = {}
        for publish, target, delivery_id in self._drafts:
            if (found := numbers.get(delivery_id)) is None:
                continue  # its endpoint has been deleted
            pk, sequence = found
            event = publish.event
            delivery = queued_delivery(
                pk, self._added[event.id], event, target, delivery_id=delivery_id, sequence=sequence
            )
            queued.setdefault(event.id, []).append(delivery)
        known = dict(self._known)
        for publish in self._publishes:
            event_id = publish.event.id
            publish.event_pk, publish.queued, publish.result, publish.error = None, (), None, None
            if event_id not in known:
                publish.event_pk, publish.queued = self._added[event_id], queued.get(event_id, ())
                publish.result = PublishResult(id=event_id, deliveries=len(publish.queued), duplicate=False)
                known[event_id] = (publish.event.organization_id, len(publish.queued))
            elif isinstance(answer := answer_to_repeated(publish.event, known[event_id]), PublishResult):
                publish.result = answer
            else:
                publish.error = answer


def _publishes_of(operation: Publish | Record) -> Sequence[Publish]:
    """Return the events of an operation: itself, or the operational events that are stored with it."""
    return (operation,) if isinstance(operation, Publish) else operation.notices


def _first_of_each(publishes: Iterable[Publish]) -> Iterable[Publish]:
    """Return the events without those that repeat the id of an earlier one."""
    first: dict[str, Publish] = {}
    for publish in publishes:
        first.setdefault(publish.event.id, publish)
    return first.values()


def _set_states(connection: "Connection[Any]", records: Sequence[AttemptRecord]) -> None:
    # Of several attempts of one endpoint, the last one's state is stored.
    states = {record.delivery.endpoint_pk: record.endpoint for record in records}
    if states:
        rows = [state_row(endpoint_pk, state) for endpoint_pk, state in states.items()]
        connection.execute(_SET_STATES, (_text(rows), list(states)))


def _find_repeated(
    connection: "Connection[Any]", publishes: Iterable[Publish], added: dict[str, int]
) -> dict[str, Stored]:
    """Return the events that were stored before, by id: the organization and the number of deliveries of each."""
    repeated = list({publish.event.id for publish in publishes if publish.event.id not in added})
    if not repeated:
        return {}
    found = {row[0]: row[1:] for row in connection.execute(_FIND_EVENTS, [repeated])}
    if len(found) < len(repeated):
        raise MustRepeatError("retention has deleted an event between two looks at it")
    return found


def _add_deliveries(
    connection: "Connection[Any]", drafts: Sequence[_Draft], added: dict[str, int]
) -> "Cursor[Any] | None":
    if not drafts:
        return None
    rows = []
    for publish, target, delivery_id in drafts:
        event = publish.event
        # A delivery that is canceled from the start is never due.
        due_at = None if target.status is DeliveryStatus.CANCELED else event.accepted_at
        rows.append(
            (
                *(delivery_id, target.endpoint_pk, added[event.id], event.type, event.ordering_key, target.status),
                *(due_at, event.accepted_at, event.accepted_at + target.max_age_seconds),
            )
        )
    endpoints = list({target.endpoint_pk for _, target, _ in drafts})
    events = list({added[publish.event.id] for publish, _, _ in drafts})
    return connection.execute(_ADD_DELIVERIES, (_text(rows), endpoints, events))


def _text(rows: Sequence[Row]) -> str:
    return _json(rows).decode()
