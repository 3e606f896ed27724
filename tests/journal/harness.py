"""A journal on disk with its writer running, and one endpoint to publish to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from tests.open_file import writing_database
from webhookd.base.clock import SystemClock
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import AcceptedEvent, DeliveryStatus, Endpoint, PublishResult, Target
from webhookd.base.secret import Secret
from webhookd.crypto.vault import Vault
from webhookd.delivery.signing import generate_secret, secret_hint
from webhookd.journal import DeliveryRow, NewEndpoint, Store, Ticket, open_store
from webhookd.journal.queries import deliveries, endpoints

CLOCK = SystemClock()
IDS = IdFactory(CLOCK.now)
MASTER_KEY = Secret(bytes(range(32)))
VAULT = Vault(MASTER_KEY)


@asynccontextmanager
async def running(path: Path, *, max_bytes: int | None = None) -> AsyncIterator[Store]:
    async with (
        open_store(path, clock=CLOCK, ids=IDS, max_bytes=max_bytes) as journal,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(journal.run)
        yield journal
        nursery.cancel_scope.cancel()


def new_endpoint(**fields: object) -> NewEndpoint:
    secret = Secret(generate_secret())
    values: dict[str, object] = {
        "id": IDS.new(Prefix.WEBHOOK),
        "url": "https://receiver.example/",
        "events": ("*",),
        "secret": secret,
        "secret_hint": secret_hint(secret.reveal()),
        "created_at": CLOCK.now(),
    }
    return NewEndpoint(**values | fields)  # type: ignore[arg-type]  # a test's own fields


async def add_endpoint(journal: Store, **fields: object) -> Endpoint:
    return await journal.transactions.write(endpoints.insert, VAULT, new_endpoint(**fields))


def event(event_id: str, *, organization_id: str | None = None, key: str | None = None, size: int = 2) -> AcceptedEvent:
    now = CLOCK.now()
    return AcceptedEvent(
        id=event_id,
        type="user.created",
        organization_id=organization_id,
        ordering_key=key,
        traceparent=None,
        timestamp=now,
        accepted_at=now,
        body=b"{" + b" " * (size - 2) + b"}",
    )


def publish(
    journal: Store, what: AcceptedEvent, *targets: Endpoint, max_age_seconds: float = 3600
) -> Ticket[PublishResult]:
    to = tuple(
        Target(endpoint_pk=target.pk, status=DeliveryStatus.PENDING, max_age_seconds=max_age_seconds)
        for target in targets
    )
    return journal.publish(what, to)


async def all_deliveries(journal: Store, endpoint: Endpoint) -> list[DeliveryRow]:
    """Return an endpoint's deliveries, newest first."""
    page = await journal.transactions.read(
        deliveries.page,
        endpoint.pk,
        status=None,
        event=None,
        event_id=None,
        since=None,
        until=None,
        limit=100_000,
        cursor=None,
    )
    return page.items


class Commits:
    """How many rows each commit of a journal changed."""

    def __init__(self, journal: Store) -> None:
        self.rows: list[int] = []
        self._connection: Any = writing_database(journal).connection()
        self._changes = self._connection.total_changes()
        self._connection.set_commit_hook(self._note)

    def _note(self) -> bool:
        changes = self._connection.total_changes()
        if changes > self._changes:
            self.rows.append(changes - self._changes)
        self._changes = changes
        return False
