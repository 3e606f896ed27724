"""A long action on one webhook doesn't delay changes of another one."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio
from trio.testing import MockClock

from tests.admin.inprocess import OWN_UID, Api, Signer, api_in_process
from webhookd.dispatch.router import CANCELED_A_STEP
from webhookd.journal import InlineRunner

WEBHOOK = {"url": "https://a.example/", "events": ["*"], "isActive": False}
STEPS = 5
T = TypeVar("T")


class SlowDisk(InlineRunner):
    """Delays each commit, so that the order of two commits is fixed."""

    seconds = 0.0

    async def run(self, function: Callable[[], T]) -> T:
        await trio.sleep(self.seconds)
        return await super().run(function)


async def webhook(api: Api, **fields: object) -> str:
    made = await api.ask("POST", "/api/webhooks", None, body=WEBHOOK | fields, uid=OWN_UID)
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


async def test_a_change_waits_for_changes_of_the_same_webhook_alone(tmp_path: Path, autojump_clock: MockClock) -> None:
    """While a webhook is changed or its new URL is resolved, others can be changed, but not this one."""
    async with api_in_process(tmp_path, Signer()) as api:
        held, free = await webhook(api), await webhook(api)
        done: list[str] = []

        async def change(webhook_id: str) -> None:
            body = {"description": "changed"}
            changed = await api.ask("PATCH", f"/api/webhooks/{webhook_id}", None, body=body, uid=OWN_UID)
            assert changed.status_code == 200
            done.append(webhook_id)

        async with trio.open_nursery() as nursery, api.services.changing.holding(held):
            nursery.start_soon(change, held)
            await change(free)
            await trio.sleep(10)
            assert done == [free]
        assert done == [free, held]
        assert not api.services.changing._locks


async def test_a_long_queue_that_is_deleted_keeps_no_change_waiting(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Another webhook can be changed while the queue of a deleted one is canceled."""
    disk = SlowDisk()
    async with api_in_process(tmp_path, Signer(), writes=disk) as api:
        crowded, other = await webhook(api), await webhook(api, organizationId="other")
        for number in range(STEPS * CANCELED_A_STEP):
            await api.world.publish(f"e{number}")
        order: list[str] = []
        disk.seconds = 1.0

        async def ask(method: str, webhook_id: str, body: object) -> None:
            answer = await api.ask(method, f"/api/webhooks/{webhook_id}", None, body=body, uid=OWN_UID)
            assert answer.status_code == 200
            order.append(method)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "DELETE", crowded, None)
            while (await api.ask("GET", f"/api/webhooks/{crowded}", None, uid=OWN_UID)).status_code == 200:
                await trio.sleep(0.1)
            nursery.start_soon(ask, "PATCH", other, {"isActive": True})
        assert order == ["PATCH", "DELETE"]
