"""What is left of a change when the process dies: of a webhook, its secret, the master key, and work in steps."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import trio

from tests.crashpoints.site import BrokenError, Site, expect, verify
from tests.journal.old import ask
from webhookd.base.errors import CommandError
from webhookd.crypto.key_file import load_master_key
from webhookd.crypto.vault import key_id
from webhookd.delivery.signing import generate_secret

_NOWHERE = "http://127.0.0.1:10001/"
_OLD_SECONDS = 100 * 86_400
_HELD = "held"
_REPLAYED = 600  # events, in several steps


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeOnce:
    """A check of a webhook made with an Idempotency-Key: sent again it is answered alike or refused, never doubled."""

    is_answer_kept: bool

    async def __call__(self, site: Site) -> None:
        """Play it."""
        await site.serve(is_doomed=True)
        site.arm()
        with suppress(httpx.TransportError):
            await _make(site, "once")
        await site.death()
        await site.serve()
        again = await _make(site, "once")
        made = (await site.get("/api/webhooks"))["data"]
        expect(len(made) == 1, f"{len(made)} webhooks were made")
        status = 201 if self.is_answer_kept else 409
        expect(again.status_code == status, f"sent again: {again.status_code}, {again.text}")
        if self.is_answer_kept:
            expect(again.json()["id"] == made[0]["id"], "sent again, another webhook is answered")
        expect((await _make(site, "another")).status_code == 201, "under another key it is not made")


async def _make(site: Site, key: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {site.first_key}", "idempotency-key": key}
    async with httpx.AsyncClient(trust_env=False, headers=headers) as client:
        return await client.post(f"{site.url}/api/webhooks", json={"url": _NOWHERE, "events": ["*"]})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """A check of a webhook's new secret: done with its entry in the audit log and both secrets signing, or neither."""

    is_done: bool

    async def __call__(self, site: Site) -> None:
        """Play it."""
        await site.serve(is_doomed=True)
        receiver = await site.receiver()
        webhook = await site.webhook(receiver.url)
        new = generate_secret()
        rotate = f"/api/webhooks/{webhook['id']}/rotate-secret"
        is_answered = await site.ask_and_die("POST", rotate, {"secret": new, "overlapSeconds": 3600})
        expect(not is_answered, "the change was answered")
        await site.serve()
        expect(await _entries(site, "webhook.rotate_secret") == int(self.is_done), "change and entry are not one")
        await site.submit("after")
        await site.quiet(webhook)
        verify(receiver.requests, webhook["secret"])
        expect(_verifies(receiver.requests, new) == self.is_done, f"the new secret signs: {not self.is_done}")
        if not self.is_done:
            await site.change("POST", rotate, {"secret": new, "overlapSeconds": 3600})
            await site.submit("later")
            await site.quiet(webhook)
            verify(receiver.requests[1:], webhook["secret"], new)


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterKeyChanged:
    """A check of the master key's change: it starts with the key it left, and ends as the new key or as the old one.

    `by_command`: by `rotate-master-key` while no server runs.
    """

    is_begun: bool
    by_command: bool = False

    async def __call__(self, site: Site) -> None:
        """Play it."""
        await site.serve(is_doomed=not self.by_command)
        receiver = await site.receiver()
        webhook = await site.webhook(receiver.url)
        await site.submit("before")
        await site.quiet(webhook)
        path = site.directory / "master.key"
        old = load_master_key(path)
        if self.by_command:
            await site.stop()
            await site.die("rotate-master-key")
        else:
            await site.ask_and_die("POST", "/api/master-key/rotate", {})
        await site.serve()
        with site.patience("the change of the master key doesn't end"):
            while (now := await site.get("/api/master-key"))["stage"] != "settled":
                await trio.sleep(0.01)
        in_place = load_master_key(path)
        expect(key_id(in_place).hex() == now["keyId"], "the key that is in place isn't the one that seals")
        expect((in_place != old) == self.is_begun, f"the key is {'the old one' if in_place == old else 'new'}")
        await site.submit("after")
        await site.quiet(webhook)
        verify(receiver.requests, webhook["secret"])
        kept = site.look("SELECT name FROM meta WHERE name <> 'master_key_check'")
        expect(not kept, f"keys are left in the journal: {kept}")
        await site.change("POST", "/api/master-key/rotate", {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """A check of a webhook's deletion with so many `queued` deliveries: all are canceled, and nothing is sent."""

    queued: int

    async def __call__(self, site: Site) -> None:
        """Play it."""
        await site.serve(is_doomed=True)
        receiver = await site.receiver()
        webhook = await site.webhook(receiver.url, isActive=False)
        await site.submit(*(f"e{number}" for number in range(self.queued)))
        target = f"/api/webhooks/{webhook['id']}"
        expect(not await site.ask_and_die("DELETE", target), "the deletion was answered")
        await site.serve()
        expect(await _entries(site, "webhook.delete") == 1, "deletion and entry are not one")
        try:
            await site.get(target)
        except CommandError:
            pass
        else:
            raise BrokenError("the webhook is still there")
        with site.patience("what a deleted webhook had queued is not canceled"):
            while site.look("SELECT DISTINCT status FROM deliveries") != [("canceled",)]:
                await trio.sleep(0.05)
        [(count,)] = site.look("SELECT count(*) FROM deliveries")
        expect(count == self.queued, f"{count} deliveries are left of {self.queued}")
        expect(not receiver.requests, "a request was sent to a webhook that is deleted")


async def retained(site: Site) -> None:
    """Check that retention ends what it began: old events are deleted whole, one with a pending delivery is kept."""
    await site.serve()
    receiver = await site.receiver()
    webhook = await site.webhook(receiver.url)
    await site.submit(*(f"old{number}" for number in range(5)))
    holding = await site.webhook(receiver.url, isActive=False)
    await site.submit(_HELD)
    await site.quiet(webhook)
    expect(await site.stop() == 0, "it didn't stop with status 0")
    ask(site.journal, f"UPDATE events SET accepted_at = accepted_at - {_OLD_SECONDS}")  # noqa: S608 - a constant
    await site.die("serve")
    await site.serve()
    with site.patience("what is old is not deleted"):
        while len(site.look("SELECT id FROM events")) > 1:
            await trio.sleep(0.05)
    site.check_journal()
    left = site.look("SELECT (SELECT id FROM events), count(*), (SELECT count(*) FROM attempts) FROM deliveries")
    expect(left == [(_HELD, 2, 1)], f"left of events, deliveries and attempts: {left}")
    await site.change("PATCH", f"/api/webhooks/{holding['id']}", {"isActive": True})
    await site.quiet(holding)
    verify(receiver.requests[-1:], holding["secret"])
    expect(receiver.requests[-1].headers["webhook-id"] == _HELD, "what was held was not sent")


async def replayed(site: Site) -> None:
    """Check that a replay that is cut off between two steps queues each event once more."""
    await site.serve(is_doomed=True)
    webhook = await site.webhook(_NOWHERE, isActive=False)
    await site.submit(*(f"e{number}" for number in range(_REPLAYED)))
    await site.ask_and_die("POST", f"/api/webhooks/{webhook['id']}/replay", {"since": "2020-01-01T00:00:00Z"})
    await site.serve()
    with site.patience("the replay doesn't end"):
        while site.look("SELECT status, queued FROM replays") != [("done", _REPLAYED)]:
            await trio.sleep(0.05)
    await site.stop()
    counts = site.look("SELECT count(*), count(DISTINCT sequence), max(sequence) FROM deliveries")
    expect(counts == [(2 * _REPLAYED,) * 3], f"deliveries, sequences and the last of them: {counts}")
    more = site.look("SELECT event_pk, count(*) FROM deliveries GROUP BY 1 HAVING count(*) <> 2")
    expect(not more, f"not replayed once: {more[:5]}")
    site.check_journal()


async def _entries(site: Site, action: str) -> int:
    """Return how many entries of the audit log have an action."""
    entries: list[Any] = (await site.get(f"/api/audit?action={action}"))["data"]
    return len(entries)


def _verifies(requests: list[Any], secret: str) -> bool:
    try:
        verify(requests, secret)
    except BrokenError:
        return False
    return True
