"""Webhooks: list, create, read, change, delete, rotate the secret.

A change is a merge patch (RFC 7396) on the document that would create the webhook. Null or a missing member means the
server's default, so creating and changing share one validation. Changes of one webhook run one at a time: the settings
that a patch was merged into are still the current ones when the result is written.

The ETag identifies the settings: each change of them gives a new one, and deliveries don't change it.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import TypeVar, cast

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import asdict
from quart import Response

from webhookd.admin.auth import Permission
from webhookd.admin.bodies import JSON, MAX_JSON_BYTES, convert, expect_media_type, read_body
from webhookd.admin.operations import Answer, Call, NoBody, given, operation
from webhookd.admin.preconditions import ETAG, Preconditions, tag_of, unchanged
from webhookd.admin.schemas import Deleted, ListQuery, NoQuery, Page
from webhookd.admin.services import Services
from webhookd.admin.views import webhook, with_secret
from webhookd.admin.webhook_schemas import (
    NewWebhook,
    RetrySettings,
    Rotation,
    Webhook,
    WebhookPatch,
    WebhookSettings,
    WebhookWithSecret,
)
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.event_format import decode_body, invalid
from webhookd.base.event_types import OPERATIONAL_EVENTS
from webhookd.base.ids import Prefix
from webhookd.base.models import Endpoint, PolicyOverrides, Role
from webhookd.base.secret import Secret
from webhookd.delivery import custom_headers
from webhookd.delivery.signing import (
    SecretError,
    ed25519_public,
    generate_ed25519,
    generate_secret,
    secret_hint,
    secret_key,
)
from webhookd.journal import Action, EndpointChanges, EndpointCondition, NewEndpoint

MERGE_PATCH = "application/merge-patch+json"
T = TypeVar("T")

_document_decoder = msgspec.json.Decoder(dict[str, object])


async def list_webhooks(call: Call[ListQuery, NoBody]) -> Answer[Page[Webhook]]:
    """List webhooks, newest first."""
    found = await call.services.store.webhooks.page(
        call.caller.organization_id, limit=call.query.rows, cursor=call.query.cursor
    )
    subjects = list(found.items)
    health = await call.services.router.health(subjects)
    defaults = call.services.config.delivery
    views = [webhook(endpoint, state, defaults) for endpoint, state in zip(subjects, health, strict=True)]
    return Answer(value=Page(data=views, next_cursor=found.next_cursor))


async def create_webhook(call: Call[NoQuery, NewWebhook]) -> Answer[WebhookWithSecret]:
    """Create a webhook; only this answer shows its secret."""
    services, wanted = call.services, call.body
    call.preconditions.check_untagged()  # a new webhook has no tag yet
    organization_id = call.caller.stamp(wanted.organization_id)
    check_events(services, wanted.events)
    services.check_headers(wanted.headers)
    secret = Secret(generate_secret()) if wanted.secret is None else _imported(wanted.secret)
    private_key = Secret(generate_ed25519()) if wanted.signature.ed25519 else None
    await services.check_url(wanted.url)
    endpoint = await services.router.create_endpoint(
        NewEndpoint(
            id=services.ids.new(Prefix.WEBHOOK),
            url=wanted.url,
            events=tuple(dict.fromkeys(wanted.events)),
            description=wanted.description,
            is_active=wanted.is_active,
            organization_id=organization_id,
            metadata=wanted.metadata,
            overrides=_overrides(wanted),
            signature=wanted.signature,
            headers=_hidden(wanted.headers),
            secret=secret,
            secret_hint=secret_hint(secret.reveal()),
            ed25519_secret=private_key,
            ed25519_public_key=None if private_key is None else ed25519_public(private_key.reveal()),
            created_at=services.clock.now(),
        ),
        call.audit_entry(Action.WEBHOOK_CREATE, given(wanted)),
    )
    view = with_secret(await _view(services, endpoint), secret)
    headers = {"Location": f"/api/webhooks/{endpoint.id}", ETAG: etag(endpoint)}
    return Answer(value=view, status=HTTPStatus.CREATED, headers=headers)


async def get_webhook(call: Call[NoQuery, NoBody]) -> Answer[Webhook] | Response:
    """Read a webhook."""
    endpoint = await call.find_webhook()
    tag = etag(endpoint)
    call.preconditions.check_read(tag)
    if call.preconditions.is_known(tag):
        return unchanged(tag)
    return Answer(value=await _view(call.services, endpoint), headers={ETAG: tag})


async def change_webhook(call: Call[NoQuery, NoBody]) -> Answer[Webhook]:
    """Change a webhook by a merge patch (RFC 7396); the role operator may change only isActive."""
    services = call.services
    expect_media_type(call.request, JSON, MERGE_PATCH)
    text = await read_body(
        call.request, max_bytes=MAX_JSON_BYTES, timeout_seconds=services.config.server.request_timeout_seconds
    )
    patch = decode_body(text, _document_decoder)
    return await apply_patch(call, patch)


async def apply_patch(call: Call[NoQuery, NoBody], patch: Mapping[str, object]) -> Answer[Webhook]:
    """Apply a decoded merge patch; an operator may change only `isActive`."""
    services = call.services
    if call.caller.role is Role.OPERATOR and patch.keys() != {"isActive"}:
        raise Rejected(ErrorCode.FORBIDDEN, "the role operator may change only isActive")
    if isinstance(patch.get("url"), str):
        # Resolving the name may take seconds, so it happens before the webhook is locked.
        await services.check_url(cast("str", patch["url"]))
    async with services.changing.holding(call.path["webhookId"]):
        endpoint = await call.find_webhook()
        changes = await _changes(services, endpoint, patch)
        entry = call.audit_entry(Action.WEBHOOK_CHANGE, patch)
        changed = await services.router.update_endpoint(endpoint.id, changes, entry, _condition(call.preconditions))
    return Answer(value=await _view(services, changed), headers={ETAG: etag(changed)})


async def delete_webhook(call: Call[NoQuery, NoBody]) -> Answer[Deleted]:
    """Delete a webhook; its pending deliveries are canceled."""
    # No lock: nothing that is read here is written, and to cancel a long queue takes a while.
    endpoint = await call.find_webhook()
    entry, condition = call.audit_entry(Action.WEBHOOK_DELETE), _condition(call.preconditions)
    await call.services.router.delete_endpoint(endpoint.id, entry, condition)
    return Answer(value=Deleted(id=endpoint.id))


async def rotate_secret(call: Call[NoQuery, Rotation]) -> Answer[WebhookWithSecret]:
    """Rotate the secret of a webhook; both secrets sign during the overlap."""
    services = call.services
    secret = Secret(generate_secret()) if call.body.secret is None else _imported(call.body.secret)
    async with services.changing.holding(call.path["webhookId"]):
        endpoint = await call.find_webhook()
        entry = call.audit_entry(Action.WEBHOOK_ROTATE_SECRET, given(call.body))
        rotated = await services.router.rotate_secret(
            endpoint.id, secret, call.body.overlap_seconds, entry, _condition(call.preconditions)
        )
    return Answer(value=with_secret(await _view(services, rotated), secret), headers={ETAG: etag(rotated)})


def etag(endpoint: Endpoint) -> str:
    """Return the entity tag of a webhook's settings, whose versions all differ in `updated_at`."""
    return tag_of(f"{round(endpoint.updated_at * 1000):x}")


