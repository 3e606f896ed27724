"""`webhookd webhooks`: lists, shows, creates and changes webhooks."""

import click
import msgspec

from webhookd.admin.schemas import AttemptView, Deleted
from webhookd.admin.webhook_schemas import Webhook, WebhookWithSecret
from webhookd.base.errors import Rejected
from webhookd.base.event_format import decode_body
from webhookd.base.models import BreakerState
from webhookd.cli.api import part
from webhookd.cli.deliveries import show_attempt
from webhookd.cli.names import Pattern, find_webhook, gathered, names_webhook
from webhookd.cli.options import InOrder, prints_json, takes_cursor, takes_limit
from webhookd.cli.places import Place, takes_place
from webhookd.cli.sources import ApiSource
from webhookd.cli.terminal import confirm, plain, show_json, show_page, show_record, show_result

_WEEK = 604_800
_settings_decoder = msgspec.json.Decoder(dict[str, object])


@click.group("webhooks", cls=InOrder)
def command() -> None:
    """List, show, create, pause, test, rotate or delete webhooks.

    WEBHOOK is an id (wh_…) or an unambiguous start of it, a webhook's description, or its URL.

    `list` and `show` read the journal if no server runs; the others need the server.
    """


@command.command("list")
@takes_limit
@takes_cursor
@prints_json
@takes_place
def list_(place: Place, limit: int, cursor: str | None, as_json: bool) -> None:
    """List webhooks, newest first: description or URL, state, queue, and the reason if nothing is being sent."""
    with place.source() as source:
        page = gathered(source.webhooks, limit, cursor)
    titles = ("ID", "WEBHOOK", "STATE", "QUEUED", "REASON")
    show_page(page, titles, _row, foldable={"WEBHOOK", "STATE", "REASON"}, as_json=as_json)


@command.command("show")
@names_webhook
@prints_json
@takes_place
def show(place: Place, webhook: str, as_json: bool) -> None:
    """Show one webhook: its state, its event patterns, and the policy in force for it."""
    with place.source() as source:
        _show(find_webhook(source, webhook), as_json=as_json)


@command.command("create")
@click.argument("url", metavar="URL")
@click.option(
    "--events",
    "events",
    type=Pattern(),
    multiple=True,
    required=True,
    help="The events it gets: a type, `user.*`, or `*`; may be repeated.",
)
@click.option("--description", default="", metavar="TEXT", help="What it is for; commands accept it as its name.")
@click.option(
    "--organization",
    metavar="ID",
    help="The organization it belongs to; without one it gets every organization's events.",
)
@click.option("--paused", is_flag=True, help="Create it disabled; its events are queued until it is resumed.")
@click.option("--secret", metavar="whsec_…", help="Use this secret instead of a random one.")
@click.option(
    "--settings",
    metavar="JSON",
    help='Any other field of the API, such as \'{"ordering": "key", "rateLimit": {"perSecond": 50}}\'.',
)
@prints_json
@takes_place
def create(
    place: Place,
    *,
    url: str,
    events: tuple[str, ...],
    description: str,
    organization: str | None,
    paused: bool,
    secret: str | None,
    settings: str | None,
    as_json: bool,
) -> None:
    """Create a webhook and print its secret, which is shown only once.

    Standard output gets only the secret; standard error gets the webhook's id.
    """
    fields = {"organizationId": organization, "secret": secret}
    wanted = {
        **_settings(settings),
        "url": url,
        "events": list(events),
        "description": description,
        **{name: value for name, value in fields.items() if value is not None},
        **({"isActive": False} if paused else {}),
    }
    created = place.server().post("/api/webhooks", wanted, WebhookWithSecret)
    _show_secret(created, as_json=as_json)


@command.command("pause")
@names_webhook
@prints_json
@takes_place
def pause(place: Place, webhook: str, as_json: bool) -> None:
    """Disable a webhook: nothing is sent, and its events are queued until it is resumed."""
    _switch(place, webhook, is_active=False, as_json=as_json)


@command.command("resume")
@names_webhook
@prints_json
@takes_place
def resume(place: Place, webhook: str, as_json: bool) -> None:
    """Enable a webhook, also one that webhookd has disabled; queued events are sent in order."""
    _switch(place, webhook, is_active=True, as_json=as_json)


@command.command("rotate")
@names_webhook
@click.option(
    "--overlap",
    type=click.FloatRange(0, _WEEK),
    default=86_400,
    show_default=True,
    metavar="SECONDS",
    help="How long the previous secret also signs, at most 7 days.",
)
@click.option("--secret", metavar="whsec_…", help="Use this secret instead of a random one.")
@prints_json
@takes_place
def rotate(place: Place, webhook: str, overlap: float, secret: str | None, as_json: bool) -> None:
    """Rotate a webhook's secret and print the new one, which is shown only once.

    Standard output gets only the secret; standard error says how long the previous one also signs.
    """
    api = place.server()
    found = find_webhook(ApiSource(api), webhook)
    wanted = {"overlapSeconds": overlap} | ({} if secret is None else {"secret": secret})
    _show_secret(api.post(f"/api/webhooks/{part(found.id)}/rotate-secret", wanted, WebhookWithSecret), as_json=as_json)


