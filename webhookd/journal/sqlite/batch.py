"""Commit a batch of operations in one transaction: the hot path of the journal.

It runs in the writer's thread. Events and attempts are written in bulk. Between two calls the order of publishes and
records doesn't matter, because a record changes only deliveries that were on disk before it. Row numbers and sequences
are remembered from batch to batch, and read again after a call, which may have changed them, and after an error.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import groupby
from traceback import clear_frames

from peewee import Database

from webhookd.base.errors import WebhookdError
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import AttemptRecord
from webhookd.base.stages import reached
from webhookd.journal import record_rows
from webhookd.journal.operations import DatabaseCall, Publish, Record, Submission, is_change
from webhookd.journal.planning import Numbers, Stored, plan, settle
from webhookd.journal.queries.schema import EventTable, SequenceTable
from webhookd.journal.record_rows import attempt_row, change_row, count_row, delivery_row, event_row, state_row
from webhookd.journal.sqlite.bulk import BulkInsert, BulkUpdate
from webhookd.journal.sqlite.database import size_bytes

_IN_CHUNK = 500
_MOST_REMEMBERED = 10_000

_INSERT_EVENT = BulkInsert("events", record_rows.EVENT_COLUMNS)
_INSERT_DELIVERY = BulkInsert("deliveries", record_rows.DELIVERY_COLUMNS)
_INSERT_ATTEMPT = BulkInsert("attempts", record_rows.ATTEMPT_COLUMNS)
_UPDATE_SEQUENCE = BulkUpdate("sequences", "endpoint_pk", ("last", "last_expires_at"), growing=("last_expires_at",))
# A state from before a change by hand that has forgiven something stays unwritten.
_UPDATE_STATE = BulkUpdate(
    "endpoint_state",
    "endpoint_pk",
    record_rows.STATE_COLUMNS,
    f'"forgiven" = new.column{record_rows.STATE_COLUMNS.index("forgiven") + 2}',
)
_COUNT_ATTEMPT = BulkUpdate("deliveries", "pk", record_rows.COUNT_COLUMNS)
_UPDATE_DELIVERY = BulkUpdate("deliveries", "pk", record_rows.CHANGE_COLUMNS, "status IN ('pending', 'parked')")


class Batches:
    """Commits batches of operations on the writer's connection.

    Once the file holds `max_bytes`, events are refused; attempts and changes are still written. `is_above_bound` says
    whether the last commit found it so.
    """

    def __init__(self, database: Database, ids: IdFactory, max_bytes: int | None) -> None:
        self._database = database
        self._ids = ids
        self.is_above_bound = False
        self._max_bytes = max_bytes
        self._sequences: dict[int, int] = {}
        self._last_numbers: dict[str, int] = {}

    def commit(self, operations: Sequence[Submission]) -> None:
        """Commit all operations in one transaction and set the result or the error of each.

        If it raises, everything is rolled back.
        """
        try:
            with self._database.atomic():
                if self._max_bytes is not None:
                    self.is_above_bound = size_bytes(self._database) > self._max_bytes
                for is_call, group in groupby(operations, key=is_change):
                    if is_call:
                        for operation in group:
                            assert isinstance(operation, DatabaseCall)  # noqa: S101 - the group's key
                            self._call(operation)
                    else:
                        hot = list(group)
                        self._publish([publish for operation in hot for publish in _publishes(operation)])
                        self._record([operation.record for operation in hot if isinstance(operation, Record)])
        except BaseException:
            self._drop_caches()
            raise
        reached("batch.committed")

    def _drop_caches(self) -> None:
        self._sequences.clear()
        self._last_numbers.clear()

    def _call(self, call: DatabaseCall) -> None:
        call.result = call.error = None
        call.notices = ()
        try:
            with self._database.atomic():
                call.result = call.change(self._database)
                if call.notices_of is not None:
                    self._drop_caches()
                    call.notices = call.notices_of(call.result)
                    self._publish(call.notices)
        except WebhookdError as error:
            # Its frames may hold a cursor, and an open cursor prevents the writer's next checkpoint.
            clear_frames(error.__traceback__)
            call.error = error
        self._drop_caches()

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
        _INSERT_EVENT.run(connection, [event_row(pk, publish.event, len(queued)) for pk, publish, queued in stored])
        _INSERT_DELIVERY.run(
            connection, [delivery_row(each, publish.event.type) for _, publish, queued in stored for each in queued]
        )
        _UPDATE_SEQUENCE.run(connection, [(pk, last, planned.expiries[pk]) for pk, last in planned.sequences.items()])
        self._sequences.update(planned.sequences)
        self._last_numbers = {"events": planned.numbers.event, "deliveries": planned.numbers.delivery}
        settle(planned)
        reached("event.written")

    def _known(self, event_ids: Iterable[str]) -> dict[str, Stored]:
        """Return the stored events among these ids: the organization and the number of deliveries of each."""
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
        """Return the last sequence of each of these endpoints that isn't deleted; it may contain others."""
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
        _INSERT_ATTEMPT.run(connection, [attempt_row(record) for record in records])
        if _UPDATE_DELIVERY.run(connection, [change_row(record) for record in records]) < len(records):
            # A delivery that has ended keeps its state: its webhook may have been deleted during the request.
            _COUNT_ATTEMPT.run(connection, [count_row(record) for record in records])
        # Of several attempts of one endpoint, the last one's state is stored.
        states = {record.delivery.endpoint_pk: record.endpoint for record in records}
        _UPDATE_STATE.run(connection, [state_row(endpoint_pk, state) for endpoint_pk, state in states.items()])
        reached("record.written")


def _publishes(operation: Submission) -> Sequence[Publish]:
    """Return the events of an operation: itself, or the operational events that are stored with it."""
    return (operation,) if isinstance(operation, Publish) else operation.notices
