"""What is done to a webhook by hand: test, pause, resume, a new secret, recover, replay, delete."""

from collections.abc import Mapping
from http import HTTPStatus

from quart import Response

from webhookd.admin.actions import get_replay, recover, replay, stop_replay, test_webhook
from webhookd.admin.auth import Permission
from webhookd.admin.bodies import convert
from webhookd.admin.operations import NoBody
from webhookd.admin.schemas import (
    AttemptView,
    Matched,
    NoQuery,
    ReplayRequest,
    ReplayStarted,
    ReplayView,
)
from webhookd.admin.views import iso_or_none
from webhookd.admin.webhook_schemas import Rotation, WebhookWithSecret
from webhookd.admin.webhooks import apply_patch, delete_webhook, rotate_secret
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import ReplayKind, WhenInactive
from webhookd.base.secret import Secret
from webhookd.dashboard import formatting
from webhookd.dashboard.form_times import field_time, read_range
from webhookd.dashboard.live import live
from webhookd.dashboard.pages import Visit, answered, page, problems_of
from webhookd.dashboard.webhook_page import find

_HOUR = 3600.0
OVERLAPS = {"0": "not at all", "1": "for 1 hour", "24": "for 24 hours", "72": "for 3 days", "168": "for 7 days"}


async def send_test(visit: Visit) -> Response:
    """Send a test and say what came of it."""
    endpoint = await find(visit)
    call = visit.call(NoQuery(), NoBody())
    attempt = await answered(AttemptView, test_webhook(call))
    took = formatting.duration(attempt.duration_ms / 1000)
    if attempt.error is None:
        said = f"The test was delivered: the receiver answered {attempt.response_status} after {took}."
    else:
        answer = "" if attempt.response_status is None else f", answered {attempt.response_status}"
        said = f"The test failed after {took}: {attempt.error.value}{answer}. {attempt.detail}".strip()
    return await visit.go(f"/webhooks/{endpoint.id}", said)


async def pause(visit: Visit) -> Response:
    """Switch a webhook off."""
    inside = await visit.services.router.inside(await find(visit))
    is_held = inside.policy.when_inactive is WhenInactive.HOLD
    said = "Paused: its events are " + ("held until you resume it." if is_held else "dropped until you resume it.")
    return await _switch(visit, is_active=False, said=said)


async def resume(visit: Visit) -> Response:
    """Switch a webhook on."""
    return await _switch(visit, is_active=True, said="Resumed: it is tried again now.")


async def _switch(visit: Visit, *, is_active: bool, said: str) -> Response:
    webhook_id = visit.path["webhookId"]
    await apply_patch(visit.call(NoQuery(), NoBody()), {"isActive": is_active})
    return await visit.go(f"/webhooks/{webhook_id}", said)


async def rotate(visit: Visit) -> Response:
    """Give a webhook a new secret, and go on to the one page that shows it."""
    hours = visit.form.text("overlap")
    if hours not in OVERLAPS:
        raise Rejected(ErrorCode.VALIDATION_ERROR, "the overlap is one of those that the form offers")
    body = Rotation(overlap_seconds=float(hours) * _HOUR)
    made = await answered(WebhookWithSecret, rotate_secret(visit.call(NoQuery(), body)))
    await visit.sessions.put_secret(visit.session, made.id, Secret(made.secret))
    return await visit.go(f"/webhooks/{made.id}/secret")


async def show_secret(visit: Visit) -> Response:
    """Show a secret that has just been made, this once."""
    endpoint = await find(visit)
    secret = await visit.sessions.take_secret(visit.session, endpoint.id)
    values = {"endpoint": endpoint, "secret": None if secret is None else secret.reveal()}
    return await visit.render("webhook/secret.html", values)


async def delete(visit: Visit) -> Response:
    """Delete a webhook."""
    endpoint = await find(visit)
    await delete_webhook(visit.call(NoQuery(), NoBody()))
    return await visit.go("/webhooks", f"The webhook {endpoint.id} to {endpoint.url} has been deleted.")


async def replay_form(visit: Visit) -> Response:
    """Ask what to send again."""
    endpoint = await find(visit)
    fields = {"kind": ReplayKind.RECOVER.value, "since": field_time(visit.now - _HOUR), "until": "", "events": ""}
    return await visit.render("webhook/replay.html", {"endpoint": endpoint, "fields": fields, "problems": {}})


