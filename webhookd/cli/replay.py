"""`webhookd replay`: replays the events of a time range, or recovers its failed deliveries, and shows the progress.

The server does the work and continues by itself, also after a restart: this command only starts, watches or stops it.
"""

import time

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from webhookd.admin.schemas import Matched, ReplayStarted, ReplayView
from webhookd.admin.webhook_schemas import Webhook
from webhookd.base.errors import CommandError
from webhookd.base.models import ReplayStatus
from webhookd.cli.api import Api, Refused, Unreachable, part
from webhookd.cli.names import Moment, Pattern, find_webhook, names_webhook
from webhookd.cli.options import prints_json
from webhookd.cli.places import Place, takes_place
from webhookd.cli.sources import ApiSource
from webhookd.cli.terminal import confirm, show_result

_LOOK_SECONDS = 0.2
_PATIENCE_SECONDS = 60.0


@click.command("replay")
@names_webhook
@click.option("--since", type=Moment(), help="The start of the range: 2026-01-31T12:00:00Z, or 2h for 2 hours ago.")
@click.option("--until", type=Moment(), help="The end of the range, not included. Default: now.")
@click.option("--events", type=Pattern(), multiple=True, help="Only these events: a type, `user.*`; may be repeated.")
@click.option("--failed", is_flag=True, help="Retry only failed deliveries, with their ids and sequence numbers.")
@click.option("--dry-run", is_flag=True, help="Only print how many there are.")
@click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
@click.option("--detach", is_flag=True, help="Start it without waiting.")
@click.option("--watch", metavar="REPLAY_ID", help="Watch a replay that was started before (rpl_…).")
@click.option("--stop", metavar="REPLAY_ID", help="Stop a replay; what it has queued is still sent.")
@prints_json
@takes_place
def command(
    place: Place,
    *,
    webhook: str,
    since: str | None,
    until: str | None,
    events: tuple[str, ...],
    failed: bool,
    dry_run: bool,
    yes: bool,
    detach: bool,
    watch: str | None,
    stop: str | None,
    as_json: bool,
) -> None:
    """Deliver the events of a time range to a webhook again, at the end of its queue.

    WEBHOOK is its id (wh_…) or the start of it, its description, or its URL.

    With --failed it retries the failed deliveries of the range instead. They keep their ids, and their order.

    It prints how many there are and asks for confirmation. Then it shows how many are queued; `webhookd tail` shows
    them being sent. Ctrl-C only ends the watching: --watch continues it, and --stop stops the replay.
    """
    if (watch is not None) + (stop is not None) + (since is not None) != 1:
        raise click.UsageError("give one of --since (to start a replay), --watch and --stop (for a started one)")
    api = place.server()
    found = find_webhook(ApiSource(api), webhook)
    if stop is not None:
        _report(api.delete(_path(found, stop), ReplayView), as_json=as_json)
        return
    if watch is None:
        wanted: dict[str, object] = {"since": since, "events": list(events)}
        if until is not None:
            wanted["until"] = until
        started = _start(api, found, wanted, failed=failed, dry_run=dry_run, yes=yes, as_json=as_json)
        if started is None:
            return
        if detach:
            text = f"{started.id} queues {started.matched}: {_how_to_watch(found, started.id)}"
            show_result(started, text, as_json=as_json)
            return
        watch = started.id
    ended = _watch(api, found, watch)
    _report(ended, as_json=as_json)
    click.get_current_context().exit(0 if ended.status is ReplayStatus.DONE else 1)


def _start(
    api: Api,
    webhook: Webhook,
    wanted: dict[str, object],
    *,
    failed: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> ReplayStarted | None:
    """Count, ask for confirmation and start; None if nothing was started."""
    path = f"/api/webhooks/{part(webhook.id)}/{'recover' if failed else 'replay'}"
    what = "failed deliveries" if failed else "events"
    counted = api.post(path, {**wanted, "dryRun": True}, Matched)
    if dry_run or not counted.matched:
        text = f"{counted.matched} {what} match" + ("" if counted.matched else ": nothing to do")
        show_result(counted, text, as_json=as_json)
        return None
    question = f"Deliver {counted.matched} {what} to {webhook.id} again?"
    confirm(question, is_given=yes, instead="give --yes, or --dry-run to only count")
    return api.post(path, wanted, ReplayStarted)


def _watch(api: Api, webhook: Webhook, replay_id: str) -> ReplayView:
    """Wait for the end of a replay, also over a restart, with a progress bar if standard error is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            shown = progress.add_task(f"queueing {replay_id}", total=None)
            answered_at = time.monotonic()
            while True:
                try:
                    seen = api.get(_path(webhook, replay_id), ReplayView)
                    answered_at = time.monotonic()
                except Unreachable:
                    if time.monotonic() - answered_at > _PATIENCE_SECONDS:
                        raise
                except Refused as refused:
                    if refused.status not in {429, 503}:
                        raise
                    time.sleep(refused.retry_after_seconds or 1)
                else:
                    progress.update(shown, completed=seen.queued, total=seen.matched)
                    if seen.status is not ReplayStatus.RUNNING:
                        return seen
                time.sleep(_LOOK_SECONDS)
    except KeyboardInterrupt:
        click.echo(f"\nit continues by itself: {_how_to_watch(webhook, replay_id)}", err=True)
        raise
    except Unreachable as error:
        raise CommandError(
            f"{error}; it continues when the server does: {_how_to_watch(webhook, replay_id)}"
        ) from error


def _report(seen: ReplayView, *, as_json: bool) -> None:
    show_result(seen, f"{seen.id} {seen.status}: {seen.queued} of {seen.matched} queued", as_json=as_json)


def _how_to_watch(webhook: Webhook, replay_id: str) -> str:
    return f"`webhookd replay {webhook.id} --watch {replay_id}` watches it, --stop {replay_id} stops it"


def _path(webhook: Webhook, replay_id: str) -> str:
    return f"/api/webhooks/{part(webhook.id)}/replays/{part(replay_id)}"
