"""`webhookd tail`: shows attempts as they happen."""

import time
from collections.abc import Callable, Mapping

import click
from rich.console import Console
from rich.text import Text

from webhookd.admin.attempts import AttemptOutcome, RecentAttempts, RecentAttemptView
from webhookd.base.models import BreakerState, DeliveryError, DeliveryStatus
from webhookd.cli.api import Api, Refused, Unreachable, target
from webhookd.cli.names import Pattern, find_webhook, takes_webhook_option
from webhookd.cli.options import prints_json
from webhookd.cli.places import Place, takes_place
from webhookd.cli.sources import ApiSource
from webhookd.cli.terminal import plain, show_json_line, style_of

_LOOK_SECONDS = 0.25
_LOOK_FAR_SECONDS = 1.0  # over a network, and with a key's rate limit
_MOST_ON_A_PAGE = 100
_TRY_LATER = frozenset({429, 503})


@click.command("tail")
@takes_webhook_option
@click.option("--event", type=Pattern(), help="Only events of this type: `user.created`, `user.*`.")
@click.option(
    "--outcome",
    type=click.Choice([outcome.value for outcome in AttemptOutcome]),
    help="Only attempts with this outcome.",
)
@click.option(
    "--error", type=click.Choice([error.value for error in DeliveryError]), metavar="CODE", help="Only this error."
)
@click.option(
    "--last",
    type=click.IntRange(0, _MOST_ON_A_PAGE),
    default=10,
    show_default=True,
    metavar="N",
    help="Start with so many earlier attempts.",
)
@click.option("--follow/--no-follow", default=True, help="Whether to wait for more attempts.")
@prints_json
@takes_place
def command(
    place: Place,
    *,
    webhook: str | None,
    event: str | None,
    outcome: str | None,
    error: str | None,
    last: int,
    follow: bool,
    as_json: bool,
) -> None:
    """Show each attempt as it happens, until Ctrl-C: the event, the webhook and the result.

    Prints a line for each attempt, with --json a JSON object. If the server restarts, it waits for it. If there are
    more attempts than can be shown, some are skipped, and standard error says so.
    """
    api = place.server()
    webhook_id = None if webhook is None else find_webhook(ApiSource(api), webhook).id
    filters = {"webhookId": webhook_id, "event": event, "outcome": outcome, "error": error}
    console = Console(highlight=False, soft_wrap=True)

    def show(attempts: list[RecentAttemptView]) -> None:
        for attempt in attempts:
            if as_json:
                show_json_line(attempt)
            else:
                console.print(line(attempt))

    first = api.get(target("/api/attempts", **filters, limit=max(last, 1)), RecentAttempts)
    show(first.data if last else [])
    if follow:
        _follow(api, filters, first.next_cursor, show, pause_seconds=_LOOK_FAR_SECONDS if place.url else _LOOK_SECONDS)


def _follow(
    api: Api,
    filters: Mapping[str, str | None],
    cursor: str,
    show: Callable[[list[RecentAttemptView]], None],
    *,
    pause_seconds: float,
) -> None:
    is_there = True
    while True:
        try:
            page = api.get(target("/api/attempts", **filters, limit=_MOST_ON_A_PAGE, after=cursor), RecentAttempts)
        except Unreachable as gone:
            if is_there:
                click.echo(f"{gone}; waiting for it", err=True)
            is_there = False
            time.sleep(_LOOK_FAR_SECONDS)
            continue
        except Refused as refused:
            if refused.status not in _TRY_LATER:
                raise
            time.sleep(refused.retry_after_seconds or _LOOK_FAR_SECONDS)
            continue
        if page.gap:
            what = "some attempts were skipped" if is_there else "the server is back"
            click.echo(f"{what}; `webhookd deliveries` has them all", err=True)
        is_there = True
        cursor = page.next_cursor
        show(page.data)
        if len(page.data) < _MOST_ON_A_PAGE:
            time.sleep(pause_seconds)


def line(attempt: RecentAttemptView) -> Text:
    """Return an attempt as one line, coloured by its result."""
    failed = attempt.error is not None
    will_be_tried = failed and attempt.status in {DeliveryStatus.PENDING, DeliveryStatus.PARKED}
    word = "ok" if not failed else "retrying" if will_be_tried else "failed"
    answer = str(attempt.error or attempt.response_status or "")
    facts: list[str | tuple[str, str]] = [
        f"{attempt.started_at[11:-1]} ",
        (f"{word:<8} {answer:<9}", style_of(word)),
        f" {attempt.duration_ms:>5} ms  {plain(attempt.event)} #{attempt.sequence}",
    ]
    if attempt.number > 1:
        facts.append(f" attempt {attempt.number}")
    facts += [f" {attempt.delivery_id} ", (f"to {attempt.webhook_id}", "dim")]
    if failed:
        facts.append(f": {plain(attempt.detail)}" if attempt.detail else f": HTTP {attempt.response_status}")
    if will_be_tried and attempt.next_attempt_at is not None:
        facts.append(f"; next {attempt.next_attempt_at[11:19]}")
    if attempt.breaker is not BreakerState.CLOSED:
        facts.append((f"; breaker {attempt.breaker.value}", "red"))
    return Text.assemble(*facts)
