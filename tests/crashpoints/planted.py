"""Faults planted in the server from outside, before it starts; each has a point whose check must find it.

A fault stays for every start of a check, as a fault in the code would. The product has no switch for any.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio
from peewee import Database
from playhouse.apsw_ext import APSWDatabase

from webhookd.base.models import AcceptedEvent, Message, Outcome, PublishResult, QueuedDelivery
from webhookd.base.secret import Secret
from webhookd.crypto.key_file import KeyPlace, format_master_key
from webhookd.dispatch.flights import Flights
from webhookd.journal import Ticket
from webhookd.journal.history import Deliveries
from webhookd.journal.operations import Landed
from webhookd.journal.queries import audit, replays
from webhookd.journal.queries.dialect import SqlConnection
from webhookd.journal.queries.schema import ReplayTable
from webhookd.journal.sqlite.batch import Batches
from webhookd.journal.sqlite.bulk import BulkUpdate
from webhookd.journal.sqlite.copies import UnfinishedFile
from webhookd.journal.store import Store

_SLOW_DISK_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault: what plants it, the point that must find it, and what that point then reports.

    With `keeps_waiting` the fault shows as a wait that never ends, which the check then gives up after seconds.
    """

    plant: Callable[[], None]
    found_at: str
    says: str
    keeps_waiting: bool = False


def _acknowledge_early() -> None:
    publish = Store.publish

    def publish_early(self: Store, event: AcceptedEvent, *args: Any, **kwargs: Any) -> Ticket[PublishResult]:
        ticket = publish(self, event, *args, **kwargs)
        ticket.succeed(PublishResult(id=event.id, deliveries=1, duplicate=False))
        return ticket

    _put(Store, "publish", publish_early)
    _commit_slowly()


def _commit_slowly() -> None:
    """Take the time for a commit that a disk may take; else a fault that acts before it is hardly ever seen."""
    commit = Batches.commit

    def commit_late(self: Batches, operations: Any) -> None:
        time.sleep(_SLOW_DISK_SECONDS)
        commit(self, operations)

    _put(Batches, "commit", commit_late)


def _record_early() -> None:
    launch, landed = Flights._launch, Flights._landed
    recorded: dict[int, Callable[[], None]] = {}

    def record_and_launch(self: Flights, flight: Any, message: Message, now: float) -> None:
        flight.message, flight.receiver, flight.started_at = message, self.receiver, now
        flight.outcome = Outcome(duration_seconds=0.0, status=200)
        recorded[flight.delivery.pk] = partial(launch, self, flight, message, now)
        self._settle(flight)

    def end(self: Flights, flight: Any, _: Outcome | Exception) -> None:
        self._slots.release(self._owner)
        landed(self, flight.delivery, None)

    def send_recorded(_: Flights, delivery: QueuedDelivery, __: Exception | None) -> None:
        recorded.pop(delivery.pk)()

    _put(Flights, "_launch", record_and_launch)
    _put(Flights, "_answered", end)
    _put(Flights, "_landed", send_recorded)


def _record_in_parts() -> None:
    update = BulkUpdate.run

    def commit_and_update(self: BulkUpdate, connection: SqlConnection, rows: Any) -> int:
        if self.sql(1).startswith('UPDATE "deliveries"'):
            for statement in ("COMMIT", "BEGIN IMMEDIATE"):
                connection.execute(statement)
        return update(self, connection, rows)

    _put(BulkUpdate, "run", commit_and_update)


def _go_on_before_the_record() -> None:
    record = Store.record

    def record_early(self: Store, *submitted: Any, landed: Landed) -> None:
        record(self, *submitted, landed=lambda _: None)
        landed(None)

    _put(Store, "record", record_early)
    _commit_slowly()


