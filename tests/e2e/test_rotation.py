"""The rotation of a secret during deliveries: receivers with the old and with the new secret can verify requests."""

from pathlib import Path

import pytest
import standardwebhooks
import stripe
import trio

from tests.e2e.harness import running
from tests.patience import PATIENCE_SECONDS
from tests.receiver import Receiver, Request
from webhookd.client import Client

MOST_IN_FLIGHT = 8


def verifies(request: Request, secret: str) -> bool:
    try:
        standardwebhooks.Webhook(secret).verify(request.body, request.headers)
        stripe.WebhookSignature.verify_header(
            request.body.decode(), request.headers["x-webhook-signature"], secret, tolerance=600
        )
    except (standardwebhooks.WebhookVerificationError, stripe.SignatureVerificationError):
        return False
    return True


@pytest.mark.parametrize("ordering", ["strict", "none"])
async def test_a_rotation_during_deliveries_breaks_no_receiver(tmp_path: Path, ordering: str) -> None:
    """Requests verify with the old secret until the overlap ends, and with the new one from the rotation on."""
    async with running(tmp_path) as server, trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver().run)
        webhook = await server.webhook(receiver.url, ordering=ordering)
        path = f"/api/webhooks/{webhook['id']}/rotate-secret"

        async def send(count: int) -> None:
            with Client(server.socket) as client:
                for number in range(count):
                    client.send("user.created", {"number": number})
                    await trio.lowlevel.checkpoint()

        async def send_on() -> None:
            while not is_enough.is_set():
                await send(1)

        async def arrived(more: int) -> None:
            with trio.fail_after(PATIENCE_SECONDS):
                await receiver.wait_for(len(receiver.requests) + more)

        is_enough = trio.Event()
        await send(20)
        async with trio.open_nursery() as flow:
            flow.start_soon(send_on)
            await arrived(30)
            rotated = await server.post(path, {"overlapSeconds": 600})
            after_rotation = len(receiver.requests)
            await arrived(60)
            is_enough.set()
        await server.settled(webhook["id"])
        old, new = webhook["secret"], rotated["secret"]
        assert all(verifies(request, old) for request in receiver.requests)
        # Up to `concurrency` requests may have been signed before the rotation and arrive after it.
        since = [verifies(request, new) for request in receiver.requests[after_rotation:]]
        assert since.count(False) <= MOST_IN_FLIGHT
        assert all(since[-30:])
        assert not verifies(receiver.requests[0], new)
        ended = await server.post(path, {"overlapSeconds": 0})
        seen = len(receiver.requests)
        await send(5)
        await server.settled(webhook["id"])
        last = receiver.requests[seen:]
        assert all(verifies(request, ended["secret"]) for request in last)
        assert not any(verifies(request, old) or verifies(request, new) for request in last)
        nursery.cancel_scope.cancel()
