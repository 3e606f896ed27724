"""Events: publishing, the feed in the order of commits, and a single event."""

from http import HTTPStatus

from webhookd.admin.auth import Permission
from webhookd.admin.bodies import JSON, NDJSON
from webhookd.admin.operations import Answer, Call, NoBody, operation
from webhookd.admin.publishing import publish
from webhookd.admin.schemas import (
    EventQuery,
    EventView,
    NoQuery,
    Page,
    Submitted,
    SubmittedLine,
)
from webhookd.admin.views import event, page
from webhookd.base.errors import ErrorCode
from webhookd.base.models import NewEvent


async def list_events(call: Call[EventQuery, NoBody]) -> Answer:
    """Answer with a part of the feed."""
    query = call.query
    found = await call.services.store.events.page(
        call.caller.organization_id,
        limit=query.rows,
        cursor=query.cursor,
        after=query.after,
    )
    return Answer(value=page(found, event))


async def get_event(call: Call[NoQuery, NoBody]) -> Answer:
    """Answer with one event."""
    row = await call.services.store.events.get(call.path["eventId"], call.caller.organization_id)
    return Answer(value=event(row))


OPERATIONS = (
    operation(
        "publishEvents",
        "POST /api/events",
        Permission.PUBLISH,
        "Publish one event, or a stream of events as lines; the answer comes when they are on disk",
        publish,
        reads_itself={JSON: NewEvent, NDJSON: NewEvent},
        answers={HTTPStatus.ACCEPTED: Submitted},
        streams={HTTPStatus.OK: {NDJSON: SubmittedLine}},
        refuses=(ErrorCode.UNKNOWN_EVENT_TYPE, ErrorCode.CONFLICT, ErrorCode.JOURNAL_FULL, ErrorCode.SHUTTING_DOWN),
    ),
    operation(
        "listEvents",
        "GET /api/events",
        Permission.READ,
        "List events in the order of their commits",
        list_events,
        answers={HTTPStatus.OK: Page[EventView]},
        refuses=(ErrorCode.INVALID_CURSOR,),
    ),
    operation(
        "getEvent",
        "GET /api/events/{eventId}",
        Permission.READ,
        "Read an event",
        get_event,
        answers={HTTPStatus.OK: EventView},
        refuses=(ErrorCode.NOT_FOUND,),
    ),
)
