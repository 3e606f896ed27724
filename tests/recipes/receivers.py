"""Check the receivers of a page: webhookd delivers to each, and each must refuse a forged request."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import trio

from tests.e2e.harness import Server
from tests.patience import PATIENCE_SECONDS
from tests.ports import held_port
from tests.recipes.processes import listening, program
from webhookd.client import Client

Start = Callable[[str, int], tuple[Sequence[str], Mapping[str, str]]]
"""Returns the command that runs a file on a port, and its environment."""

# A body that changes if a program decodes it and encodes it again.
DATA = '{ "name": "Zoë \\u00e9",  "amount": 1.00, "nested": {"b": 1, "a": [ ] } }'.encode()


async def check_all(server: Server, directory: Path, names: Sequence[str], start: Start) -> None:
    """Start each receiver, have one event delivered to it, and send it a forged one."""
    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(_check, server, directory, name, start)


async def _check(server: Server, directory: Path, name: str, start: Start) -> None:
    with held_port() as port:
        await _check_at(port, server, directory, name, start)


async def _check_at(port: int, server: Server, directory: Path, name: str, start: Start) -> None:
    url = f"http://127.0.0.1:{port}/hook"
    webhook = await server.webhook(url)
    command, environ = start(name, port)
    log = directory / f"{name}.log"
    async with program(command, directory, {"WEBHOOK_SECRET": webhook["secret"], **environ}, log=log) as process:
        await listening(port, process, log)
        await trio.to_thread.run_sync(send, server, f"for_{name.replace('.', '_')}")
        await server.settled(webhook["id"], seconds=30)
        delivered = [row for row in await server.deliveries(webhook["id"]) if row["status"] == "succeeded"]
        assert delivered, (name, log.read_text())
        assert {row["eventId"] for row in delivered} <= verified(log)
        await refuses_forgery(server, delivered[0]["id"], url, name)


def send(server: Server, event_id: str) -> None:
    """Submit one event."""
    with Client(server.socket, timeout=PATIENCE_SECONDS) as client:
        client.send("user.created", DATA, event_id)


def verified(log: Path) -> set[str]:
    """Return the ids of the events that a receiver has verified and printed."""
    return {line.split()[1] for line in log.read_text().splitlines() if line.startswith("verified ")}


async def refuses_forgery(server: Server, delivery_id: str, url: str, name: str) -> None:
    """Repeat the request of a delivery, which must be accepted, and with a changed byte, which must be refused."""
    delivery: dict[str, Any] = await server.get(f"/api/webhooks/deliveries/{delivery_id}")
    sent = delivery["request"]
    headers = {key: value for key, value in sent["headers"].items() if key.lower() not in {"host", "content-length"}}
    async with httpx.AsyncClient() as client:
        again = await client.post(url, content=sent["body"].encode(), headers=headers)
        assert again.status_code == 204, (name, again.text)
        forged = await client.post(url, content=sent["body"].replace("1.00", "9.00").encode(), headers=headers)
        assert forged.status_code == 401, (name, forged.text)
