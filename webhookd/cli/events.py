"""`webhookd events`: lists and shows events."""

import click

from webhookd.admin.schemas import EventView
from webhookd.cli.names import gathered
from webhookd.cli.options import InOrder, prints_json, takes_limit
from webhookd.cli.places import Place, takes_place
from webhookd.cli.terminal import plain, show_json, show_page, show_record


@click.group("events", cls=InOrder)
def command() -> None:
    """List the accepted events, or show one.

    Both read the journal if no server runs.
    """


@command.command("list")
@click.option("--after", metavar="ID", help="Only the events after this one, or after a list's nextCursor.")
@takes_limit
@prints_json
@takes_place
def list_(place: Place, after: str | None, limit: int, as_json: bool) -> None:
    """List events in the order in which they were accepted, oldest first.

    To follow them without a gap, ask again with the id of the last one as --after.
    """
    with place.source() as source:
        page = gathered(source.events, limit, after)
    titles = ("ID", "TYPE", "ACCEPTED", "ORGANIZATION", "DELIVERIES")
    show_page(page, titles, _row, foldable={"TYPE", "ORGANIZATION"}, as_json=as_json, option="--after")


@command.command("show")
@click.argument("event_id", metavar="EVENT_ID")
@prints_json
@takes_place
def show(place: Place, event_id: str, as_json: bool) -> None:
    """Show one event, by its EVENT_ID (evt_…, or the producer's own id), and its data."""
    with place.source() as source:
        event = source.event(event_id)
    if as_json:
        show_json(event)
        return
    show_record(
        [
            ("id", event.id),
            ("type", event.type),
            ("time", event.timestamp),
            ("accepted", event.accepted_at),
            ("organization", event.organization_id or ""),
            ("ordering key", event.ordering_key or ""),
            ("trace context", event.traceparent or ""),
            ("deliveries", str(event.deliveries)),
        ]
    )
    click.echo()
    click.echo(plain(bytes(event.data).decode()))


def _row(event: EventView) -> tuple[str, ...]:
    return event.id, event.type, event.accepted_at, event.organization_id or "", str(event.deliveries)
