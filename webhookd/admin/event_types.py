"""The catalogue of event types."""

import hashlib
from collections.abc import Mapping

import msgspec
from msgspec import Raw

from webhookd.admin.auth import Permission
from webhookd.admin.operations import Answer, Call, NoBody, given, operation
from webhookd.admin.preconditions import ETAG, tag_of
from webhookd.admin.schemas import Deleted, EventTypeInput, EventTypeView, ListQuery, NoQuery, Page
from webhookd.admin.views import page, shown
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.event_types import OPERATIONAL_EVENTS, TEST_EVENT
from webhookd.base.fields import EventTypeName
from webhookd.base.validation import accepted_form, type_info
from webhookd.journal import Action, EventTypeRow

_CATALOGUE = "the catalogue"
_TAG_DIGITS = 20


async def list_event_types(call: Call[ListQuery, NoBody]) -> Answer[Page[EventTypeView]]:
    """List the catalogue of event types."""
    query = call.query
    found = await call.services.store.event_types.page(limit=query.rows, cursor=query.cursor)
    return Answer(value=page(found, _view))


async def put_event_type(call: Call[NoQuery, EventTypeInput]) -> Answer[EventTypeView]:
    """Create an event type in the catalogue, or replace its description."""
    call.caller.require_unbound(_CATALOGUE)
    name = _name(call.path["name"])
    described = call.body
    stored = await call.services.store.event_types.put(
        EventTypeRow(
            name=name,
            description=described.description,
            schema_json=_text(described.schema),
            example_json=_text(described.example),
            deprecated=described.deprecated,
        ),
        call.services.clock.now(),
        entry=call.audit_entry(Action.EVENT_TYPE_PUT, given(described)),
        condition=lambda before: call.preconditions.check_change(None if before is None else etag(before)),
    )
    return Answer(value=_view(stored), headers={ETAG: etag(stored)})


async def delete_event_type(call: Call[NoQuery, NoBody]) -> Answer[Deleted]:
    """Delete an event type from the catalogue.

    Webhooks that subscribe to it are not changed.
    """
    call.caller.require_unbound(_CATALOGUE)
    name = _name(call.path["name"])
    await call.services.store.event_types.delete(
        name,
        entry=call.audit_entry(Action.EVENT_TYPE_DELETE),
        condition=lambda before: call.preconditions.check_change(None if before is None else etag(before)),
    )
    return Answer(value=Deleted(id=name))


def etag(row: EventTypeRow) -> str:
    """Return the entity tag of an event type."""
    return tag_of(hashlib.sha256(msgspec.json.encode(row)).hexdigest()[:_TAG_DIGITS])


def _name(text: str) -> str:
    try:
        name = msgspec.convert(text, EventTypeName)
    except msgspec.ValidationError as error:
        detail = f"the name of an event type is {accepted_form(type_info(EventTypeName))}"
        raise Rejected(ErrorCode.VALIDATION_ERROR, detail) from error
    if name in OPERATIONAL_EVENTS or name == TEST_EVENT:
        raise Rejected(ErrorCode.CONFLICT, f"{name} is one of webhookd's own event types and can't be in the catalogue")
    return name


def _text(document: Mapping[str, object] | None) -> str | None:
    return None if document is None else msgspec.json.encode(document).decode()


def _raw(text: str | None) -> Raw | None:
    return None if text is None else Raw(text)


def _view(row: EventTypeRow) -> EventTypeView:
    return shown(EventTypeView, row, schema=_raw(row.schema_json), example=_raw(row.example_json))


OPERATIONS = (
    operation(list_event_types, "GET /api/event-types", Permission.READ),
    operation(
        put_event_type,
        "PUT /api/event-types/{name}",
        Permission.ADMINISTER,
        optional_body=True,
        refuses=(ErrorCode.CONFLICT, ErrorCode.QUOTA_EXCEEDED),
        has_etags=True,
        may_create=True,
    ),
    operation(
        delete_event_type,
        "DELETE /api/event-types/{name}",
        Permission.ADMINISTER,
        refuses=(ErrorCode.CONFLICT,),
        has_etags=True,
    ),
)
