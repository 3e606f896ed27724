"""What becomes of two events that are submitted while the point is armed: from the line on the socket to the record.

The first is the one to look at; the second tells whether order holds. They are submitted again after the restart, as a
producer does that got no answer.
"""

from dataclasses import dataclass

import httpx
import trio

from tests.crashpoints.site import Site, attempts_of, expect, verify
from tests.patience import PATIENCE_SECONDS
from tests.receiver import steps

FIRST, SECOND, WARM = "first", "second", "warm"
_RECORDED = (
    "SELECT events.id FROM attempts JOIN deliveries ON deliveries.pk = delivery_pk JOIN events ON events.pk = event_pk"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A check: who was told, what is on disk when the process is dead, and what the receiver saw in the end.

    `is_told`: whether the producer was (None: it may have been). `seen`: the attempts of the first event as the
    receiver counts them, over both lives, or `or_seen`, where the request may have left beside what died. `on_record`:
    how many of them are on disk at the death. `script` is what the receiver answers. Where it is `warm`, actor and
    connection have delivered something before.
    """

    is_told: bool | None
    is_stored: bool
    seen: tuple[int, ...]
    or_seen: tuple[int, ...] = ()
    on_record: int = 0
    script: str = "200"
    warm: bool = True
    over_http: bool = False

    async def __call__(self, site: Site) -> None:
        """Play it."""
        await site.serve(is_doomed=True)
        # The first answers are to what warms it up, if anything does.
        receiver = await site.receiver(steps(f"200,{self.script}" if self.warm else self.script))
        webhook = await site.webhook(receiver.url)
        if self.warm:
            await site.submit(WARM)
            await site.quiet(webhook)
        told = await (_post_and_die(site) if self.over_http else site.submit_and_die(FIRST, SECOND))
        if self.is_told is not None:
            expect((FIRST in told) == self.is_told, f"told: {told}")
        self._look(site)
        await site.serve()
        again = await site.submit(FIRST, SECOND)
        expect(again[0] == self.is_stored, f"submitted again, the first was {'' if again[0] else 'no '}duplicate")
        await site.quiet(webhook)
        verify(receiver.requests, webhook["secret"])
        seen = attempts_of(FIRST, receiver.requests)
        expect(seen in {self.seen, self.or_seen or self.seen}, f"seen: attempts {seen}")
        expect(attempts_of(SECOND, receiver.requests) == (1,), "the second event was not delivered once")
        await self._judge(site, webhook["id"], [request.headers for request in receiver.requests])

    def _look(self, site: Site) -> None:
        site.sound()
        stored = [name for (name,) in site.look("SELECT id FROM events")]
        expect((FIRST in stored) == self.is_stored, f"on disk: {stored}")
        recorded = [name for (name,) in site.look(_RECORDED)].count(FIRST)
        expect(recorded == self.on_record, f"on record: {recorded} attempts")

    async def _judge(self, site: Site, webhook_id: str, seen: list[dict[str, str]]) -> None:
        rows = await site.deliveries(webhook_id)
        expect({row["status"] for row in rows} == {"succeeded"}, f"not all succeeded: {rows}")
        expect([row["sequence"] for row in rows] == list(range(1, len(rows) + 1)), "the sequences have gaps")
        ids = {row["eventId"]: row["id"] for row in rows}
        strays = [headers for headers in seen if headers["x-webhook-delivery"] != ids[headers["webhook-id"]]]
        expect(not strays, f"sent under another delivery's id: {strays}")
        sequences = [int(headers["x-webhook-sequence"]) for headers in seen]
        expect(sequences == sorted(sequences), f"out of order: {sequences}")
        attempts = next(row["attempts"] for row in rows if row["eventId"] == FIRST)
        expect(attempts == self.seen[-1], f"{attempts} attempts on record")
        expect(await site.stop() == 0, "it didn't stop well")
        site.sound()


async def _post_and_die(site: Site) -> list[str]:
    async with httpx.AsyncClient(trust_env=False, headers={"authorization": f"Bearer {site.first_key}"}) as client:
        await client.get(f"{site.url}/healthz")
        site.arm()
        told = []
        try:
            body = {"type": "user.created", "id": FIRST, "data": {"named": FIRST, "text": ""}}
            with trio.fail_after(PATIENCE_SECONDS):
                answer = await client.post(f"{site.url}/api/events", json=body)
            told = [FIRST] if answer.status_code == 202 else []
        except httpx.TransportError:
            pass  # it has died
    await site.death()
    return told