async def count(visit: Visit) -> Response:
    """Say how much would be sent again, without sending any of it."""
    endpoint = await find(visit)
    kind, found = await _ask_again(visit, dry_run=True)
    values = {"endpoint": endpoint, "fields": dict(visit.form), **_counted(kind, found)}
    if visit.wants_fragment:
        return await visit.render("webhook/counted.html", values)
    return await visit.render("webhook/replay.html", values)


async def begin(visit: Visit) -> Response:
    """Send again, and go on to how far it is."""
    endpoint = await find(visit)
    kind, found = await _ask_again(visit, dry_run=False)
    if isinstance(found, ReplayStarted):
        return await visit.go(f"/webhooks/{endpoint.id}/replays/{found.id}")
    values = {"endpoint": endpoint, "fields": dict(visit.form), **_counted(kind, found)}
    return await visit.render("webhook/replay.html", values, status=HTTPStatus.UNPROCESSABLE_ENTITY)


async def _ask_again(visit: Visit, *, dry_run: bool) -> tuple[ReplayKind, Matched | ReplayStarted | Mapping[str, str]]:
    """Recover or replay; return what was found, or what is wrong with which field."""
    form = visit.form
    kind = ReplayKind.REPLAY if form.text("kind") == ReplayKind.REPLAY.value else ReplayKind.RECOVER
    since, until, problems = read_range(form.text("since"), form.text("until"))
    if problems:
        return kind, problems
    try:
        document = {
            "since": iso_or_none(since) or "",
            "until": iso_or_none(until),
            "events": form.entries("events"),
            "dryRun": dry_run,
        }
        call = visit.call(NoQuery(), convert(document, ReplayRequest))
        expected = Matched if dry_run else ReplayStarted
        return kind, await answered(expected, recover(call) if kind is ReplayKind.RECOVER else replay(call))
    except Rejected as refused:
        if refused.code is not ErrorCode.VALIDATION_ERROR:
            raise
        return kind, {name.partition("/")[0]: text for name, text in problems_of(refused).items()}


def _counted(kind: ReplayKind, found: Matched | Mapping[str, str]) -> Mapping[str, object]:
    if isinstance(found, Matched):
        return {"problems": {}, "matched": found.matched, "kind": kind.value}
    return {"problems": found, "kind": kind.value}


async def show_replay(visit: Visit) -> Response:
    """Show how far a recover or replay is."""
    return await visit.render("webhook/progress.html", await _progress(visit))


async def replay_parts(visit: Visit) -> Mapping[str, str]:
    """Make what changes of it."""
    return {"progress": visit.part("webhook/progress_bar.html", await _progress(visit))}


async def _progress(visit: Visit) -> Mapping[str, object]:
    call = visit.call(NoQuery(), NoBody())
    return {"endpoint": await find(visit), "replay": await answered(ReplayView, get_replay(call))}


async def stop(visit: Visit) -> Response:
    """Stop a recover or replay."""
    await answered(ReplayView, stop_replay(visit.call(NoQuery(), NoBody())))
    return await visit.go(f"/webhooks/{visit.path['webhookId']}", "Stopped; what it has queued stays.")


_ONE = "/webhooks/{webhookId}"
_REPLAY = f"{_ONE}/replays/{{replayId}}"
PAGES = (
    page("test_webhook", f"POST {_ONE}/test", Permission.OPERATE, send_test),
    page("pause_webhook", f"POST {_ONE}/pause", Permission.OPERATE, pause),
    page("resume_webhook", f"POST {_ONE}/resume", Permission.OPERATE, resume),
    page("rotate_secret", f"POST {_ONE}/rotate", Permission.ADMINISTER, rotate),
    page("webhook_secret", f"GET {_ONE}/secret", Permission.ADMINISTER, show_secret),
    page("delete_webhook", f"POST {_ONE}/delete", Permission.ADMINISTER, delete),
    page("replay_form", f"GET {_ONE}/replay", Permission.OPERATE, replay_form),
    page("count_replay", f"POST {_ONE}/replay/count", Permission.OPERATE, count),
    page("begin_replay", f"POST {_ONE}/replay", Permission.OPERATE, begin),
    page("replay", f"GET {_REPLAY}", Permission.READ, show_replay),
    live("replay_live", f"GET {_REPLAY}/live", Permission.READ, replay_parts),
    page("stop_replay", f"POST {_REPLAY}/stop", Permission.OPERATE, stop),
)
