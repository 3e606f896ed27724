"""Calls of a store's methods with the usual arguments, for tests of any store."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tests import samples
from tests.journal.harness import CLOCK, VAULT, new_endpoint
from webhookd.base.models import AttemptRecord, Endpoint, Message, Ordering
from webhookd.journal import DeliveryRow, Publish, Store, Ticket, Window, WindowRequest

MOST = 1000
NO_NOTICES: dict[str, Any] = {"driving": (), "notices_of": lambda _: ()}


async def add(store: Store, **fields: object) -> Endpoint:
    return await store.webhooks.create(VAULT, new_endpoint(**fields), most=MOST, entry=None)


async def window(store: Store, endpoint: Endpoint, **fields: Any) -> Window:
    request: dict[str, Any] = {
        "endpoint_pk": endpoint.pk,
        "ordering": Ordering.STRICT,
        "limit": 50,
        "now": CLOCK.now(),
        "blocked_keys": frozenset(),
        "in_flight": frozenset(),
    }
    return await store.window(WindowRequest(**request | fields))


async def rows(store: Store, endpoint: Endpoint) -> list[DeliveryRow]:
    page = await store.deliveries.page(
        endpoint.pk, status=None, event=None, event_id=None, since=None, until=None, limit=1000, cursor=None
    )
    return page.items[::-1]


def submitted(store: Store, record: AttemptRecord, notices: Sequence[Publish] = ()) -> Ticket[None]:
    """Submit the record of an attempt; the ticket ends when the record has landed."""
    ticket: Ticket[None] = Ticket()
    store.record(record, notices, landed=ticket.settle)
    return ticket


async def message_of(store: Store, event_pk: int) -> Message:
    """Return what is sent of an event, from the disk."""
    ticket: Ticket[Message] = Ticket()
    store.read_message(event_pk, tuple, ticket.settle)
    return await ticket.wait()


async def record(
    store: Store, endpoint: Endpoint, notices: Sequence[Publish] = (), /, *, place: int = 0, **fields: Any
) -> None:
    """Record an attempt of the endpoint's first pending delivery, or the one in another place of the queue."""
    delivery = (await window(store, endpoint)).pending[place]
    attempt = msgspec.structs.replace(
        samples.attempt_record(),
        delivery=delivery,
        attempt_id=f"att_{delivery.id}_{delivery.attempts}",
        number=delivery.attempts + 1,
        **{"backoff_step": delivery.backoff_step + 1, **fields},
    )
    await submitted(store, attempt, notices).wait()


async def retry(store: Store, row: DeliveryRow, now: float, *, force: bool = False) -> DeliveryRow:
    return await store.deliveries.retry(
        row.pk,
        force=force,
        now=now,
        max_age_seconds=600,
        ordering=Ordering.STRICT,
        entry=None,
        organization_id=None,
    )
