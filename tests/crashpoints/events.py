"""What becomes of events when the process dies on their way: from a line on the socket to the record of an attempt."""

import signal
from dataclasses import dataclass

import httpx
import trio

from tests.crashpoints.site import Site, attempts_of, expect, verify
from tests.e2e.harness import CONFIG
from tests.patience import PATIENCE_SECONDS
from tests.receiver import Receiver, steps

WARM, FIRST, SECOND = "warm", "first", "second"
MANY = tuple(f"e{number}" for number in range(20))
_RECORDED = (
    "SELECT events.id FROM attempts JOIN deliveries ON deliveries.pk = delivery_pk JOIN events ON events.pk = event_pk"
)

# The attempts of an event's delivery that its receiver may see, over all lives of the server.
ONCE, AGAIN, NEXT = ((1,),), ((1, 1),), ((1, 2),)
EITHER = (*ONCE, *AGAIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A check: two events are submitted while the point is armed, and again after the restart, as a producer does.

    The first is the one to look at, the second shows whether order holds. `is_acknowledged` is None where either may
    be. `seen` are the attempts of the first that the receiver may see; `on_record` how many of them are on disk at the
    death. `script` is what the receiver answers once actor and connection have delivered something.
    """

    is_acknowledged: bool | None
    is_stored: bool
    seen: tuple[tuple[int, ...], ...]
    on_record: int = 0
    script: str = "200"
    over_http: bool = False

    async def __call__(self, site: Site) -> None:
        """Play it."""
        await site.serve(is_doomed=True)
        receiver = await site.receiver(steps(f"200,{self.script}"))
        webhook = await site.webhook(receiver.url)
        await site.submit(WARM)
        await site.quiet(webhook)
        acknowledged = await (_post_and_die(site) if self.over_http else site.submit_and_die(FIRST, SECOND))
        if self.is_acknowledged is not None:
            expect((FIRST in acknowledged) == self.is_acknowledged, f"acknowledged: {acknowledged}")
        stored = [name for (name,) in site.look("SELECT id FROM events")]
        expect((FIRST in stored) == self.is_stored, f"on disk: {stored}")
        recorded = [name for (name,) in site.look(_RECORDED)].count(FIRST)
        expect(recorded == self.on_record, f"on record: {recorded} attempts")
        await site.serve()
        again = await site.submit(FIRST, SECOND)
        expect(again[0] == self.is_stored, f"submitted again, the first was {'' if again[0] else 'no '}duplicate")
        await site.quiet(webhook)
        verify(receiver.requests, webhook["secret"])
        seen = attempts_of(FIRST, receiver.requests)
        expect(seen in self.seen, f"seen: attempts {seen}")
        expect(attempts_of(SECOND, receiver.requests) == (1,), "the second event was not delivered once")
        await self._judge(site, webhook["id"], [request.headers for request in receiver.requests])

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
        expect(attempts == self.seen[0][-1], f"{attempts} attempts on record")
        expect(await site.stop() == 0, "it didn't stop with status 0")
        site.check_journal()


async def _post_and_die(site: Site) -> list[str]:
    async with httpx.AsyncClient(trust_env=False, headers={"authorization": f"Bearer {site.first_key}"}) as client:
        await client.get(f"{site.url}/healthz")
        site.arm()
        acknowledged = []
        try:
            body = {"type": "user.created", "id": FIRST, "data": {"named": FIRST, "text": ""}}
            with trio.fail_after(PATIENCE_SECONDS):
                answer = await client.post(f"{site.url}/api/events", json=body)
            acknowledged = [FIRST] if answer.status_code == 202 else []
        except httpx.TransportError:
            pass  # it has died
    await site.death()
    return acknowledged


async def resumed(site: Site) -> None:
    """Check that all webhooks with a backlog are served, although a start died after it had read two queues."""
    await site.serve()
    receivers = [await site.receiver(steps("hang,200")) for _ in range(3)]
    webhooks = [await site.webhook(receiver.url) for receiver in receivers]
    await site.submit(FIRST)
    for receiver in receivers:
        await _arrived(site, receiver)
    await site.kill()
    await site.die("serve")
    await site.serve()
    for receiver, webhook in zip(receivers, webhooks, strict=True):
        await site.quiet(webhook)
        verify(receiver.requests, webhook["secret"])
        seen = attempts_of(FIRST, receiver.requests)
        # The start that died may have sent to the webhook whose queue it read first.
        expect(seen in {(1, 1), (1, 1, 1)}, f"seen: attempts {seen}")


async def interrupted(site: Site) -> None:
    """Check that an attempt that a stop cuts off is made again as the next one, and counts as no failure."""
    site.config_file.write_text(CONFIG.replace("drain_seconds = 10", "drain_seconds = 0"))
    await site.serve(is_doomed=True)
    receiver = await site.receiver(steps("hang,200"))
    webhook = await site.webhook(receiver.url)
    await site.submit(FIRST, SECOND)
    await _arrived(site, receiver)
    await _stop_and_die(site)
    [(recorded,)] = site.look("SELECT count(*) FROM attempts")
    expect(recorded == 1, f"on record: {recorded} attempts")
    await site.serve()
    await site.quiet(webhook)
    verify(receiver.requests, webhook["secret"])
    seen = attempts_of(FIRST, receiver.requests)
    expect(seen == (1, 2), f"seen: attempts {seen}")
    expect(attempts_of(SECOND, receiver.requests) == (1,), "the second event was not delivered once")
    rows = await site.deliveries(webhook["id"])
    expect([row["attempts"] for row in rows] == [2, 1], f"on record in the end: {rows}")
    expect([row["refusals"] for row in rows] == [0, 0], "the interruption counts as a refusal")


async def checkpointed(site: Site) -> None:
    """Check that a stop whose checkpoint is cut off loses nothing and repeats nothing."""
    await site.serve(is_doomed=True)
    receiver = await site.receiver()
    webhook = await site.webhook(receiver.url)
    await site.submit(*MANY)
    await site.quiet(webhook)
    await _stop_and_die(site)
    states = site.look("SELECT status, attempts, count(*) FROM deliveries GROUP BY 1, 2")
    expect(states == [("succeeded", 1, len(MANY))], f"on disk: {states}")
    await site.serve()
    expect(await site.submit(*MANY) == [True] * len(MANY), "an event that was acknowledged is not known any more")
    await site.submit("after")
    await site.quiet(webhook)
    verify(receiver.requests, webhook["secret"])
    names = [request.headers["webhook-id"] for request in receiver.requests]
    expect(names == [*MANY, "after"], f"sent: {names}")


async def _stop_and_die(site: Site) -> None:
    site.arm()
    assert site.process is not None
    site.process.send_signal(signal.SIGTERM)
    await site.death()


async def _arrived(site: Site, receiver: Receiver) -> None:
    with site.patience("the receiver saw nothing"):
        await receiver.wait_for(1)
