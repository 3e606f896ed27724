"""Retention: delete what is older than it is kept, in small steps between the other batches of the writer.

On PostgreSQL bodies and attempts, most of the data, are dropped with the partitions of whole days instead.

Of several nodes the leader does it. One that becomes the leader begins within an hour.
"""

from collections.abc import Callable
from contextlib import suppress

import trio

from webhookd.base.stages import reached
from webhookd.journal.errors import FencedError
from webhookd.journal.queries import idempotency, replays, retention, sealing
from webhookd.journal.transactions import StorePart

PERIOD_SECONDS = 3600.0
PAUSE_SECONDS = 0.05
SECRETS_A_STEP = 500


class Retention(StorePart):
    """Deletes old events, replays and kept answers, and expired secrets; it goes on while the disk is full."""

    async def run(
        self, retention_days: float, now: Callable[[], float], *, period_seconds: float = PERIOD_SECONDS
    ) -> None:
        """Delete what is older than `retention_days`, at once and every hour, until canceled.

        `now` is the clock for that: the system's clock may be set by mistake, which must not make everything old.
        """
        while True:
            if self._transactions.ownership.is_leader:
                with suppress(FencedError):  # another node leads by now
                    await self._delete(now, now() - retention_days * 86_400)
            await trio.sleep(period_seconds)

    async def _delete(self, now: Callable[[], float], before: float) -> None:
        lead = self._transactions.lead
        await lead(idempotency.prune, now())
        await self._delete_expired_secrets(now)
        for forget in self._transactions.leftovers:
            await lead(forget)
        await lead(replays.prune, before)
        rows = retention.FIRST_ROWS
        while (pruned := await lead(retention.prune, before, rows)).rows:
            reached("retention.step")
            rows = retention.next_rows(rows, pruned.seconds)
            await self._give_back_pages()
        await self._give_back_pages()
        await self._transactions.drop_old(before, lead)

    async def _delete_expired_secrets(self, now: Callable[[], float]) -> None:
        pks = await self._transactions.read(sealing.expired, now())
        for start in range(0, len(pks), SECRETS_A_STEP):
            await self._transactions.lead(sealing.delete_expired, pks[start : start + SECRETS_A_STEP], now())

    async def _give_back_pages(self) -> None:
        are_left = True
        while are_left:
            await trio.sleep(PAUSE_SECONDS)
            are_left = await self._transactions.lead(retention.give_back_pages)
