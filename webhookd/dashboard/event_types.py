"""The pages of the catalogue of event types: list, create, edit, delete."""

import dataclasses
from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from quart import Response

from webhookd.admin.auth import Permission
from webhookd.admin.bodies import convert
from webhookd.admin.event_types import delete_event_type, etag, list_event_types, put_event_type
from webhookd.admin.operations import NoBody
from webhookd.admin.preconditions import AnyTag, Preconditions
from webhookd.admin.schemas import CursorQuery, EventTypeInput, ListQuery, NoQuery
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.event_format import decode_body
from webhookd.dashboard.formatting import capitalized
from webhookd.dashboard.forms import ETAG_FIELD, Form, unchanged_since
from webhookd.dashboard.pages import Visit, page, page_links, problems_of
from webhookd.dashboard.payloads import indented

ROWS = 100
_PATH = "/event-types"
_CHANGED = "The event type was changed after you opened this form. Your changes were not saved: open the form again."
_NOT_AN_OBJECT = "Enter a JSON object, or leave the field empty."

_document_decoder = msgspec.json.Decoder(dict[str, object])


async def catalogue(visit: Visit) -> Response:
    """Show the list of event types."""
    page_query = visit.query(CursorQuery)
    query = ListQuery(limit=ROWS, cursor=page_query.cursor)
    found = (await list_event_types(visit.call(query, NoBody()))).value
    return await visit.render(
        "event_types.html",
        {
            "types": found.data,
            "may_change": _may_change(visit),
            **page_links(_PATH, page_query, found.next_cursor),
        },
    )


async def new(visit: Visit) -> Response:
    """Show the form for a new event type."""
    return await _form(visit, None, {}, {})


async def add(visit: Visit) -> Response:
    """Create an event type; an existing one is not changed."""
    return await _put(visit, None, visit.form.text("name"))


async def one(visit: Visit) -> Response:
    """Show an event type, as a form if the caller may change it."""
    name = visit.path["name"]
    row = await visit.services.store.event_types.find(name)
    if row is None:
        raise Rejected(ErrorCode.NOT_FOUND, f"the catalogue has no {name}")
    values = {
        "description": row.description,
        "schema": _indented(row.schema_json),
        "example": _indented(row.example_json),
        "deprecated": "yes" if row.deprecated else "",
        ETAG_FIELD: etag(row),
    }
    return await _form(visit, name, values, {})


async def change(visit: Visit) -> Response:
    """Save an event type, which must not have changed since the form was opened."""
    return await _put(visit, visit.path["name"], visit.path["name"])


async def delete(visit: Visit) -> Response:
    """Delete an event type."""
    name = visit.path["name"]
    await delete_event_type(visit.call(NoQuery(), NoBody()))
    return await visit.go(_PATH, f"{name} has been deleted.")


async def _put(visit: Visit, known: str | None, name: str) -> Response:
    form, problems = visit.form, {}
    documents: dict[str, dict[str, object] | None] = {}
    for field in ("schema", "example"):
        try:
            documents[field] = _document(form.text(field))
        except Rejected as refused:
            problems[field] = f"{_NOT_AN_OBJECT} {capitalized(refused.detail)}."
    if problems:
        return await _form(visit, known, form, problems)
    try:
        described = convert(
            {"description": form.text("description"), "deprecated": "deprecated" in form, **documents}, EventTypeInput
        )
        call = visit.call(NoQuery(), described, name=name)
        condition = Preconditions(none_match=AnyTag.TAG) if known is None else unchanged_since(form)
        await put_event_type(dataclasses.replace(call, preconditions=condition))
    except Rejected as refused:
        if "description" in problems_of(refused):
            problems["description"] = "At most 2000 characters."
        elif refused.code is ErrorCode.FORBIDDEN:
            raise
        elif refused.code is ErrorCode.PRECONDITION_FAILED:
            problems["name"] = _CHANGED if known else "This event type exists already."
        else:
            problems["name"] = f"{capitalized(refused.detail)}."
    if problems:
        return await _form(visit, known, form, problems)
    return await visit.go(_PATH, f"{name} has been {'saved' if known else 'created'}.")


async def _form(
    visit: Visit, name: str | None, values: Mapping[str, str] | Form, problems: Mapping[str, str]
) -> Response:
    fields = {
        field: values.get(field, "") for field in ("name", "description", "schema", "example", "deprecated", "etag")
    }
    return await visit.render(
        "event_type.html",
        {"name": name, "fields": fields, "problems": problems, "may_change": _may_change(visit)},
        status=ErrorCode.VALIDATION_ERROR.status if problems else HTTPStatus.OK,
    )


def _may_change(visit: Visit) -> bool:
    """Whether the caller may change the catalogue, which belongs to no organization."""
    return visit.may(Permission.ADMINISTER) and visit.caller.organization_id is None


def _document(text: str) -> dict[str, object] | None:
    return decode_body(text.encode(), _document_decoder) if text else None


def _indented(text: str | None) -> str:
    return "" if text is None else indented(text.encode())


PAGES = (
    page("event_types", f"GET {_PATH}", Permission.READ, catalogue, label="Event types"),
    page("new_event_type", f"GET {_PATH}/new", Permission.ADMINISTER, new),
    page("add_event_type", f"POST {_PATH}", Permission.ADMINISTER, add),
    page("event_type", f"GET {_PATH}/named/{{name}}", Permission.READ, one),
    page("change_event_type", f"POST {_PATH}/named/{{name}}", Permission.ADMINISTER, change),
    page("delete_event_type", f"POST {_PATH}/named/{{name}}/delete", Permission.ADMINISTER, delete),
)
