"""Actions by hand on a webhook: test, disable, enable, rotate the secret, recover, replay, delete."""

from collections.abc import Mapping
from http import HTTPStatus

from quart import Response

from webhookd.admin.actions import get_replay, recover_deliveries, replay_events, stop_replay, test_webhook
from webhookd.admin.auth import Permission
from webhookd.admin.bodies import convert
from webhookd.admin.operations import NoBody
from webhookd.admin.schemas import Matched, NoQuery, ReplayRequest, ReplayStarted
from webhookd.admin.views import iso_or_none
from webhookd.admin.webhook_schemas import Rotation
from webhookd.admin.webhooks import apply_patch, delete_webhook, rotate_secret
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import ReplayKind, WhenInactive
from webhookd.base.secret import Secret
from webhookd.dashboard import formatting
from webhookd.dashboard.form_times import field_time, read_range
from webhookd.dashboard.live import live
from webhookd.dashboard.pages import Visit, page, problems_of
from webhookd.dashboard.webhook_page import OVERLAPS, find

_HOUR = 3600.0


async def send_test(visit: Visit) -> Response:
    """Send a test event and show the result."""
    endpoint = await find(visit)
    call = visit.call(NoQuery(), NoBody())
    attempt = (await test_webhook(call)).value
    took = formatting.duration(attempt.duration_ms / 1000)
    if attempt.error is None:
        notice = f"The test was delivered: the receiver answered {attempt.response_status} after {took}."
    else:
        answer = "" if attempt.response_status is None else f", answered {attempt.response_status}"
        notice = f"The test failed after {took}: {attempt.error.value}{answer}. {attempt.detail}".strip()
    return await visit.go(f"/webhooks/{endpoint.id}", notice)


async def disable(visit: Visit) -> Response:
    """Disable a webhook."""
    inside = await visit.services.router.inside(await find(visit))
    is_held = inside.policy.when_inactive is WhenInactive.HOLD
    notice = f"Disabled. Its events are {'held' if is_held else 'dropped'} until you enable it."
    return await _set_active(visit, is_active=False, notice=notice)


async def enable(visit: Visit) -> Response:
    """Enable a webhook."""
    return await _set_active(visit, is_active=True, notice="Enabled. Pending deliveries are sent now.")


async def _set_active(visit: Visit, *, is_active: bool, notice: str) -> Response:
    webhook_id = visit.path["webhookId"]
    await apply_patch(visit.call(NoQuery(), NoBody()), {"isActive": is_active})
    return await visit.go(f"/webhooks/{webhook_id}", notice)


async def rotate(visit: Visit) -> Response:
    """Rotate the secret, and redirect to the page that shows the new one."""
    hours = visit.form.text("overlap")
    if hours not in OVERLAPS:
        raise Rejected(ErrorCode.VALIDATION_ERROR, "choose an overlap from the list")
    body = Rotation(overlap_seconds=float(hours) * _HOUR)
    rotated = (await rotate_secret(visit.call(NoQuery(), body))).value
    await visit.sessions.put_secret(visit.session, rotated.id, Secret(rotated.secret))
    return await visit.go(f"/webhooks/{rotated.id}/secret")


async def show_secret(visit: Visit) -> Response:
    """Show a new secret, only this once."""
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
    """Show the form for a recover or replay."""
    endpoint = await find(visit)
    fields = {"kind": ReplayKind.RECOVER.value, "since": field_time(visit.now - _HOUR), "until": "", "events": ""}
    return await visit.render("webhook/replay.html", {"endpoint": endpoint, "fields": fields, "problems": {}})


async def count(visit: Visit) -> Response:
    """Count what a recover or replay would queue, without queueing it."""
    endpoint = await find(visit)
    kind, found = await _run_replay(visit, dry_run=True)
    values = {"endpoint": endpoint, "fields": dict(visit.form), **_counted(kind, found)}
    if visit.wants_fragment:
        return await visit.render("webhook/counted.html", values)
    return await visit.render("webhook/replay.html", values)


async def begin(visit: Visit) -> Response:
    """Start a recover or replay, and redirect to its progress."""
    endpoint = await find(visit)
    kind, found = await _run_replay(visit, dry_run=False)
    if isinstance(found, ReplayStarted):
        return await visit.go(f"/webhooks/{endpoint.id}/replays/{found.id}")
    values = {"endpoint": endpoint, "fields": dict(visit.form), **_counted(kind, found)}
    return await visit.render("webhook/replay.html", values, status=HTTPStatus.UNPROCESSABLE_ENTITY)


async def _run_replay(visit: Visit, *, dry_run: bool) -> tuple[ReplayKind, Matched | ReplayStarted | Mapping[str, str]]:
    """Recover or replay; return the result, or the problems by field."""
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
        run = recover_deliveries if kind is ReplayKind.RECOVER else replay_events
        return kind, (await run(call)).value
    except Rejected as refused:
        if refused.code is not ErrorCode.VALIDATION_ERROR:
            raise
        return kind, {name.partition("/")[0]: text for name, text in problems_of(refused).items()}


def _counted(kind: ReplayKind, found: Matched | Mapping[str, str]) -> Mapping[str, object]:
    if isinstance(found, Matched):
        return {"problems": {}, "matched": found.matched, "kind": kind.value}
    return {"problems": found, "kind": kind.value}


async def show_replay(visit: Visit) -> Response:
    """Show the progress of a recover or replay."""
    return await visit.render("webhook/progress.html", await _progress(visit))


async def replay_parts(visit: Visit) -> Mapping[str, str]:
    """Render the live part."""
    return {"progress": visit.part("webhook/progress_bar.html", await _progress(visit))}


async def _progress(visit: Visit) -> Mapping[str, object]:
    call = visit.call(NoQuery(), NoBody())
    return {"endpoint": await find(visit), "replay": (await get_replay(call)).value}


async def stop(visit: Visit) -> Response:
    """Stop a recover or replay."""
    await stop_replay(visit.call(NoQuery(), NoBody()))
    return await visit.go(f"/webhooks/{visit.path['webhookId']}", "Stopped. What is queued already is still sent.")


_ONE = "/webhooks/{webhookId}"
_REPLAY = f"{_ONE}/replays/{{replayId}}"
PAGES = (
    page("test_webhook", f"POST {_ONE}/test", Permission.OPERATE, send_test),
    page("disable_webhook", f"POST {_ONE}/disable", Permission.OPERATE, disable),
    page("enable_webhook", f"POST {_ONE}/enable", Permission.OPERATE, enable),
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
