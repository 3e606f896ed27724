"""The OpenAPI 3.1 document, built from the operations and the catalogue of event types."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import TypeVar, cast

import msgspec
from msgspec import Struct

from webhookd.admin import idempotency, limits, preconditions
from webhookd.admin.auth import Permission, roles_with
from webhookd.admin.example_story import REQUEST_ID
from webhookd.admin.examples import EXAMPLES, PATH_PARTS, REFUSALS, Example
from webhookd.admin.operations import Operation
from webhookd.admin.problems import AUTHENTICATE, MEDIA_TYPE, REQUEST_ID_HEADER, Problem, problem_of
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.version import VERSION
from webhookd.journal import EventTypeRow

Json = Mapping[str, object]
T = TypeVar("T")

_REF = "#/components/schemas/{name}"
_ALWAYS = (
    ErrorCode.VALIDATION_ERROR,
    ErrorCode.URI_TOO_LONG,
    ErrorCode.RATE_LIMITED,
    ErrorCode.REQUEST_HEADER_FIELDS_TOO_LARGE,
    ErrorCode.INTERNAL,
)
_WITH_KEY = (
    ErrorCode.UNAUTHORIZED,
    ErrorCode.FORBIDDEN,
    ErrorCode.GATEWAY_TIMEOUT,
    ErrorCode.JOURNAL_UNREACHABLE,
    ErrorCode.KEYS_OUTDATED,
)
_WITH_IDEMPOTENCY_KEY = (ErrorCode.CONFLICT, ErrorCode.IDEMPOTENCY_KEY_REUSED)
_WITH_BODY = (
    ErrorCode.MALFORMED_JSON,
    ErrorCode.REQUEST_TIMEOUT,
    ErrorCode.PAYLOAD_TOO_LARGE,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE,
    ErrorCode.NOT_IMPLEMENTED,
)
_STRING: Json = {"type": "string"}
_CREDENTIALS = (
    f"An API key (`whd_…`) or, if the server is configured for it, a JWT of your own application. {AUTHENTICATE}"
)
_SECONDS: Json = {"type": "string", "pattern": "^[0-9]+$"}
_ULID = "[0-7][0-9A-HJKMNP-TV-Z]{25}"
_PATH_PARTS: Mapping[str, str] = {
    "webhookId": f"^wh_{_ULID}$",
    "deliveryId": f"^dlv_{_ULID}$",
    "eventId": "^[A-Za-z0-9_-]{1,64}$",
    "replayId": f"^rpl_{_ULID}$",
    "keyId": f"^key_{_ULID}$",
    "name": "^[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)*$",
}


def _parameter(name: str, place: str, schema: object, **more: object) -> Json:
    return {"name": name, "in": place, "required": place == "path", "schema": schema, **more}


_IDEMPOTENCY_KEY = _parameter(
    idempotency.HEADER,
    "header",
    {"type": "string", "minLength": 1, "maxLength": idempotency.MOST_CHARACTERS, "pattern": "^[!-~]+$"},
    description="a request with the same key and body gets the first 2xx answer again, for 24 hours",
)
_ENTITY_TAGS: Json = {"type": "string", "pattern": '^(\\*|(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*)$'}
_PRECONDITIONS = [
    _parameter(
        preconditions.IF_MATCH,
        "header",
        _ENTITY_TAGS,
        description="the request succeeds only if the ETag is one of these, else 412",
    ),
    _parameter(
        preconditions.IF_NONE_MATCH,
        "header",
        _ENTITY_TAGS,
        description="the request succeeds only if the ETag is none of these, else 304 for GET, 412 for others",
    ),
]
_RATE_LIMITS: Mapping[str, Json] = {
    limits.POLICY_HEADER: {"description": "sent if server.rate_limit_per_second is set", "schema": _STRING},
    limits.LIMIT_HEADER: {"description": "sent if server.rate_limit_per_second is set", "schema": _STRING},
}
_REFUSAL_HEADERS: Mapping[HTTPStatus, Mapping[str, Json]] = {
    HTTPStatus.UNAUTHORIZED: {"www-authenticate": {"required": True, "schema": _STRING}},
    HTTPStatus.TOO_MANY_REQUESTS: {"retry-after": {"required": True, "schema": _SECONDS}, **_RATE_LIMITS},
    HTTPStatus.SERVICE_UNAVAILABLE: {"retry-after": {"required": True, "schema": _SECONDS}},
}
_ABOUT = (
    "Durable webhooks: events in, signed and ordered deliveries out. Errors are problem documents (RFC 9457) with a "
    "stable `code`; lists are pages with a `nextCursor`; times are ISO-8601 UTC."
)


def describe(operations: Iterable[Operation], catalogue: Iterable[EventTypeRow]) -> Json:
    """Return the OpenAPI document."""
    listed = tuple(operations)
    schemas, components = _schemas(listed)
    paths: dict[str, dict[str, Json]] = {}
    for operation in listed:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "webhookd", "version": VERSION, "description": _ABOUT},
        "security": [{"apiKey": []}],
        "paths": paths,
        "webhooks": {row.name: _webhook(row) for row in catalogue},
        "components": {
            "schemas": components,
            "securitySchemes": {"apiKey": {"type": "http", "scheme": "bearer", "description": _CREDENTIALS}},
        },
    }


def _schemas(operations: tuple[Operation, ...]) -> tuple[dict[object, Json], Json]:
    kinds: list[object] = [Problem]
    for operation in operations:
        kinds += operation.takes.values()
        kinds += [kind for by_type in operation.answers.values() for kind in by_type.values()]
    distinct = list(dict.fromkeys(kinds))
    references, components = msgspec.json.schema_components(distinct, ref_template=_REF, schema_hook=_anything)
    portable = cast("Json", _portable(components))
    return dict(zip(distinct, references, strict=True)), portable


def _anything(_kind: type) -> dict[str, object]:
    # msgspec has no schema for `object` only, which is any JSON.
    return {"description": "any JSON"}


def _operation(operation: Operation, schemas: Mapping[object, Json]) -> Json:
    described: dict[str, object] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [
            *_path_parameters(operation.path),
            *_query_parameters(operation.query),
            *([_IDEMPOTENCY_KEY] if operation.method == "POST" else []),
            *(_PRECONDITIONS if operation.has_etags else []),
        ],
        "responses": {**_answers(operation, schemas), **_refusals(operation, schemas)},
    }
    if operation.permission is Permission.NOTHING:
        described["security"] = []
    else:
        roles = ", ".join(role.value for role in roles_with(operation.permission))
        described["description"] = f"For the roles {roles}."
    if operation.takes:
        content = {
            media_type: {"schema": schemas[kind], **_example(_examples_of(operation).takes, media_type)}
            for media_type, kind in operation.takes.items()
        }
        described["requestBody"] = {"required": operation.requires_body, "content": content}
    return described


def _examples_of(operation: Operation) -> Example:
    return EXAMPLES.get(operation.name, Example())


def _example(by_place: Mapping[T, object], place: T) -> Json:
    # Through JSON: a document may contain encoded JSON.
    return {"example": msgspec.json.decode(msgspec.json.encode(by_place[place]))} if place in by_place else {}


def _refusal(code: ErrorCode) -> object:
    detail = REFUSALS[code]
    pointer = detail.partition(": ")[0]
    errors = ((pointer, detail.removeprefix(f"{pointer}: ")),) if pointer.startswith("/") else ()
    return msgspec.to_builtins(problem_of(Rejected(code, detail, errors=errors), REQUEST_ID))


def _path_parameters(path: str) -> list[Json]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [
        _parameter(name, "path", {"type": "string", "pattern": _PATH_PARTS[name]}, example=PATH_PARTS[name])
        for name in names
    ]


def _query_parameters(query: type[Struct]) -> list[Json]:
    _, components = msgspec.json.schema_components([query], ref_template=_REF)
    schema = cast("Json", _portable(components[query.__name__]))
    properties = cast("Mapping[str, Json]", schema["properties"])
    # Enums have components of their own, which parameters can't refer to.
    own = {f"#/components/schemas/{name}": part for name, part in components.items()}
    return [_parameter(name, "query", _inlined(part, own)) for name, part in properties.items()]


def _inlined(part: object, own: Mapping[str, object]) -> object:
    if isinstance(part, Mapping):
        if "$ref" in part:
            return own[cast("str", part["$ref"])]
        return {name: _inlined(value, own) for name, value in part.items()}
    if isinstance(part, list):
        return [_inlined(item, own) for item in part]
    return part


def _answers(operation: Operation, schemas: Mapping[object, Json]) -> dict[str, Json]:
    return {
        str(status.value): {
            "description": status.phrase,
            "headers": _answer_headers(operation, status),
            "content": {
                media_type: {"schema": schemas[kind], **_example(_examples_of(operation).answers, status)}
                for media_type, kind in by_type.items()
            },
        }
        for status, by_type in operation.answers.items()
    }


def _answer_headers(operation: Operation, status: HTTPStatus) -> Json:
    headers: dict[str, Json] = {REQUEST_ID_HEADER: {"required": True, "schema": _STRING}}
    if operation.permission not in {Permission.NOTHING, Permission.PUBLISH}:
        headers.update(_RATE_LIMITS)
    if status is HTTPStatus.CREATED:
        headers["location"] = {"required": True, "schema": {"type": "string", "format": "uri-reference"}}
    if operation.has_etags and operation.method != "DELETE":
        headers[preconditions.ETAG.lower()] = {"required": True, "schema": _STRING}
    if operation.method == "POST":
        headers[idempotency.REPLAYED] = {"schema": {"const": "true"}}
    headers.update(_REFUSAL_HEADERS.get(status, {}))
    return headers


def _refusals(operation: Operation, schemas: Mapping[object, Json]) -> dict[str, Json]:
    codes = [*_ALWAYS, *operation.refuses]
    if operation.permission is not Permission.NOTHING:
        codes += _WITH_KEY
    if operation.takes:
        codes += _WITH_BODY
    if operation.method == "POST":
        codes += _WITH_IDEMPOTENCY_KEY
    by_status: dict[HTTPStatus, list[str]] = {}
    for code in codes:
        by_status.setdefault(code.status, []).append(code.value)
    return {
        str(status.value): {
            "description": ", ".join(sorted(set(names))),
            "headers": {
                REQUEST_ID_HEADER: {"required": True, "schema": _STRING},
                **_REFUSAL_HEADERS.get(status, {}),
            },
            "content": {
                MEDIA_TYPE: {
                    "schema": schemas[Problem],
                    "examples": {name: {"value": _refusal(ErrorCode[name])} for name in sorted(set(names))},
                }
            },
        }
        for status, names in sorted(by_status.items())
        if status not in operation.answers
    }


def _webhook(row: EventTypeRow) -> Json:
    data: dict[str, object] = {"type": "object"}
    if row.schema_json is not None:
        # With its own id, its references resolve within it and not within this document.
        data = {"$id": f"urn:webhookd:event-type:{row.name}", **msgspec.json.decode(row.schema_json, type=dict)}
    envelope: dict[str, object] = {
        "type": "object",
        "required": ["id", "type", "timestamp", "data"],
        "properties": {
            "id": _STRING,
            "type": {"const": row.name},
            "timestamp": {"type": "string", "format": "date-time"},
            "organizationId": _STRING,
            "data": data,
        },
    }
    content: dict[str, object] = {"schema": envelope}
    if row.example_json is not None:
        content["examples"] = {"data": {"value": {"data": msgspec.json.decode(row.example_json)}}}
    headers = ("webhook-id", "webhook-timestamp", "webhook-signature", "x-webhook-event", "x-webhook-delivery")
    return {
        "post": {
            "summary": row.description or row.name,
            "deprecated": row.deprecated,
            "security": [],
            "parameters": [{"name": name, "in": "header", "required": True, "schema": _STRING} for name in headers],
            "requestBody": {"required": True, "content": {"application/json": content}},
            "responses": {"2XX": {"description": "delivered"}},
        }
    }


def _portable(schema: object) -> object:
    """Return the schema with patterns in the dialect of JSON Schema, which has no `\\Z`."""
    if isinstance(schema, Mapping):
        return {
            name: value.replace("\\Z", "$") if name == "pattern" and isinstance(value, str) else _portable(value)
            for name, value in schema.items()
        }
    if isinstance(schema, list):
        return [_portable(item) for item in schema]
    return schema