@command.command("test")
@names_webhook
@prints_json
@takes_place
def test(place: Place, webhook: str, as_json: bool) -> None:
    """Send webhook.test to a webhook now, outside its queue, and show the result.

    Exit status 1 if the attempt fails.
    """
    api = place.server()
    found = find_webhook(ApiSource(api), webhook)
    attempt = api.post(f"/api/webhooks/{part(found.id)}/test", {}, AttemptView)
    if as_json:
        show_json(attempt)
    else:
        show_attempt(attempt)
    click.get_current_context().exit(0 if attempt.error is None else 1)


@command.command("delete")
@names_webhook
@click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
@prints_json
@takes_place
def delete(place: Place, webhook: str, yes: bool, as_json: bool) -> None:
    """Delete a webhook; its queued deliveries are canceled, its history stays readable."""
    api = place.server()
    found = find_webhook(ApiSource(api), webhook)
    queued = found.health.queued + found.health.parked
    question = f"Delete {found.id} ({plain(found.description or found.url)}) and cancel the {queued} deliveries queued?"
    confirm(question, is_given=yes, instead="give --yes")
    deleted = api.delete(f"/api/webhooks/{part(found.id)}", Deleted)
    show_result(deleted, f"deleted {deleted.id}", as_json=as_json)


def _row(webhook: Webhook) -> tuple[str, ...]:
    health = webhook.health
    name = webhook.description or webhook.url
    return webhook.id, name, state_of(webhook), str(health.queued + health.parked), health.reason or ""


def state_of(webhook: Webhook) -> str:
    """Return a webhook's state in a word."""
    health = webhook.health
    if not webhook.is_active:
        return f"disabled: {webhook.disabled_reason}"
    if health.breaker is not BreakerState.CLOSED:
        return "failing"
    if health.sending:
        return "sending"
    return "waiting" if health.queued or health.parked else "idle"


def _switch(place: Place, name: str, *, is_active: bool, as_json: bool) -> None:
    api = place.server()
    found = find_webhook(ApiSource(api), name)
    changed = api.patch(f"/api/webhooks/{part(found.id)}", {"isActive": is_active}, Webhook)
    health = changed.health
    what = "resumed" if is_active else "paused"
    text = f"{what} {changed.id}: {health.queued + health.parked} queued. {health.reason or 'Sending'}"
    show_result(changed, text, as_json=as_json)


def _show_secret(webhook: WebhookWithSecret, *, as_json: bool) -> None:
    if as_json:
        show_json(webhook)
        return
    if webhook.previous_secret_expires_at is not None:
        click.echo(f"the previous secret also signs until {webhook.previous_secret_expires_at}", err=True)
    click.echo(f"{webhook.id}; the secret is shown only once:", err=True)
    click.echo(webhook.secret)


def _settings(text: str | None) -> dict[str, object]:
    if text is None:
        return {}
    try:
        return decode_body(text.encode(errors="surrogateescape"), _settings_decoder)
    except Rejected as refused:
        raise click.BadParameter(refused.detail, param_hint="--settings") from refused


def _show(webhook: Webhook, *, as_json: bool) -> None:
    if as_json:
        show_json(webhook)
        return
    health = webhook.health
    rate = webhook.rate_limit
    show_record(
        [
            ("id", webhook.id),
            ("state", state_of(webhook)),
            ("reason", health.reason or ""),
            ("driven by", health.node or ""),
            ("queued", f"{health.queued}, parked {health.parked}"),
            ("oldest queued", health.oldest_pending_at or ""),
            ("next attempt", health.next_attempt_at or ""),
            ("breaker", f"{health.breaker}, {health.consecutive_failures} faults in a row"),
            ("last success", health.last_success_at or ""),
            ("last failure", health.last_failure_at or ""),
            ("url", webhook.url),
            ("events", ", ".join(webhook.events)),
            ("description", webhook.description),
            ("organization", webhook.organization_id or ""),
            ("metadata", ", ".join(f"{name}={value}" for name, value in webhook.metadata.items())),
            ("ordering", f"{webhook.ordering}, concurrency {webhook.concurrency}"),
            ("rate limit", "" if rate is None else f"{rate.per_second:g} a second, burst {rate.burst}"),
            ("timeout", f"{webhook.timeout_seconds:g} s"),
            ("retries", _retries(webhook)),
            ("headers", ", ".join(webhook.headers)),
            ("signature", f"{webhook.signature.form}{', ed25519' if webhook.signature.ed25519 else ''}"),
            ("public key", webhook.ed25519_public_key or ""),
            ("secret", webhook.secret_hint),
            ("previous secret until", webhook.previous_secret_expires_at or ""),
            ("when disabled", webhook.when_inactive),
            ("created", webhook.created_at),
            ("changed", webhook.updated_at),
        ]
    )


def _retries(webhook: Webhook) -> str:
    retry = webhook.retry
    delays = ", ".join(f"{delay:g}" for delay in retry.delays)
    return (
        f"after {delays} s; failed after {retry.max_refusals} refusals or {retry.max_age_seconds:g} s; "
        f"parked after {retry.park_after}"
    )
