"""Requests with an Idempotency-Key that were cut off: never done twice, and told so; what failed can be tried again."""

from pathlib import Path

import trio
from trio.testing import MockClock

from tests.admin.inprocess import OWN_UID, Signer, api_in_process
from webhookd.journal import idempotency

HEADERS = {"Idempotency-Key": "once"}
WEBHOOK = {"url": "https://a.example/", "events": ["*"], "isActive": False}


async def test_what_was_cut_off_is_not_done_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A client that leaves before its answer gets a 409 under the same key, and is served under another."""
    async with api_in_process(tmp_path, Signer()) as api:
        api.world.sender.seconds = 5.0
        made = await api.ask("POST", "/api/webhooks", None, body=WEBHOOK, uid=OWN_UID)
        path = f"/api/webhooks/{made.json()['id']}/test"
        with trio.move_on_after(1):
            await api.ask("POST", path, None, uid=OWN_UID, headers=HEADERS)
        assert len(api.world.sender.sent) == 1
        again = await api.ask("POST", path, None, uid=OWN_UID, headers=HEADERS)
        assert (again.status_code, again.json()["code"]) == (409, "CONFLICT")
        assert "was cut off" in again.json()["detail"]
        assert len(api.world.sender.sent) == 1
        other = await api.ask("POST", path, None, uid=OWN_UID, headers={"Idempotency-Key": "another"})
        assert (other.status_code, len(api.world.sender.sent)) == (200, 2)
        # A day later the key is free.
        await trio.sleep(idempotency.KEPT_SECONDS)
        later = await api.ask("POST", path, None, uid=OWN_UID, headers=HEADERS)
        assert (later.status_code, len(api.world.sender.sent)) == (200, 3)


async def test_what_was_refused_for_now_is_forgotten(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A 503 isn't kept, nor that the request was begun: sent again it is tried again."""
    async with api_in_process(tmp_path, Signer()) as api:
        api.world.journal.refuse_events()
        event = {"type": "user.created", "data": {}}
        for _ in range(2):
            refused = await api.ask("POST", "/api/events", None, body=event, uid=OWN_UID, headers=HEADERS)
            assert (refused.status_code, refused.json()["code"]) == (503, "SHUTTING_DOWN")
