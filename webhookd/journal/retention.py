"""Retention: delete what is older than it is kept, in small steps between the other batches of the writer."""

from collections.abc import Callable

import trio

from webhookd.base.stages import reached
from webhookd.journal.queries import idempotency, replays, retention, sealing
from webhookd.journal.transactions import StorePart

PERIOD_SECONDS = 3600.0
PAUSE_SECONDS = 0.05
SECRETS_A_STEP = 500


class Retention(StorePart):
    """Deletes old events, replays and kept answers, and expired secrets; it goes on while the disk is full."""

    async def run(self, retention_days: float, now: Callable[[], float]) -> None:
        """Delete what is older than `retention_days`, at once and every hour, until canceled.

        `now` is the clock for that: the system's clock may be set by mistake, which must not make everything old.
        """
        insist = self._transactions.insist
        while True:
            await insist(idempotency.prune, now())
            await self._delete_expired_secrets(now)
            before = now() - retention_days * 86_400
            await insist(replays.prune, before)
            rows = retention.FIRST_ROWS
            while (pruned := await insist(retention.prune, before, rows)).rows:
                reached("retention.step")
                rows = retention.next_rows(rows, pruned.seconds)
                await self._give_back_pages()
            await self._give_back_pages()
            await trio.sleep(PERIOD_SECONDS)

    async def _delete_expired_secrets(self, now: Callable[[], float]) -> None:
        pks = await self._transactions.read(sealing.expired, now())
        for start in range(0, len(pks), SECRETS_A_STEP):
            await self._transactions.insist(sealing.delete_expired, pks[start : start + SECRETS_A_STEP], now())

    async def _give_back_pages(self) -> None:
        are_left = True
        while are_left:
            await trio.sleep(PAUSE_SECONDS)
            are_left = await self._transactions.insist(retention.give_back_pages)
