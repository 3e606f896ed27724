"""The definition of an API operation: its input, the permission it needs, and its answers.

The routes, the checks of requests and the OpenAPI document are all built from these definitions.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Generic, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import NODEFAULT, Struct
from quart import Request, Response

from webhookd.admin.auth import Caller, Permission
from webhookd.admin.bodies import JSON, MAX_JSON_BYTES, body_of, decode_query, expect_media_type, read_body
from webhookd.admin.preconditions import NO_PRECONDITIONS, Preconditions, read_preconditions
from webhookd.admin.schemas import CursorQuery, Input
from webhookd.admin.services import Services
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.event_format import decode_body
from webhookd.base.models import Endpoint
from webhookd.journal import Action, AuditEntry

Q = TypeVar("Q", bound=Struct)
B = TypeVar("B", bound=Struct)
V_co = TypeVar("V_co", covariant=True)


class NoBody(Input, frozen=True, kw_only=True):
    """No request body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[Q, B]):
    """One decoded and checked request for an operation; `path` has the variable parts of its path.

    An operation that `has_etags` checks the `preconditions` against the tag of its object.
    """

    services: Services
    caller: Caller
    request: Request
    request_id: str
    path: Mapping[str, str]
    query: Q
    body: B
    preconditions: Preconditions = NO_PRECONDITIONS

    def begin_change(self) -> None:
        """Note that the request is about to change something; Rejected UNAUTHORIZED if its key is no longer in force.

        A body may take a while to arrive, and its key may be revoked or expire in that time.
        """
        if self.services.keys.caller_now(self.caller, self.services.clock.now()) is None:
            raise Rejected(ErrorCode.UNAUTHORIZED, "the API key or token of this request is no longer in force")
        body_of(self.request).may_have_changed = True

    def audit_entry(self, action: Action, fields: Iterable[str] = ()) -> AuditEntry:
        """Return an entry for the audit log; `fields` are the names of the given fields.

        From here on, the request counts as one that may have changed something. Raises as `begin_change`.
        """
        self.begin_change()
        assert self.caller.actor is not None  # noqa: S101 - an anonymous caller has no permission to change anything
        return AuditEntry(
            actor=self.caller.actor,
            action=action,
            at=self.services.clock.now(),
            request_id=self.request_id,
            fields=tuple(fields),
        )

    async def find_webhook(self) -> Endpoint:
        """Return the webhook of the path; Rejected NOT_FOUND, also for a webhook of another organization."""
        return await self.services.store.webhooks.get(self.path["webhookId"], self.caller.organization_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Generic[V_co]):
    """The answer of an operation; `value` is encoded as JSON."""

    value: V_co
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Call[Q, B]], Awaitable[Answer[object] | Response]]
"""Answers one call; if it raises Rejected, nothing was changed."""
OperationRunner = Callable[[Services, Caller, Request, str, Mapping[str, str]], Awaitable[Answer[object] | Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path, such as `GET /api/webhooks/{webhookId}`.

    For the OpenAPI document, `takes` has the Structs of bodies by media type, `answers` those of answers by status and
    media type, and `refuses` the error codes in addition to those of every operation.
    """

    name: str
    method: str
    path: str
    permission: Permission
    summary: str
    run: OperationRunner
    query: type[Struct]
    takes: Mapping[str, object]
    requires_body: bool
    answers: Mapping[HTTPStatus, Mapping[str, object]]
    refuses: tuple[ErrorCode, ...]
    has_etags: bool


def operation(
    handler: Handler[Q, B],
    route: str,
    permission: Permission,
    *,
    name: str | None = None,
    status: HTTPStatus = HTTPStatus.OK,
    answers: Mapping[HTTPStatus, object] | None = None,
    streams: Mapping[HTTPStatus, Mapping[str, object]] | None = None,
    optional_body: bool = False,
    reads_itself: Mapping[str, object] | None = None,
    refuses: tuple[ErrorCode, ...] = (),
    has_etags: bool = False,
    may_create: bool = False,
) -> Operation:
    """Return the operation of a route, which is a method and a path.

    Its name is that of `handler`, and its summary the first line of the handler's docstring. Query, body and answer
    have the types of the handler's signature. A handler with several answers has them in `answers`, by status, and
    those of other media types in `streams`. `reads_itself` has the bodies that the handler reads by itself, by media
    type. An operation that `has_etags` answers with an ETag, and checks the preconditions against it. One whose path
    names an object refuses NOT_FOUND, unless it `may_create` the object.
    """
    [call_type, returned] = get_type_hints(handler).values()
    kinds: tuple[type[Q], type[B]] = get_args(call_type)
    query, body = kinds
    decoder = msgspec.json.Decoder(body)
    method, _, path = route.partition(" ")
    if answers is None:
        options = (returned, *get_args(returned))  # it may be a union with Response
        shown = [get_args(option)[0] for option in options if get_origin(option) is Answer]
        answers = {status: shown[0]} if shown else {}
    if "{" in path and not may_create:
        refuses = (*refuses, ErrorCode.NOT_FOUND)
    if issubclass(query, CursorQuery):
        refuses = (*refuses, ErrorCode.INVALID_CURSOR)
    if takes_preconditions(method, has_etags=has_etags):
        refuses = (*refuses, ErrorCode.PRECONDITION_FAILED)

    async def run(
        services: Services, caller: Caller, request: Request, request_id: str, variables: Mapping[str, str]
    ) -> Answer[object] | Response:
        taken_query = decode_query(request.query_string, query)
        preconditions = NO_PRECONDITIONS
        if takes_preconditions(method, has_etags=has_etags):
            preconditions = read_preconditions(request.headers)
        if not has_etags:
            preconditions.check_untagged()
        taken_body = body() if body is NoBody else await _read(request, services, decoder, body, optional_body)
        call = Call(
            services=services,
            caller=caller,
            request=request,
            request_id=request_id,
            path=variables,
            query=taken_query,
            body=taken_body,
            preconditions=preconditions,
        )
        return await handler(call)

    takes: Mapping[str, object] = {} if body is NoBody else {JSON: body}
    return Operation(
        name=name or _camel_case(handler.__name__),
        method=method,
        path=path,
        permission=permission,
        summary=(handler.__doc__ or "").partition("\n")[0].removesuffix("."),
        run=run,
        query=query,
        takes=takes if reads_itself is None else reads_itself,
        requires_body=not optional_body,
        answers={**{code: {JSON: kind} for code, kind in answers.items()}, **(streams or {})},
        refuses=refuses,
        has_etags=has_etags,
    )


def _camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def takes_preconditions(method: str, *, has_etags: bool) -> bool:
    """Whether an operation checks the preconditions of requests, as every change must (RFC 9110 section 13.2.1)."""
    return has_etags or method != "GET"


def given(body: Struct) -> list[str]:
    """Return the API names of the fields that don't have their default value."""
    kind = type(body)
    defaults = msgspec.structs.fields(kind)
    return [
        field.encode_name
        for field in defaults
        if getattr(body, field.name)
        != (field.default if field.default_factory is NODEFAULT else field.default_factory())
    ]


async def _read(
    request: Request, services: Services, decoder: msgspec.json.Decoder[B], body: type[B], is_optional: bool
) -> B:
    timeout_seconds = services.config.server.request_timeout_seconds
    if not is_optional or "Content-Type" in request.headers:
        expect_media_type(request, JSON)
    text = await read_body(request, max_bytes=MAX_JSON_BYTES, timeout_seconds=timeout_seconds)
    if is_optional and not text:
        return body()
    expect_media_type(request, JSON)
    return decode_body(text, decoder)
