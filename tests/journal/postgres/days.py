"""A journal whose tables have partitions of days long ago, and retention on it, as a leader runs it.

`python -m tests.journal.postgres.days URL BEFORE STAGE` runs retention, and kills itself at a stage.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

import trio
from peewee import Database

from tests.journal.engines import add_deliveries
from tests.journal.harness import VAULT
from tests.journal.postgres.connections import connected, rows
from tests.journal.test_both_engines import new_webhook
from webhookd.base.database_url import parse
from webhookd.base.stages import AUDIT_EVENT
from webhookd.journal import InlineRunner
from webhookd.journal.postgres.daily_tables import DailyTables
from webhookd.journal.postgres.database import ConnectionRole, PostgresDatabase, connect
from webhookd.journal.postgres.partitions import DAY_SECONDS, KEYS, attached, make_days, partition_of
from webhookd.journal.queries import endpoints, retention

P = ParamSpec("P")
T = TypeVar("T")

DAY = 20_000
"""The day of the tests, 40 days after which retention runs."""
AT = float(DAY * DAY_SECONDS + 5000)
LATER = float((DAY + 40) * DAY_SECONDS)

_ADD_EVENT = (
    "INSERT INTO events (id, type, timestamp, accepted_at, deliveries, body_bytes) "
    "VALUES (%s, 'user.created', %s, %s, 1, %s) RETURNING pk"
)
_ADD_ATTEMPT = (
    "INSERT INTO {table} (delivery_pk, number, id, trigger, started_at, duration_seconds, response_headers, "
    "response_body, truncated, detail, created_at, era, xid) "
    "VALUES (%s, %s, %s, 'auto', %s, 1, '[]', '', false, '', %s, 0, pg_current_xact_id())"
)


def fill(database: PostgresDatabase) -> None:
    """Make two days, and a webhook."""
    make_days(database, [DAY, DAY + 1])
    endpoints.insert(database, VAULT, new_webhook(1))


def add(
    database: PostgresDatabase, event_id: str, *, status: str = "succeeded", at: float = AT, attempts: int = 1
) -> int:
    """Store an event with a delivery and its attempts; return its row number, and that of its delivery."""
    [(event_pk,)] = rows(database, _ADD_EVENT, event_id, at, at, len(event_id))
    rows(database, "INSERT INTO bodies VALUES (%s, %s, %s)", event_pk, at, event_id.encode())
    [pk] = add_deliveries(database, 1, [event_pk], status=status, created_at=at, attempts=attempts)
    for number in range(1, attempts + 1):
        add_attempt(database, pk, number, created_at=at)
    return int(event_pk)


def add_attempt(
    database: PostgresDatabase, pk: int, number: int, *, created_at: float = AT, table: str = "attempts"
) -> None:
    """Store an attempt of a delivery."""
    rows(database, _ADD_ATTEMPT.format(table=table), pk, number, f"att_{pk}_{number}", created_at, created_at)


def days(database: PostgresDatabase, *, leaving: bool = False) -> set[str]:
    """Return the partitions that are attached, or those that are half detached."""
    return {each.name for each in attached(database) if each.is_leaving == leaving}


def tables(database: PostgresDatabase) -> set[str]:
    """Return the tables of days, attached or not."""
    sql = "SELECT relname FROM pg_class WHERE relname ~ '^(bodies|attempts)_[0-9]+$'"
    return {name for (name,) in rows(database, sql)}


def both(*numbers: int) -> set[str]:
    """Return the names of the partitions of days."""
    return {partition_of(table, number).name for table in KEYS for number in numbers}


def tables_of(url: str) -> DailyTables:
    """Return what makes and drops partitions of a database."""
    opened = partial(connect, parse(url), ConnectionRole.WRITER, application_name="webhookd/test/partitions")
    return DailyTables(opened, InlineRunner(), lambda: LATER, tries=2)


async def retain(url: str, before: float = LATER, *, between: Iterable[Callable[[], object]] = ()) -> None:
    """Run retention once, as the leader does; `between` are called before its transactions, one after the other."""
    pauses = iter(between)
    with connected(url) as database:

        async def lead(change: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
            await trio.lowlevel.checkpoint()
            next(pauses, lambda: None)()
            with database.translated(), database.atomic():
                return change(database, *args, **kwargs)

        while (await lead(retention.prune, before, 100)).rows:
            pass
        await tables_of(url).drop_old(before, lead)


def main() -> None:
    """Run retention until a stage, and die there."""
    url, before, stage = sys.argv[1:]

    def watch(event: str, args: tuple[object, ...]) -> None:
        if event == AUDIT_EVENT and args[0] == stage:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    trio.run(retain, url, float(before))


if __name__ == "__main__":
    main()
