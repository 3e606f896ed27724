"""What a change leaves that is cut off: of a secret, of the master key, of a webhook, with its audit entry."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import trio

from tests.crashpoints.site import BrokenError, Site, expect, verify
from webhookd.base.errors import CommandError
from webhookd.crypto.key_file import load_master_key
from webhookd.crypto.vault import key_id
from webhookd.delivery.signing import generate_secret

QUEUED = tuple(f"queued{number}" for number in range(4))


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
        answer = await site.ask_and_die("POST", rotate, {"secret": new, "overlapSeconds": 3600})
        expect(answer is None, "the change was answered")
        site.sound()
        await site.serve()
        expect(await noted(site, "webhook.rotate_secret") == int(self.is_done), "change and entry are not one")
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
class MadeOnce:
    """A check of a webhook made under an Idempotency-Key: sent again it is answered alike or refused, never doubled."""

    is_kept: bool

    async def __call__(self, site: Site) -> None:
        """Play it."""
        await site.serve(is_doomed=True)
        site.arm()
        with suppress(httpx.TransportError):
            await _make(site, "once")
        await site.death()
        site.sound()
        await site.serve()
        again = await _make(site, "once")
        made = (await site.get("/api/webhooks"))["data"]
        expect(len(made) == 1, f"{len(made)} webhooks were made")
        expect(again.status_code == (201 if self.is_kept else 409), f"sent again: {again.status_code}, {again.text}")
        if self.is_kept:
            expect(again.json()["id"] == made[0]["id"], "sent again, another webhook is answered")
        expect((await _make(site, "another")).status_code == 201, "under another key it is not made")


async def _make(site: Site, key: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {site.first_key}", "idempotency-key": key}
    async with httpx.AsyncClient(trust_env=False, headers=headers) as client:
        body = {"url": "http://127.0.0.1:10001/", "events": ["*"]}
        return await client.post(f"{site.url}/api/webhooks", json=body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A check of a webhook's new description: it is there with its entry in the audit log, or neither is."""

    is_done: bool

    async def __call__(self, site: Site) -> None:
        """Play it."""
        await site.serve(is_doomed=True)
        webhook = await site.webhook("http://127.0.0.1:10001/")
        target = f"/api/webhooks/{webhook['id']}"
        answer = await site.ask_and_die("PATCH", target, {"description": "new"})
        expect(answer is None, "the change was answered")
        site.sound()
        await site.serve()
        is_there = (await site.get(target))["description"] == "new"
        expect(is_there == self.is_done, f"the change is {'' if is_there else 'not '}there")
        expect(await noted(site, "webhook.change") == int(self.is_done), "change and entry are not one")


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterChanged:
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
            site.arm()
            await site.call("rotate-master-key", is_doomed=True)
            await site.death()
        else:
            await site.ask_and_die("POST", "/api/master-key/rotate", {})
        site.sound()
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
    """A check of a webhook's deletion: all that it had queued is canceled and nothing is sent; or it is as before."""

    is_done: bool
    queued: int = 4

    async def __call__(self, site: Site) -> None:
        """Play it."""
        await site.serve(is_doomed=True)
        receiver = await site.receiver()
        webhook = await site.webhook(receiver.url, isActive=False)
        await site.submit(*(f"e{number}" for number in range(self.queued)))
        target = f"/api/webhooks/{webhook['id']}"
        answer = await site.ask_and_die("DELETE", target)
        expect(answer is None, "the deletion was answered")
        site.sound()
        await site.serve()
        expect(await noted(site, "webhook.delete") == int(self.is_done), "deletion and entry are not one")
        if self.is_done:
            await self._canceled(site, target)
            expect(not receiver.requests, "something was sent to a webhook that is deleted")
        else:
            await site.change("PATCH", target, {"isActive": True})
            await site.quiet(webhook)
            verify(receiver.requests, webhook["secret"])
            expect(len(receiver.requests) == self.queued, f"{len(receiver.requests)} of {self.queued} were sent")

    async def _canceled(self, site: Site, target: str) -> None:
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


async def noted(site: Site, action: str) -> int:
    """Return how many entries of the audit log tell of an action."""
    entries: list[Any] = (await site.get(f"/api/audit?action={action}"))["data"]
    return len(entries)


def _verifies(requests: list[Any], secret: str) -> bool:
    try:
        verify(requests, secret)
    except BrokenError:
        return False
    return True
