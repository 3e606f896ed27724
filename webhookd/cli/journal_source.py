"""The views of the API, read from the journal while no server runs.

They lack what only a running server knows: nothing is in flight, a webhook's `reason` is that no server runs, and a
delivery's request has no headers, since signing needs the master key.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from msgspec.structs import replace

from webhookd.admin.schemas import MOST_ROWS, DeliveryDetailView, DeliveryView, EventView, Page
from webhookd.admin.views import delivery, detailed, event, page, webhook
from webhookd.admin.webhook_schemas import Webhook
from webhookd.base.clock import parse_iso
from webhookd.base.errors import CommandError
from webhookd.base.models import DeliveryStatus, Endpoint
from webhookd.cli.sources import Filters
from webhookd.config import Config
from webhookd.delivery.policy.resolve import resolve
from webhookd.dispatch.health import assess
from webhookd.journal import Views, look_at, place_of

NO_SERVER = "No server is running"


class JournalSource:
    """Reads the journal without its lock, and changes nothing."""

    def __init__(self, journal: Views, config: Config) -> None:
        self._journal = journal
        self._config = config

    @classmethod
    @contextmanager
    def open(cls, config: Config) -> Iterator["JournalSource"]:
        """Open the journal; JournalError if it can't be trusted, CommandError for tables of another version."""
        with look_at(place_of(config.journal)) as journal:
            version, known = journal.version()
            if version != known:
                raise CommandError(
                    f"the journal {config.journal.name} has version {version} and this webhookd reads {known}: "
                    + ("start `webhookd serve` to upgrade it" if version < known else "use the newer webhookd")
                )
            yield cls(journal, config)

    def webhooks(self, limit: int, cursor: str | None) -> Page[Webhook]:
        """Return a page of the webhooks, newest first."""
        found = self._journal.webhook_page(None, limit=min(limit, MOST_ROWS), cursor=cursor)
        return Page(data=[self._webhook(endpoint) for endpoint in found.items], next_cursor=found.next_cursor)

    def webhook(self, webhook_id: str) -> Webhook:
        """Return one webhook."""
        return self._webhook(self._journal.webhook(webhook_id))

    def deliveries(self, webhook_id: str, filters: Filters, limit: int, cursor: str | None) -> Page[DeliveryView]:
        """Return a page of a webhook's deliveries, newest first."""
        endpoint = self._journal.webhook(webhook_id)
        status, since, until = (filters.get(name) for name in ("status", "since", "until"))
        found = self._journal.delivery_page(
            endpoint.pk,
            status=None if status is None else DeliveryStatus(status),
            event=filters.get("event"),
            event_id=filters.get("eventId"),
            since=None if since is None else parse_iso(since),
            until=None if until is None else parse_iso(until),
            limit=min(limit, MOST_ROWS),
            cursor=cursor,
        )
        return page(found, partial(delivery, in_flight=False))

    def delivery(self, delivery_id: str) -> DeliveryDetailView:
        """Return one delivery with its attempts."""
        detail = self._journal.delivery(delivery_id, None)
        return detailed(delivery(detail.row, in_flight=False), detail, {})

    def events(self, limit: int, after: str | None) -> Page[EventView]:
        """Return a page of the events, oldest first."""
        found = self._journal.event_page(None, limit=min(limit, MOST_ROWS), cursor=None, after=after)
        return page(found, event)

    def event(self, event_id: str) -> EventView:
        """Return one event."""
        return event(self._journal.event(event_id, None))

    def _webhook(self, endpoint: Endpoint) -> Webhook:
        defaults = self._config.delivery
        ordering = resolve(endpoint.overrides, defaults).ordering
        state, queue = self._journal.health_facts({endpoint.pk: ordering})[endpoint.pk]
        health = assess(endpoint, state, queue, lane=None, supervisor=None, now=time.time())
        view = webhook(endpoint, health, defaults)
        return replace(view, health=replace(view.health, reason=NO_SERVER))
