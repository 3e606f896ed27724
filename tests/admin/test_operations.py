"""An operation is described by the signature, the name and the docstring of its handler."""

from http import HTTPStatus

from quart import Response

from webhookd.admin.auth import Permission
from webhookd.admin.bodies import JSON, NDJSON
from webhookd.admin.operations import Answer, Call, NoBody, operation
from webhookd.admin.schemas import Deleted, Force, ListQuery, NoQuery, Page
from webhookd.base.errors import ErrorCode


async def list_old_things(_: Call[ListQuery, NoBody]) -> Answer[Page[Deleted]]:
    """List things, oldest first."""
    raise NotImplementedError


async def send_thing(_: Call[NoQuery, Force]) -> Answer[Deleted] | Response:
    """Send a thing; once more with force.

    The second paragraph is for readers of the code.
    """
    raise NotImplementedError


async def test_the_handler_describes_its_operation() -> None:
    """Name, summary, query, body and answer of the description are those of the handler."""
    listing = operation(list_old_things, "GET /api/things", Permission.READ)
    assert (listing.name, listing.method, listing.path) == ("listOldThings", "GET", "/api/things")
    assert listing.summary == "List things, oldest first"
    assert listing.query is ListQuery
    assert listing.takes == {}
    assert listing.answers == {HTTPStatus.OK: {JSON: Page[Deleted]}}
    sending = operation(send_thing, "POST /api/things/send", Permission.OPERATE, status=HTTPStatus.ACCEPTED)
    assert (sending.name, sending.summary) == ("sendThing", "Send a thing; once more with force")
    assert sending.takes == {JSON: Force}
    assert sending.answers == {HTTPStatus.ACCEPTED: {JSON: Deleted}}


async def test_several_answers_are_named() -> None:
    """Given answers replace the handler's, and those of other media types come in addition."""
    streams = {HTTPStatus.OK: {NDJSON: Deleted}}
    given = {HTTPStatus.CREATED: Page[Deleted]}
    sending = operation(send_thing, "POST /api/things", Permission.OPERATE, answers=given, streams=streams)
    assert sending.answers == {HTTPStatus.CREATED: {JSON: Page[Deleted]}, HTTPStatus.OK: {NDJSON: Deleted}}


async def test_refusals_follow_from_the_route_and_the_query() -> None:
    """A list refuses foreign cursors, a path with an object may name none, and a change checks preconditions."""
    assert operation(list_old_things, "GET /api/things", Permission.READ).refuses == (ErrorCode.INVALID_CURSOR,)
    one = operation(send_thing, "POST /api/things/{name}", Permission.OPERATE, refuses=(ErrorCode.CONFLICT,))
    assert set(one.refuses) == {ErrorCode.CONFLICT, ErrorCode.NOT_FOUND, ErrorCode.PRECONDITION_FAILED}
    new = operation(send_thing, "PUT /api/things/{name}", Permission.OPERATE, may_create=True)
    assert set(new.refuses) == {ErrorCode.PRECONDITION_FAILED}
