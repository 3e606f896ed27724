"""The forms to create and to edit a webhook, with the checks of the API: of single fields while typing, and of all."""

import dataclasses
from collections.abc import Mapping
from http import HTTPStatus
from typing import cast

import msgspec
from quart import Response

from webhookd.admin.auth import Permission
from webhookd.admin.bodies import convert
from webhookd.admin.operations import NoBody
from webhookd.admin.schemas import NoQuery
from webhookd.admin.webhook_schemas import NewWebhook, WebhookSettings
from webhookd.admin.webhooks import apply_patch, check_events, create_webhook, document, etag
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.event_types import OPERATIONAL_EVENTS
from webhookd.base.models import Endpoint
from webhookd.base.secret import Secret
from webhookd.dashboard.forms import ETAG_FIELD, Form, unchanged_since
from webhookd.dashboard.pages import Visit, page, problems_of
from webhookd.dashboard.webhook_forms import by_field, difference, document_of, fields_of
from webhookd.dashboard.webhook_page import find
from webhookd.delivery.custom_headers import folded

_URL, _EVENTS = "url", "events"
_ANY_URL = "https://receiver.example/"
_CHANGED = "The webhook was changed after you opened this form. Your changes were not saved: open the form again."
_SHOWN_ON_THE_FORM = {
    ErrorCode.PRECONDITION_FAILED,
    ErrorCode.VALIDATION_ERROR,
    ErrorCode.URL_NOT_ALLOWED,
    ErrorCode.UNKNOWN_EVENT_TYPE,
    ErrorCode.QUOTA_EXCEEDED,
}


async def new_webhook(visit: Visit) -> Response:
    """Show an empty form."""
    return await _form(visit, {"events": "*", "isActive": "on"}, {})


async def create(visit: Visit) -> Response:
    """Create a webhook, and redirect to the page that shows its secret."""
    try:
        wanted = convert(document_of(visit.form), NewWebhook)
        created = (await create_webhook(visit.call(NoQuery(), wanted))).value
    except Rejected as refused:
        if refused.code not in _SHOWN_ON_THE_FORM:
            raise
        status = HTTPStatus.FORBIDDEN if refused.code is ErrorCode.QUOTA_EXCEEDED else HTTPStatus.UNPROCESSABLE_ENTITY
        return await _form(visit, visit.form, by_field(problems_of(refused)), status=status)
    await visit.sessions.put_secret(visit.session, created.id, Secret(created.secret))
    return await visit.go(f"/webhooks/{created.id}/secret")


async def edit_webhook(visit: Visit) -> Response:
    """Show the form with the settings of a webhook."""
    endpoint = await find(visit)
    return await _form(visit, {**fields_of(document(endpoint, {})), ETAG_FIELD: etag(endpoint)}, {}, endpoint=endpoint)


async def change(visit: Visit) -> Response:
    """Save the fields that differ from the webhook, which must not have changed since the form was opened."""
    endpoint = await find(visit)
    form = visit.form
    before = document(endpoint, {})
    before.pop("headers", None)
    try:
        wanted = document_of(form)
        added = cast("Mapping[str, str]", wanted.pop("headers", {}))
        replaced = {folded(name) for name in added}
        headers = {**{name: None for name in form.all("removeHeader") if folded(name) not in replaced}, **added}
        # The whole form is checked before the difference is created, so that a problem is shown at its field.
        checked = convert(wanted, WebhookSettings)
        patch = difference(before, _written(checked))
        if headers:
            patch["headers"] = headers
        if patch:
            call = visit.call(NoQuery(), NoBody())
            await apply_patch(dataclasses.replace(call, preconditions=unchanged_since(form)), patch)
    except Rejected as refused:
        if refused.code not in _SHOWN_ON_THE_FORM:
            raise
        problems = by_field(problems_of(refused))
        if refused.code is ErrorCode.PRECONDITION_FAILED:
            problems = {"": _CHANGED}
        return await _form(visit, form, problems, endpoint=endpoint, status=HTTPStatus.UNPROCESSABLE_ENTITY)
    return await visit.go(f"/webhooks/{endpoint.id}", "Saved." if patch else "Nothing to save.")


async def check(visit: Visit) -> Response:
    """Return what is wrong with one field while it is typed; empty if it is valid."""
    name = visit.path["field"]
    problem = ""
    try:
        await _check(visit, name)
    except Rejected as refused:
        if refused.code not in _SHOWN_ON_THE_FORM:
            raise
        found = by_field(problems_of(refused))
        problem = found.get(name) or next(iter(found.values()))
    return await visit.render("webhooks/problem.html", {"name": name, "problem": problem})


async def _check(visit: Visit, name: str) -> None:
    form, services = visit.form, visit.services
    if name == _URL:
        convert({"url": form.text(_URL), "events": ["*"]}, WebhookSettings)
        await services.check_url(form.text(_URL))
    elif name == _EVENTS:
        check_events(services, convert({"url": _ANY_URL, "events": form.entries(_EVENTS)}, WebhookSettings).events)
    else:
        raise Rejected(ErrorCode.NOT_FOUND, f"the field {name} is checked only with the whole form")


async def _form(
    visit: Visit,
    fields: Mapping[str, str] | Form,
    problems: Mapping[str, str],
    *,
    endpoint: Endpoint | None = None,
    status: HTTPStatus = HTTPStatus.OK,
) -> Response:
    values = {
        "endpoint": endpoint,
        "fields": dict(fields),
        "problems": problems,
        "defaults": visit.services.config.delivery,
        "types": sorted(visit.services.router.event_types) + sorted(OPERATIONAL_EVENTS),
    }
    return await visit.render("webhooks/form.html", values, status=status)


def _written(settings: WebhookSettings) -> Mapping[str, object]:
    """Return settings in the form of `document`, without headers, whose values can't be compared."""
    written: dict[str, object] = msgspec.to_builtins(settings)
    written.pop("headers", None)
    return written


PAGES = (
    page("new_webhook", "GET /webhooks/new", Permission.ADMINISTER, new_webhook),
    page("create_webhook", "POST /webhooks", Permission.ADMINISTER, create),
    page("check_webhook", "POST /webhooks/check/{field}", Permission.ADMINISTER, check),
    page("edit_webhook", "GET /webhooks/{webhookId}/edit", Permission.ADMINISTER, edit_webhook),
    page("change_webhook", "POST /webhooks/{webhookId}/edit", Permission.ADMINISTER, change),
)
