"""`webhookd deliveries`: lists and shows the deliveries of a webhook, and retries one."""

import click

from webhookd.admin.schemas import AttemptView, DeliveryDetailView, DeliveryView
from webhookd.base.models import DeliveryStatus
from webhookd.cli.api import part
from webhookd.cli.names import Moment, find_webhook, gathered, names_webhook
from webhookd.cli.options import InOrder, prints_json, takes_cursor, takes_limit
from webhookd.cli.places import Place, takes_place
from webhookd.cli.terminal import plain, show_json, show_page, show_record, show_result

_STATUSES = click.Choice([status.value for status in DeliveryStatus])


@click.group("deliveries", cls=InOrder)
def command() -> None:
    """List the deliveries of a webhook, show one, or retry one.

    A delivery is one event for one webhook, with an attempt for each HTTP request. DELIVERY_ID is its id, dlv_….
    WEBHOOK is a webhook's id (wh_…) or the start of it, its description, or its URL.

    `list` and `show` read the journal if no server runs; `retry` needs the server.
    """


@command.command("list")
@names_webhook
@click.option("--status", type=_STATUSES, help="Only deliveries with this status.")
@click.option("--event", metavar="TYPE", help="Only events of this type.")
@click.option("--event-id", metavar="ID", help="Only this event.")
@click.option(
    "--since", type=Moment(), help="Only those created since then: 2026-01-31T12:00:00Z, or 2h for 2 hours ago."
)
@click.option("--until", type=Moment(), help="Only those created before then.")
@takes_limit
@takes_cursor
@prints_json
@takes_place
def list_(
    place: Place,
    *,
    webhook: str,
    status: str | None,
    event: str | None,
    event_id: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List the deliveries of a webhook, newest first."""
    filters = {"status": status, "event": event, "eventId": event_id, "since": since, "until": until}
    with place.source() as source:
        webhook_id = find_webhook(source, webhook).id
        page = gathered(lambda count, after: source.deliveries(webhook_id, filters, count, after), limit, cursor)
    titles = ("ID", "EVENT", "SEQUENCE", "STATUS", "ATTEMPTS", "LAST ANSWER", "CREATED", "NEXT ATTEMPT")
    show_page(page, titles, _row, foldable={"EVENT"}, as_json=as_json)


@command.command("show")
@click.argument("delivery_id", metavar="DELIVERY_ID")
@prints_json
@takes_place
def show(place: Place, delivery_id: str, as_json: bool) -> None:
    """Show one delivery: its request, and its last 100 attempts with the receiver's answers."""
    with place.source() as source:
        detail = source.delivery(delivery_id)
    if as_json:
        show_json(detail)
    else:
        _show(detail)


@command.command("retry")
@click.argument("delivery_id", metavar="DELIVERY_ID")
@click.option("--force", is_flag=True, help="Retry it even if it has succeeded: the receiver gets it once more.")
@prints_json
@takes_place
def retry(place: Place, delivery_id: str, force: bool, as_json: bool) -> None:
    """Retry a delivery: its back-off ends, and its age and refusals count from zero.

    It keeps its sequence number. To retry all failed deliveries of a time range use `webhookd replay --failed`.
    """
    path = f"/api/webhooks/deliveries/{part(delivery_id)}/retry"
    changed = place.server().post(path, {"force": force}, DeliveryView)
    text = f"{changed.id} is {changed.status} again, at sequence {changed.sequence} of {changed.webhook_id}"
    show_result(changed, text, as_json=as_json)


def _row(delivery: DeliveryView) -> tuple[str, ...]:
    return (
        delivery.id,
        delivery.event,
        str(delivery.sequence),
        "sending" if delivery.in_flight else delivery.status.value,
        str(delivery.attempts),
        _answer(delivery.response_status, delivery.error),
        delivery.created_at,
        delivery.next_attempt_at or "",
    )


def _answer(status: int | None, error: str | None) -> str:
    return " ".join(str(fact) for fact in (status, error) if fact is not None)


def _show(detail: DeliveryDetailView) -> None:
    took = "" if detail.duration_ms is None else f" in {detail.duration_ms} ms"
    show_record(
        [
            ("id", detail.id),
            ("status", "sending" if detail.in_flight else detail.status.value),
            ("last answer", f"{_answer(detail.response_status, detail.error)}{took}"),
            ("next attempt", detail.next_attempt_at or ""),
            ("webhook", detail.webhook_id),
            ("url", detail.request.url),
            ("event", f"{detail.event} {detail.event_id}"),
            ("sequence", str(detail.sequence)),
            ("attempts", f"{detail.attempts}, {detail.refusals} of them refused"),
            ("created", detail.created_at),
            ("completed", detail.completed_at or ""),
            ("expires", "" if detail.completed_at else detail.expires_at),
        ]
    )
    if detail.attempts > len(detail.attempt_log) > 0:
        click.echo(f"\nthe last {len(detail.attempt_log)} attempts:")
    for attempt in detail.attempt_log:
        click.echo()
        show_attempt(attempt)
    click.echo()
    click.echo("the request:")
    for name, value in detail.request.headers.items():
        click.echo(plain(f"  {name}: {value}"))
    click.echo(plain(f"  {detail.request.body}"))


def show_attempt(attempt: AttemptView) -> None:
    """Print an attempt with the receiver's answer."""
    cut = " (truncated)" if attempt.truncated else ""
    wait = attempt.retry_after_seconds
    show_record(
        [
            ("attempt", f"{attempt.number}, {attempt.trigger}, {attempt.started_at}"),
            ("result", "ok" if attempt.error is None else f"failed: {attempt.error}"),
            ("detail", attempt.detail),
            ("status", str(attempt.response_status or "")),
            ("took", f"{attempt.duration_ms} ms"),
            ("address", attempt.remote_address or ""),
            ("asked to wait", "" if wait is None else f"{wait:g} s"),
            ("answer", f"{attempt.response_body}{cut}"),
        ]
    )
