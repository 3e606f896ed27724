"""Events: publishing, the feed in the order of commits, and a single event."""

from http import HTTPStatus

from webhookd.admin.auth import Permission
from webhookd.admin.bodies import JSON, NDJSON
from webhookd.admin.operations import Answer, Call, NoBody, operation
from webhookd.admin.publishing import publish_events
from webhookd.admin.schemas import EventQuery, EventView, NoQuery, Page, SubmittedLine
from webhookd.admin.views import event, page
from webhookd.base.errors import ErrorCode
from webhookd.base.models import NewEvent


async def list_events(call: Call[EventQuery, NoBody]) -> Answer[Page[EventView]]:
    """List events in the order of their commits."""
    query = call.query
    found = await call.services.store.events.page(
        call.caller.organization_id,
        limit=query.rows,
        cursor=query.cursor,
        after=query.after,
    )
    return Answer(value=page(found, event))


async def get_event(call: Call[NoQuery, NoBody]) -> Answer[EventView]:
    """Read an event."""
    row = await call.services.store.events.get(call.path["eventId"], call.caller.organization_id)
    return Answer(value=event(row))


OPERATIONS = (
    operation(
        publish_events,
        "POST /api/events",
        Permission.PUBLISH,
        status=HTTPStatus.ACCEPTED,
        reads_itself={JSON: NewEvent, NDJSON: NewEvent},
        streams={HTTPStatus.OK: {NDJSON: SubmittedLine}},
        refuses=(
            ErrorCode.UNKNOWN_EVENT_TYPE,
            ErrorCode.CONFLICT,
            ErrorCode.JOURNAL_FULL,
            ErrorCode.SHUTTING_DOWN,
        ),
    ),
    operation(list_events, "GET /api/events", Permission.READ),
    operation(get_event, "GET /api/events/{eventId}", Permission.READ),
)
