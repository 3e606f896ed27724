"""The source of lists and single views: the API or, with the same documents, the journal (`journal_source`)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from webhookd.admin.schemas import DeliveryDetailView, DeliveryView, EventView, Page
from webhookd.admin.webhook_schemas import Webhook
from webhookd.cli.api import Api, part, target

if TYPE_CHECKING:
    from webhookd.cli.journal_source import JournalSource  # it takes long to load

Filters = Mapping[str, str | None]
"""The query parameters of the API's list of deliveries; times are ISO-8601."""

Source: TypeAlias = "ApiSource | JournalSource"
"""Answers with the documents of the API; CommandError or Rejected for what doesn't exist."""


class ApiSource:
    """A running server."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def webhooks(self, limit: int, cursor: str | None) -> Page[Webhook]:
        """Return a page of the webhooks, newest first."""
        return self._api.get(target("/api/webhooks", limit=limit, cursor=cursor), Page[Webhook])

    def webhook(self, webhook_id: str) -> Webhook:
        """Return one webhook."""
        return self._api.get(f"/api/webhooks/{part(webhook_id)}", Webhook)

    def deliveries(self, webhook_id: str, filters: Filters, limit: int, cursor: str | None) -> Page[DeliveryView]:
        """Return a page of a webhook's deliveries, newest first."""
        path = f"/api/webhooks/{part(webhook_id)}/deliveries"
        return self._api.get(target(path, **filters, limit=limit, cursor=cursor), Page[DeliveryView])

    def delivery(self, delivery_id: str) -> DeliveryDetailView:
        """Return one delivery with its attempts."""
        return self._api.get(f"/api/webhooks/deliveries/{part(delivery_id)}", DeliveryDetailView)

    def events(self, limit: int, after: str | None) -> Page[EventView]:
        """Return a page of the events, oldest first."""
        return self._api.get(target("/api/events", limit=limit, after=after), Page[EventView])

    def event(self, event_id: str) -> EventView:
        """Return one event."""
        return self._api.get(f"/api/events/{part(event_id)}", EventView)
