"""Keep the partitions of bodies and attempts: make them ahead, on every node, and drop old ones, on the leader.

Both use a connection of their own for each call, so that a change of tables that waits holds up no commit.
"""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import TypeVar

import trio

from webhookd.base.errors import WebhookdError
from webhookd.base.stages import reached
from webhookd.journal.errors import ConnectionLostError, JournalFullError, MustRepeatError
from webhookd.journal.postgres import old_days
from webhookd.journal.postgres.database import PostgresDatabase
from webhookd.journal.postgres.partitions import Partition, attached, days_ahead, make_ahead
from webhookd.journal.queries.retention import FIRST_ROWS, next_rows
from webhookd.journal.runners import Runner
from webhookd.journal.storage import Lead
from webhookd.observe.logs import get_logger

T = TypeVar("T")

_PERIOD_SECONDS, _AGAIN_SECONDS = 3600.0, 60.0
_TRIES, _PAUSE_SECONDS = 30, 0.2

_log = get_logger("journal")


class DailyTables:
    """Makes and drops partitions; `connect` opens a connection for a call.

    `tries` says how often a step of a drop is tried while something uses the partition, five times a second.
    """

    def __init__(
        self, connect: Callable[[], PostgresDatabase], runner: Runner, now: Callable[[], float], *, tries: int = _TRIES
    ) -> None:
        self._connect = connect
        self._runner = runner
        self._now = now
        self._tries = tries
        self._covered_until: float | None = None

    @property
    def days_ahead(self) -> int | None:
        """For how many days after today there are partitions, as far as known; None before the first look."""
        return None if self._covered_until is None else days_ahead(self._covered_until, self._now())

    async def run(self) -> None:
        """Make the partitions that are missing a week ahead, at once and every hour, until canceled."""
        random = Random()  # noqa: S311 - so that not all nodes do it at once
        while True:
            try:
                self._covered_until = await self._call(partial(make_ahead, now=self._now()))
            except WebhookdError as error:
                pause = _AGAIN_SECONDS
                _log.warning("partitions.not_made", error=str(error), days_ahead=self.days_ahead)
            except Exception:  # noqa: BLE001 - such as a right that was taken away: the server goes on without
                pause = _AGAIN_SECONDS
                _log.exception("partitions.failed", days_ahead=self.days_ahead)
            else:
                pause = _PERIOD_SECONDS
            await trio.sleep(random.uniform(0.5, 1) * pause)

    async def drop_old(self, before: float, lead: Lead) -> None:
        """Drop the days of which all is older than that time; what still uses one is left to the next call.

        Raises FencedError if another node leads.
        """
        try:
            for partition in await self._call(_detached):
                await self._empty(partition, lead)
                await self._drop(partition)
            held: set[str] = set()  # the tables of which a partition is in use: the later ones wait for it
            for partition in await self._call(_attached):
                if partition.table in held or not old_days.is_over(partition, before):
                    continue
                if not await self._retire(partition, lead):
                    held.add(partition.table)
        except (ConnectionLostError, MustRepeatError, JournalFullError) as error:
            _log.warning("partitions.not_dropped", error=str(error))

    async def _retire(self, partition: Partition, lead: Lead) -> bool:
        """Drop a partition; return False if something still uses it."""
        await self._empty(partition, lead)
        reached("partition.emptied")
        if not partition.is_leaving:
            emptied = await self._call(old_days.next_transaction)
            if not await self._gone(lambda database: not old_days.has_older_snapshots(database, emptied)):
                return self._is_held(partition)
        if not await self._gone(partial(old_days.detach, partition=partition)):
            # New transactions don't find it any more, and those that may have used it before may have added to it.
            await self._empty(partition, lead)
            return self._is_held(partition)
        reached("partition.detached")
        await self._empty(partition, lead)
        return await self._drop(partition)

    async def _empty(self, partition: Partition, lead: Lead) -> None:
        """Move out of a partition what is still needed."""
        rows = FIRST_ROWS
        place: old_days.Place | None = old_days.FIRST
        while place is not None:
            moved = await lead(old_days.move_out, partition, place, rows)
            place, rows = moved.place, next_rows(rows, moved.seconds)

    async def _drop(self, partition: Partition) -> bool:
        if not await self._gone(partial(old_days.drop, partition=partition)):
            return self._is_held(partition)
        _log.info("partition.dropped", table=partition.table, name=partition.name)
        return True

    async def _gone(self, attempt: Callable[[PostgresDatabase], bool]) -> bool:
        """Try a change, again and again for some seconds, until it returns True."""
        for number in range(self._tries):
            if number:
                await trio.sleep(_PAUSE_SECONDS)
            if await self._call(attempt):
                return True
        return False

    def _is_held(self, partition: Partition) -> bool:
        _log.warning("partition.in_use", table=partition.table, name=partition.name)
        return False

    async def _call(self, work: Callable[[PostgresDatabase], T]) -> T:
        return await self._runner.run(partial(self._connected, work))

    def _connected(self, work: Callable[[PostgresDatabase], T]) -> T:
        database = self._connect()
        try:
            return work(database)
        finally:
            database.close()


def _detached(database: PostgresDatabase) -> list[Partition]:
    with database.translated():
        return old_days.detached(database)


def _attached(database: PostgresDatabase) -> list[Partition]:
    with database.translated():
        return attached(database)
