"""Faults planted in the server from outside, before it starts; each has a point whose check must find it.

What is planted stays for every start of a check, as a fault in the code would. The product has no switch for any.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from peewee import Database

from webhookd.base.models import AcceptedEvent, Outcome, PublishResult
from webhookd.crypto.key_file import KeyPlace
from webhookd.dispatch.attempt import Attempts
from webhookd.dispatch.router import Router
from webhookd.journal import Ticket
from webhookd.journal.queries import audit, replays
from webhookd.journal.queries.bulk import SqlConnection
from webhookd.journal.queries.schema import ReplayTable
from webhookd.journal.sqlite import batch, copies, database, migrations, restore
from webhookd.journal.sqlite.writer import Writer
from webhookd.journal.store import Store

_SLOW_DISK_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault: what plants it, the point that must find it, and what that says then.

    `keeps_waiting` where it shows in something that never comes; then the check isn't to wait as long as for a machine.
    """

    plant: Callable[[], None]
    found_at: str
    says: str
    keeps_waiting: bool = False


def _acknowledge_early() -> None:
    publish, commit_next = Store.publish, Writer._commit_next

    def publish_early(self: Store, event: AcceptedEvent, *args: Any, **kwargs: Any) -> Ticket[PublishResult]:
        ticket = publish(self, event, *args, **kwargs)
        ticket.succeed(PublishResult(id=event.id, deliveries=1, duplicate=False))
        return ticket

    async def commit_slowly(self: Writer) -> None:
        # As a disk may take; else the answer is hardly ever out before the commit.
        await trio.sleep(_SLOW_DISK_SECONDS)
        await commit_next(self)

    _put(Store, "publish", publish_early)
    _put(Writer, "_commit_next", commit_slowly)


def _record_early() -> None:
    send, settle = Attempts._send, Attempts._settle
    settled: dict[int, Any] = {}

    async def record_and_send(self: Attempts, attempt: Any) -> Outcome:
        settled[id(attempt)] = await settle(self, attempt, Outcome(duration_seconds=0.0, status=200))
        await settled[id(attempt)][0].wait()
        return await send(self, attempt)

    async def recorded(_: Attempts, attempt: Any, __: Outcome) -> tuple[Ticket[None], bool]:
        await trio.lowlevel.checkpoint()
        found: tuple[Ticket[None], bool] = settled.pop(id(attempt))
        return found

    _put(Attempts, "_send", record_and_send)
    _put(Attempts, "_settle", recorded)


def _record_in_parts() -> None:
    insert = batch._INSERT_ATTEMPT.run

    def insert_and_commit(connection: SqlConnection, rows: Any) -> None:
        insert(connection, rows)
        for statement in ("COMMIT", "BEGIN IMMEDIATE"):
            connection.execute(statement)

    _put(batch._INSERT_ATTEMPT, "run", insert_and_commit)


def _go_on_before_the_record() -> None:
    record, commit_next = Store.record, Writer._commit_next

    def record_early(self: Store, *submitted: Any) -> Ticket[None]:
        ticket = record(self, *submitted)
        ticket.succeed(None)
        return ticket

    async def commit_slowly(self: Writer) -> None:
        await trio.sleep(_SLOW_DISK_SECONDS)
        await commit_next(self)

    _put(Store, "record", record_early)
    _put(Writer, "_commit_next", commit_slowly)


def _commit_each_step() -> None:
    def migrate(of: Database, *, version: int, now: float) -> None:
        for number, step in enumerate(migrations._STEPS[version:], start=version + 1):
            step(of, now)
            of.execute_sql(f"PRAGMA user_version = {number}")  # type: ignore[no-untyped-call]  # peewee's stubs

    _put(database, "migrate", migrate)


def _copy_to_the_name() -> None:
    def begin(self: copies.UnfinishedFile, path: Path, **_: object) -> None:
        self.path = self.unfinished = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    _put(copies.UnfinishedFile, "__init__", begin)


def _move_away_first() -> None:
    put_aside = restore._put_aside

    def move_away(journal: Path, kept: Path) -> Path | None:
        path = put_aside(journal, kept)
        journal.unlink()
        return path

    _put(restore, "_put_aside", move_away)


def _install_early() -> None:
    stage = KeyPlace.stage

    def install(self: KeyPlace, key: Any) -> None:
        stage(self, key)
        self.next_path.replace(self.path)
        stage(self, key)

    _put(KeyPlace, "stage", install)


def _forget_the_position() -> None:
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


def _note_later() -> None:
    append = audit.append
    due: list[Any] = []

    def append_the_last(of: Database, *entry: Any) -> None:
        due.append(entry)
        if len(due) > 1:
            append(of, *due.pop(0))

    _put(audit, "append", append_the_last)


def _leave_the_deleted() -> None:
    async def cancel_nothing(self: Router, endpoint_pk: int) -> None:
        await trio.lowlevel.checkpoint()

    _put(Router, "_cancel_queue", cancel_nothing)


def _put(owner: object, name: str, changed: object) -> None:
    getattr(owner, name)  # it is still there
    setattr(owner, name, changed)


PLANTED: dict[str, Fault] = {
    "acknowledges before the commit": Fault(
        plant=_acknowledge_early, found_at="write.submitted", says="told: ['first', 'second']"
    ),
    "records a delivery before the answer": Fault(
        plant=_record_early, found_at="send.composed", says="on record: 1 attempts"
    ),
    "commits an attempt without its delivery": Fault(
        plant=_record_in_parts, found_at="record.half", says="on record: 1 attempts"
    ),
    "goes on before a record is on disk": Fault(
        plant=_go_on_before_the_record, found_at="record.landed", says="on record: 0 attempts"
    ),
    "commits each step of a migration": Fault(
        plant=_commit_each_step, found_at="migration.between", says="killed, it has version 2"
    ),
    "writes a backup straight to its name": Fault(
        plant=_copy_to_the_name, found_at="backup.copying", says="the file is there"
    ),
    "moves the journal away before its successor is there": Fault(
        plant=_move_away_first, found_at="restore.kept", says="the journal is gone"
    ),
    "installs a master key before the journal knows it": Fault(
        plant=_install_early, found_at="master-key.staged", says="isn't the one this journal was made with"
    ),
    "keeps a replay's position in memory": Fault(
        plant=_forget_the_position, found_at="replay.between", says="the replay doesn't end", keeps_waiting=True
    ),
    "writes an entry of the audit log with the next one": Fault(
        plant=_note_later, found_at="audit.committed", says="change and entry are not one"
    ),
    "leaves the queue of a deleted webhook to itself": Fault(
        plant=_leave_the_deleted, found_at="delete.marked", says="is not canceled", keeps_waiting=True
    ),
}