def _condition(preconditions: Preconditions) -> EndpointCondition:
    return lambda endpoint: preconditions.check_change(etag(endpoint))


async def _view(services: Services, endpoint: Endpoint) -> Webhook:
    [health] = await services.router.health([endpoint])
    return webhook(endpoint, health, services.config.delivery)


def _imported(secret: str) -> Secret[str]:
    try:
        secret_key(secret)
    except SecretError as error:
        raise invalid((("/secret", str(error)),)) from error
    return Secret(secret)


def check_events(services: Services, patterns: tuple[str, ...]) -> None:
    """Raise Rejected UNKNOWN_EVENT_TYPE for exact event types that are not in the catalogue."""
    known = services.router.event_types
    unknown = [
        (f"/events/{index}", "a name of the catalogue, a prefix such as user.*, or *")
        for index, pattern in enumerate(patterns)
        if not pattern.endswith("*") and pattern not in known and pattern not in OPERATIONAL_EVENTS
    ]
    if unknown:
        names = ", ".join(patterns[int(pointer.rpartition("/")[2])] for pointer, _ in unknown)
        raise Rejected(
            ErrorCode.UNKNOWN_EVENT_TYPE,
            f"not in the catalogue: {names}; add a name with PUT /api/event-types/:name",
            errors=tuple(unknown),
        )


def _overrides(settings: WebhookSettings) -> PolicyOverrides:
    return msgspec.convert(settings, PolicyOverrides, from_attributes=True)