def _commit_each_step() -> None:
    execute = APSWDatabase.execute_sql

    def execute_and_commit(self: APSWDatabase, sql: str, *args: Any) -> Any:
        done = execute(self, sql, *args)
        if sql.startswith("PRAGMA user_version = "):
            for statement in ("COMMIT", "BEGIN IMMEDIATE"):
                execute(self, statement)
        return done

    _put(APSWDatabase, "execute_sql", execute_and_commit)


def _copy_to_the_name() -> None:
    def begin(self: UnfinishedFile, path: Path, **_: object) -> None:
        self.path = self.unfinished = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    _put(UnfinishedFile, "__init__", begin)


def _move_away_first() -> None:
    finish = UnfinishedFile.finish

    def finish_late(self: UnfinishedFile, *, replace: bool) -> None:
        if replace:
            self.path.unlink(missing_ok=True)
        finish(self, replace=replace)

    _put(UnfinishedFile, "finish", finish_late)


def _install_early() -> None:
    stage = KeyPlace.stage

    def install(self: KeyPlace, key: Secret[bytes]) -> None:
        self.path.write_text(format_master_key(key))
        stage(self, key)

    _put(KeyPlace, "stage", install)


def _keep_the_position_in_memory() -> None:
    step = replays.step
    positions: dict[str, int] = {}

    def step_in_memory(of: Database, replay_id: str, *args: Any) -> Any:
        row = ReplayTable.update({"position": positions.get(replay_id, -1)})
        row.where(ReplayTable.id == replay_id).execute(of)
        done = step(of, replay_id, *args)
        positions[replay_id] = done.position
        ReplayTable.update({"position": -1}).where(ReplayTable.id == replay_id).execute(of)
        return done

    _put(replays, "step", step_in_memory)


def _append_the_entry_later() -> None:
    append = audit.append
    due: list[Any] = []

    def append_the_last(of: Database, *entry: Any) -> None:
        due.append(entry)
        if len(due) > 1:
            append(of, *due.pop(0))

    _put(audit, "append", append_the_last)


def _cancel_nothing() -> None:
    async def cancel_nothing(self: Deliveries, *_: object) -> int:
        await trio.lowlevel.checkpoint()
        return 0

    _put(Deliveries, "cancel", cancel_nothing)


def _put(owner: object, name: str, changed: object) -> None:
    getattr(owner, name)  # AttributeError where it has another name now
    setattr(owner, name, changed)


PLANTED: dict[str, Fault] = {
    "acknowledges before the commit": Fault(
        plant=_acknowledge_early, found_at="event.written", says="acknowledged: ['first', 'second']"
    ),
    "records a delivery before the answer": Fault(
        plant=_record_early, found_at="request.begun", says="on record: 1 attempts"
    ),
    "commits an attempt without its delivery": Fault(
        plant=_record_in_parts, found_at="record.written", says="on record: 1 attempts"
    ),
    "goes on before a record is on disk": Fault(
        plant=_go_on_before_the_record, found_at="record.committed", says="on record: 0 attempts"
    ),
    "commits each step of a migration": Fault(
        plant=_commit_each_step, found_at="migration.step", says="killed, it has version 3"
    ),
    "writes a backup straight to its name": Fault(
        plant=_copy_to_the_name, found_at="backup.filled", says="the file is there"
    ),
    "moves the journal away before its successor is there": Fault(
        plant=_move_away_first, found_at="restore.kept", says="the journal is gone"
    ),
    "installs a master key before the journal knows it": Fault(
        plant=_install_early, found_at="master-key.staged", says="isn't the one this journal was made with"
    ),
    "keeps a replay's position in memory": Fault(
        plant=_keep_the_position_in_memory, found_at="replay.step", says="the replay doesn't end", keeps_waiting=True
    ),
    "writes an entry of the audit log with the next one": Fault(
        plant=_append_the_entry_later, found_at="rotation.committed", says="change and entry are not one"
    ),
    "leaves the queue of a deleted webhook to itself": Fault(
        plant=_cancel_nothing, found_at="deletion.committed", says="is not canceled", keeps_waiting=True
    ),
}
