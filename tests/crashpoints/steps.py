"""What work leaves that goes in steps and is cut off between or within them: replays, forgetting, a first start."""

from dataclasses import dataclass

import trio

from tests.crashpoints.site import Site, expect, verify
from tests.journal.old import ask

_OLD = 100 * 86_400
_HELD = "held"
_PAST = "2020-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A check of a replay of so many events: each is queued once more, whatever it was cut off in."""

    events: int

    async def __call__(self, site: Site) -> None:
        """Play it."""
        await site.serve(is_doomed=True)
        webhook = await site.webhook("http://127.0.0.1:10001/", isActive=False)
        await site.submit(*(f"e{number}" for number in range(self.events)))
        await site.ask_and_die("POST", f"/api/webhooks/{webhook['id']}/replay", {"since": _PAST})
        site.sound()
        await site.serve()
        with site.patience("the replay doesn't end"):
            while site.look("SELECT status, queued FROM replays") != [("done", self.events)]:
                await trio.sleep(0.05)
        await site.stop()
        counts = site.look("SELECT count(*), count(DISTINCT sequence), max(sequence) FROM deliveries")
        expect(counts == [(2 * self.events,) * 3], f"deliveries, sequences and the last of them: {counts}")
        more = site.look("SELECT event_pk, count(*) FROM deliveries GROUP BY 1 HAVING count(*) <> 2")
        expect(not more, f"not replayed once: {more[:5]}")
        site.sound()


async def forgot(site: Site) -> None:
    """Check that forgetting by age ends what it began: old events go whole, one with a delivery to come stays whole."""
    await site.serve()
    receiver = await site.receiver()
    webhook = await site.webhook(receiver.url)
    await site.submit(*(f"old{number}" for number in range(5)))
    holding = await site.webhook(receiver.url, isActive=False)
    await site.submit(_HELD)
    await site.quiet(webhook)
    expect(await site.stop() == 0, "it didn't stop well")
    ask(site.journal, f"UPDATE events SET accepted_at = accepted_at - {_OLD}")  # noqa: S608 - a constant
    site.arm()
    await site.serve(is_doomed=True)
    await site.death()
    site.sound()
    await site.serve()
    with site.patience("what is old is not forgotten"):
        while len(site.look("SELECT id FROM events")) > 1:
            await trio.sleep(0.05)
    site.sound()
    left = site.look("SELECT (SELECT id FROM events), count(*), (SELECT count(*) FROM attempts) FROM deliveries")
    expect(left == [(_HELD, 2, 1)], f"left of events, deliveries and attempts: {left}")
    await site.change("PATCH", f"/api/webhooks/{holding['id']}", {"isActive": True})
    await site.quiet(holding)
    verify(receiver.requests[-1:], holding["secret"])
    expect(receiver.requests[-1].headers["webhook-id"] == _HELD, "what was held was not sent")


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstStart:
    """A check of a first start: the next one takes what is there, and `is_key_shown` there or not any more."""

    is_key_shown: bool

    async def __call__(self, site: Site) -> None:
        """Play it."""
        site.arm()
        await site.serve(is_doomed=True)
        await site.death()
        expect(not site.first_key, "a key was shown")
        await site.serve()
        expect(bool(site.first_key) == self.is_key_shown, f"the admin key is {'' if site.first_key else 'not '}shown")
        if not self.is_key_shown:
            keys = (await site.get("/api/keys"))["data"]
            expect(len(keys) == 1, f"{len(keys)} keys instead of the one that nobody saw")
            await site.change("POST", "/api/keys", {"role": "admin"})
            await site.change("DELETE", f"/api/keys/{keys[0]['id']}")
        receiver = await site.receiver()
        webhook = await site.webhook(receiver.url)
        await site.submit("e")
        await site.quiet(webhook)
        verify(receiver.requests, webhook["secret"])
        expect(len(receiver.requests) == 1, "it was not delivered once")
        await site.stop()
        await site.serve()
        site.sound()