async def _changes(services: Services, endpoint: Endpoint, patch: Mapping[str, object]) -> EndpointChanges:
    """Return the changes that `patch` makes; fields that it doesn't name are left out."""
    current_headers: dict[str, str] = {}
    if patch.get("headers") is not None:
        credentials = await services.store.webhooks.credentials(services.vault, endpoint.pk, services.clock.now())
        if credentials is None:
            raise Rejected(ErrorCode.NOT_FOUND, f"the webhook {endpoint.id} has just been deleted")
        current_headers = {name: value.reveal() for name, value in credentials.headers}
        if isinstance(patch["headers"], Mapping):
            patch = {**patch, "headers": custom_headers.as_stored(patch["headers"], current_headers)}
    wanted = convert(merge(document(endpoint, current_headers), patch), WebhookSettings)
    if "events" in patch:
        check_events(services, wanted.events)
    if "headers" in patch:
        services.check_headers(wanted.headers)
    makes_a_key = wanted.signature.ed25519 and endpoint.ed25519_public_key is None
    private_key = Secret(generate_ed25519()) if makes_a_key else UNSET
    return EndpointChanges(
        url=_if_named(patch, "url", wanted.url),
        events=_if_named(patch, "events", tuple(dict.fromkeys(wanted.events))),
        description=_if_named(patch, "description", wanted.description),
        is_active=_if_named(patch, "isActive", wanted.is_active),
        metadata=_if_named(patch, "metadata", wanted.metadata),
        overrides=_overrides(wanted),
        signature=_if_named(patch, "signature", wanted.signature),
        headers=_if_named(patch, "headers", _hidden(wanted.headers)),
        ed25519_secret=private_key,
        ed25519_public_key=UNSET if private_key is UNSET else ed25519_public(private_key.reveal()),
    )


def merge(target: object, patch: object) -> object:
    """Return the merge of `patch` into `target` (RFC 7396 section 2)."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value)
    return merged


def document(endpoint: Endpoint, headers: Mapping[str, str]) -> dict[str, object]:
    """Return the body that would create the endpoint."""
    overrides = asdict(endpoint.overrides)
    settings = WebhookSettings(
        url=endpoint.url,
        events=endpoint.events,
        description=endpoint.description,
        is_active=endpoint.is_active,
        metadata=dict(endpoint.metadata),
        headers=dict(headers),
        signature=endpoint.signature,
        **{**overrides, "retry": RetrySettings(**asdict(overrides["retry"]))},
    )
    builtins: dict[str, object] = msgspec.to_builtins(settings)
    return builtins


def _hidden(headers: Mapping[str, str]) -> tuple[tuple[str, Secret[str]], ...]:
    return tuple((name, Secret(value)) for name, value in headers.items())


def _if_named(patch: Mapping[str, object], name: str, value: T) -> T | UnsetType:
    return value if name in patch else UNSET


_REFUSES = (ErrorCode.UNKNOWN_EVENT_TYPE, ErrorCode.URL_NOT_ALLOWED)
_PATCHED = {JSON: WebhookPatch, MERGE_PATCH: WebhookPatch}

OPERATIONS = (
    operation(list_webhooks, "GET /api/webhooks", Permission.READ),
    operation(
        create_webhook,
        "POST /api/webhooks",
        Permission.ADMINISTER,
        status=HTTPStatus.CREATED,
        refuses=(*_REFUSES, ErrorCode.QUOTA_EXCEEDED),
        has_etags=True,
    ),
    operation(
        get_webhook,
        "GET /api/webhooks/{webhookId}",
        Permission.READ,
        streams={HTTPStatus.NOT_MODIFIED: {}},
        has_etags=True,
    ),
    *(
        operation(
            change_webhook,
            f"{method} /api/webhooks/{{webhookId}}",
            Permission.OPERATE,
            name=f"{method.lower()}Webhook",
            reads_itself=_PATCHED,
            refuses=(*_REFUSES, ErrorCode.CONFLICT),
            has_etags=True,
        )
        for method in ("PATCH", "PUT")
    ),
    operation(delete_webhook, "DELETE /api/webhooks/{webhookId}", Permission.ADMINISTER, has_etags=True),
    operation(
        rotate_secret,
        "POST /api/webhooks/{webhookId}/rotate-secret",
        Permission.ADMINISTER,
        optional_body=True,
        has_etags=True,
    ),
)
