"""Actions by hand on a webhook: test, recover, replay, and the progress of the latter two."""

from http import HTTPStatus

from webhookd.admin.auth import Permission
from webhookd.admin.deliveries import parse_time
from webhookd.admin.operations import Answer, Call, NoBody, given, operation
from webhookd.admin.schemas import AttemptView, Matched, NoQuery, ReplayRequest, ReplayStarted, ReplayView
from webhookd.admin.views import attempt, shown
from webhookd.base.event_format import invalid
from webhookd.base.models import ReplayKind
from webhookd.jobs.replay import selection
from webhookd.journal import Action


async def test_webhook(call: Call[NoQuery, NoBody]) -> Answer[AttemptView]:
    """Send webhook.test now, outside the queue, and answer with the attempt."""
    detail = await call.services.router.tester.test(await call.find_webhook(), call.audit_entry(Action.WEBHOOK_TEST))
    [row] = detail.attempts
    return Answer(value=attempt(row))


async def recover_deliveries(call: Call[NoQuery, ReplayRequest]) -> Answer[Matched]:
    """Retry every failed delivery of a time range, in sequence."""
    return await _begin(call, ReplayKind.RECOVER)


async def replay_events(call: Call[NoQuery, ReplayRequest]) -> Answer[Matched]:
    """Queue new deliveries of the events of a time range, at the end of the queue."""
    return await _begin(call, ReplayKind.REPLAY)


async def get_replay(call: Call[NoQuery, NoBody]) -> Answer[ReplayView]:
    """Read the progress of a recover or replay."""
    endpoint = await call.find_webhook()
    row = await call.services.store.replays.get(endpoint.pk, call.path["replayId"])
    return Answer(value=shown(ReplayView, row))


async def stop_replay(call: Call[NoQuery, NoBody]) -> Answer[ReplayView]:
    """Stop a recover or replay; deliveries that it has queued stay queued."""
    endpoint = await call.find_webhook()
    entry = call.audit_entry(Action.WEBHOOK_STOP_REPLAY)
    row = await call.services.store.replays.stop(endpoint, call.path["replayId"], entry)
    return Answer(value=shown(ReplayView, row))


async def _begin(call: Call[NoQuery, ReplayRequest], kind: ReplayKind) -> Answer[Matched]:
    services, body = call.services, call.body
    endpoint = await call.find_webhook()
    since = parse_time("since", body.since)
    until = services.clock.now() + 0.001 if body.until is None else parse_time("until", body.until)
    if since >= until:
        raise invalid((("/until", "takes a time after since"),))
    wanted = selection(endpoint, kind, since=since, until=until, events=body.events)
    if body.dry_run:
        return Answer(value=Matched(matched=(await services.store.replays.match(wanted)).count))
    action = Action.WEBHOOK_RECOVER if kind is ReplayKind.RECOVER else Action.WEBHOOK_REPLAY
    row = await services.router.replayer.start(endpoint, wanted, call.audit_entry(action, given(body)))
    return Answer(
        value=ReplayStarted(id=row.id, matched=row.matched),
        status=HTTPStatus.ACCEPTED,
        headers={"Location": f"/api/webhooks/{endpoint.id}/replays/{row.id}"},
    )


_BEGUN = {HTTPStatus.ACCEPTED: ReplayStarted, HTTPStatus.OK: Matched}

OPERATIONS = (
    operation(test_webhook, "POST /api/webhooks/{webhookId}/test", Permission.OPERATE),
    operation(recover_deliveries, "POST /api/webhooks/{webhookId}/recover", Permission.OPERATE, answers=_BEGUN),
    operation(replay_events, "POST /api/webhooks/{webhookId}/replay", Permission.OPERATE, answers=_BEGUN),
    operation(get_replay, "GET /api/webhooks/{webhookId}/replays/{replayId}", Permission.READ),
    operation(stop_replay, "DELETE /api/webhooks/{webhookId}/replays/{replayId}", Permission.OPERATE),
)
