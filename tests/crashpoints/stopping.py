"""What a stop leaves that is cut off: requests in flight, attempts that were interrupted, the last checkpoint."""

import signal
from dataclasses import dataclass

from tests.crashpoints.site import Site, attempts_of, expect, verify
from tests.e2e.harness import CONFIG
from tests.receiver import Receiver, steps

FIRST, SECOND = "first", "second"
MANY = tuple(f"e{number}" for number in range(20))
_ON_RECORD = "SELECT count(*) FROM attempts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draining:
    """A check: SIGTERM while the first of two events is in flight.

    `seen` are the attempts of the first that the receiver counts over both lives, `on_record` those that are on disk at
    the death. `script` is what the receiver answers, `drain_seconds` how long the server waits for it.
    """

    seen: tuple[int, ...]
    on_record: int
    script: str
    drain_seconds: int

    async def __call__(self, site: Site) -> None:
        """Play it."""
        site.config_file.write_text(CONFIG.replace("drain_seconds = 10", f"drain_seconds = {self.drain_seconds}"))
        await site.serve(is_doomed=True)
        receiver = await site.receiver(steps(self.script))
        webhook = await site.webhook(receiver.url)
        await site.submit(FIRST, SECOND)
        await _arrived(site, receiver, 1)
        site.arm()
        site.signal(signal.SIGTERM)
        await site.death()
        site.sound()
        [(recorded,)] = site.look(_ON_RECORD)
        expect(recorded == self.on_record, f"on record: {recorded} attempts")
        await site.serve()
        await site.quiet(webhook)
        verify(receiver.requests, webhook["secret"])
        seen = attempts_of(FIRST, receiver.requests)
        expect(seen == self.seen, f"seen: attempts {seen}")
        expect(attempts_of(SECOND, receiver.requests) == (1,), "the second event was not delivered once")
        rows = await site.deliveries(webhook["id"])
        expect([row["attempts"] for row in rows] == [self.seen[-1], 1], f"on record in the end: {rows}")
        expect([row["refusals"] for row in rows] == [0, 0], "what was interrupted counts against somebody")


async def checkpointed(site: Site) -> None:
    """Check that a stop whose checkpoint is cut off loses nothing and repeats nothing."""
    await site.serve(is_doomed=True)
    receiver = await site.receiver()
    webhook = await site.webhook(receiver.url)
    await site.submit(*MANY)
    await site.quiet(webhook)
    site.arm()
    site.signal(signal.SIGTERM)
    await site.death()
    site.sound()
    states = site.look("SELECT status, attempts, count(*) FROM deliveries GROUP BY 1, 2")
    expect(states == [("succeeded", 1, len(MANY))], f"on disk: {states}")
    await site.serve()
    expect(await site.submit(*MANY) == [True] * len(MANY), "an event that was acknowledged is not known any more")
    await site.submit("after")
    await site.quiet(webhook)
    verify(receiver.requests, webhook["secret"])
    names = [request.headers["webhook-id"] for request in receiver.requests]
    expect(names == [*MANY, "after"], f"sent: {names}")


async def resumed(site: Site) -> None:
    """Check that webhooks with a backlog are all served, although a start died while it woke them."""
    await site.serve()
    receivers = [await site.receiver(steps("hang,200")) for _ in range(3)]
    webhooks = [await site.webhook(receiver.url) for receiver in receivers]
    await site.submit(FIRST)
    for receiver in receivers:
        await _arrived(site, receiver, 1)
    await site.kill()
    site.arm()
    await site.serve(is_doomed=True)
    await site.death()
    site.sound()
    await site.serve()
    for receiver, webhook in zip(receivers, webhooks, strict=True):
        await site.quiet(webhook)
        verify(receiver.requests, webhook["secret"])
        seen = attempts_of(FIRST, receiver.requests)
        # The start that died had woken one of them, which may have sent.
        expect(seen in {(1, 1), (1, 1, 1)}, f"seen: attempts {seen}")


async def _arrived(site: Site, receiver: Receiver, count: int) -> None:
    with site.patience("the receiver saw nothing"):
        await receiver.wait_for(count)
