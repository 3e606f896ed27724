"""Queries on endpoints: their settings, their sealed secrets and their state.

An endpoint that has been deleted keeps its row for the history of its deliveries; nothing here finds it but `by_pk`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET
from peewee import SQL, Database, ModelSelect, Query, fn

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import Credentials, DisabledReason, Endpoint, EndpointState, Ordering
from webhookd.base.secret import Secret
from webhookd.crypto.vault import Vault
from webhookd.journal import cursors
from webhookd.journal.queries import sealing
from webhookd.journal.queries.schema import (
    TO_BE_SENT_BY_STATUS,
    DeliveryTable,
    EndpointStateTable,
    EndpointTable,
    SequenceTable,
)
from webhookd.journal.rows import EndpointChanges, EndpointCondition, NewEndpoint, QueueFacts, RowPage, row_of

_LIST = "webhooks"
_CURRENT, _PREVIOUS, _ED25519, _HEADERS = sealing.CURRENT, sealing.PREVIOUS, sealing.ED25519, sealing.HEADERS

_COLUMNS = [getattr(EndpointTable, name) for name in Endpoint.__struct_fields__]
_STATE_COLUMNS = [getattr(EndpointStateTable, name) for name in EndpointState.__struct_fields__]

_JSON_COLUMNS = ("events", "metadata", "overrides", "signature", "header_names")
_pairs = msgspec.json.Decoder(tuple[tuple[str, str], ...])


def insert(database: Database, vault: Vault, new: NewEndpoint) -> Endpoint:
    """Register an endpoint with its secrets."""
    pk = EndpointTable.insert(
        {
            "id": new.id,
            "url": new.url,
            "events": _json(new.events),
            "description": new.description,
            "is_active": new.is_active,
            "disabled_reason": None if new.is_active else DisabledReason.MANUAL.value,
            "disabled_at": None if new.is_active else new.created_at,
            "organization_id": new.organization_id,
            "metadata": _json(new.metadata),
            "overrides": _json(new.overrides),
            "signature": _json(new.signature),
            "header_names": _json([name for name, _ in new.headers]),
            "secret_hint": new.secret_hint,
            "ed25519_public_key": new.ed25519_public_key,
            "created_at": new.created_at,
            "updated_at": new.created_at,
        }
    ).execute(database)
    EndpointStateTable.insert({"endpoint_pk": pk}).execute(database)
    SequenceTable.insert({"endpoint_pk": pk}).execute(database)
    sealing.seal(database, vault, pk, new.id, kind=_CURRENT, plain=new.secret)
    if new.ed25519_secret is not None:
        sealing.seal(database, vault, pk, new.id, kind=_ED25519, plain=new.ed25519_secret)
    if new.headers:
        sealing.seal(database, vault, pk, new.id, kind=_HEADERS, plain=_header_text(new.headers))
    return get(database, new.id)


def get(database: Database, endpoint_id: str, organization_id: str | None = None) -> Endpoint:
    """Return an endpoint; Rejected NOT_FOUND where there is none, or for another organization than the one given."""
    query = alive().where(EndpointTable.id == endpoint_id)
    if organization_id is not None:
        query = query.where(EndpointTable.organization_id == organization_id)
    for row in list(query.tuples().execute(database)):
        return from_row(row)
    raise Rejected(ErrorCode.NOT_FOUND, f"there is no webhook {endpoint_id}")


def by_pk(database: Database, pk: int) -> tuple[Endpoint, bool]:
    """Return an endpoint, and whether it has been deleted."""
    query = EndpointTable.select(*_COLUMNS, EndpointTable.deleted_at).where(EndpointTable.pk == pk)
    [(*row, deleted_at)] = query.tuples().execute(database)
    return from_row(row), deleted_at is not None


def all(database: Database) -> list[Endpoint]:  # noqa: A001 - reads as endpoints.all
    """Return every endpoint."""
    return [from_row(row) for row in alive().order_by(EndpointTable.pk).tuples().execute(database)]


def page(database: Database, organization_id: str | None, *, limit: int, cursor: str | None) -> RowPage[Endpoint]:
    """Return a page of the endpoints, newest first; of one organization where one is given."""
    query = alive().order_by(EndpointTable.pk.desc()).limit(limit + 1)
    if organization_id is not None:
        query = query.where(EndpointTable.organization_id == organization_id)
    if cursor is not None:
        (last,) = cursors.decode(cursor, _LIST, tuple[cursors.Number])
        query = query.where(EndpointTable.pk < last)
    found = [from_row(row) for row in query.tuples().execute(database)]
    return cursors.page(found, limit, _LIST, lambda row: [row.pk])


def update(
    database: Database,
    vault: Vault,
    endpoint_id: str,
    changes: EndpointChanges,
    now: float,
    *,
    condition: EndpointCondition | None = None,
) -> Endpoint:
    """Change what `changes` names; Rejected NOT_FOUND, or what `condition` raises of it as it is."""
    before = _changing(database, endpoint_id, condition)
    values: dict[str, object] = {"updated_at": _next_version(before, now)}
    for name in ("url", "description", "organization_id", "ed25519_public_key"):
        if (value := getattr(changes, name)) is not UNSET:
            values[name] = value
    for name in ("events", "metadata", "overrides", "signature"):
        if (value := getattr(changes, name)) is not UNSET:
            values[name] = _json(value)
    if changes.is_active is True:
        values |= {"is_active": True, "disabled_reason": None, "disabled_at": None}
    elif changes.is_active is False and before.is_active:
        values |= _switched_off(DisabledReason.MANUAL, now)
    if changes.headers is not UNSET:
        values["header_names"] = _json([name for name, _ in changes.headers])
        sealing.seal(database, vault, before.pk, before.id, kind=_HEADERS, plain=_header_text(changes.headers))
    if changes.ed25519_secret is not UNSET:
        sealing.seal(database, vault, before.pk, before.id, kind=_ED25519, plain=changes.ed25519_secret)
    EndpointTable.update(values).where(EndpointTable.pk == before.pk).execute(database)
    return get(database, endpoint_id)


def rotate(
    database: Database,
    vault: Vault,
    endpoint_id: str,
    secret: Secret[str],
    secret_hint: str,
    overlap_seconds: float,
    now: float,
    *,
    condition: EndpointCondition | None = None,
) -> Endpoint:
    """Make `secret` the current one; the one before signs beside it for the overlap. Rejected as by `update`."""
    before = _changing(database, endpoint_id, condition)
    expires_at = round(now + overlap_seconds, 3) if overlap_seconds > 0 else None
    if expires_at is None:
        sealing.remove(database, before.pk, _PREVIOUS)
    else:
        # Opened and sealed anew: a sealed value opens only in its own place.
        current = sealing.unseal(database, vault, before.pk, before.id)[_CURRENT]
        sealing.seal(database, vault, before.pk, before.id, kind=_PREVIOUS, plain=current)
    sealing.seal(database, vault, before.pk, before.id, kind=_CURRENT, plain=secret)
    EndpointTable.update(
        {
            "secret_hint": secret_hint,
            "previous_secret_expires_at": expires_at,
            "updated_at": _next_version(before, now),
        }
    ).where(EndpointTable.pk == before.pk).execute(database)
    return get(database, endpoint_id)


def delete(database: Database, endpoint_id: str, now: float, *, condition: EndpointCondition | None = None) -> Endpoint:
    """Delete an endpoint and its secrets; Rejected as by `update`. What it had queued is for `deliveries.cancel`."""
    endpoint = _changing(database, endpoint_id, condition)
    EndpointTable.update({"deleted_at": now, "updated_at": now}).where(EndpointTable.pk == endpoint.pk).execute(
        database
    )
    sealing.remove(database, endpoint.pk, _CURRENT, _PREVIOUS, _ED25519, _HEADERS)
    for table in (EndpointStateTable, SequenceTable):
        table.delete().where(table.endpoint_pk == endpoint.pk).execute(database)
    return endpoint


def about(endpoint: Endpoint) -> tuple[str, str | None]:
    """Return the name of an endpoint in the audit log, and its organization."""
    return endpoint.id, endpoint.organization_id


def disable(database: Database, pk: int, reason: DisabledReason, now: float) -> Endpoint:
    """Switch an endpoint off for a reason of the delivery's; one that is off already, or deleted, stays as it is."""
    version = _next_version(by_pk(database, pk)[0], now)
    EndpointTable.update(_switched_off(reason, now) | {"updated_at": version}).where(
        (EndpointTable.pk == pk) & EndpointTable.is_active & EndpointTable.deleted_at.is_null()
    ).execute(database)
    return by_pk(database, pk)[0]


def credentials(database: Database, vault: Vault, pk: int, now: float) -> Credentials | None:
    """Open the endpoint's secrets; None once it is deleted.

    Raises MasterKeyError for a value that doesn't open: the file was changed by someone without the key.
    """
    endpoint, is_deleted = by_pk(database, pk)
    if is_deleted:
        return None
    plain = sealing.unseal(database, vault, pk, endpoint.id)
    expires_at = endpoint.previous_secret_expires_at
    overlaps = expires_at is not None and now < expires_at
    headers = _pairs.decode(plain[_HEADERS].reveal()) if _HEADERS in plain else ()
    return Credentials(
        secret=plain[_CURRENT],
        previous_secret=plain.get(_PREVIOUS) if overlaps else None,
        previous_expires_at=expires_at if overlaps else None,
        ed25519_secret=plain.get(_ED25519),
        headers=tuple((name, Secret(value)) for name, value in headers),
    )


def state(database: Database, pk: int) -> EndpointState:
    """Return what an endpoint's past means for its next request; a clean one for a deleted endpoint."""
    query = EndpointStateTable.select(*_STATE_COLUMNS).where(EndpointStateTable.endpoint_pk == pk)
    for row in list(query.tuples().execute(database)):
        return row_of(EndpointState, row)
    return EndpointState()


def set_state(database: Database, pk: int, changed: EndpointState) -> None:
    """Store what an endpoint's past means from now on."""
    EndpointStateTable.update(msgspec.structs.asdict(changed) | {"breaker": changed.breaker.value}).where(
        EndpointStateTable.endpoint_pk == pk
    ).execute(database)


def end_backoffs(database: Database, pk: int, due_at: float) -> None:
    """End the back-off of whatever the endpoint has queued: it is due then at the latest."""
    for chosen in TO_BE_SENT_BY_STATUS:
        DeliveryTable.update({"next_attempt_at": due_at, "backoff_step": 0}).where(
            (DeliveryTable.endpoint_pk == pk) & chosen & (DeliveryTable.next_attempt_at > due_at)
        ).execute(database)


def health_facts(database: Database, orderings: Mapping[int, Ordering]) -> dict[int, tuple[EndpointState, QueueFacts]]:
    """Return what the journal knows of the health of endpoints, by row number."""
    return {pk: (state(database, pk), _queue_facts(database, pk, ordering)) for pk, ordering in orderings.items()}


def _queue_facts(database: Database, pk: int, ordering: Ordering) -> QueueFacts:
    own = DeliveryTable.endpoint_pk == pk
    pending, parked = (DeliveryTable.select().where(own & chosen) for chosen in TO_BE_SENT_BY_STATUS)
    head = list(
        pending.select(DeliveryTable.created_at, DeliveryTable.next_attempt_at)
        .order_by(DeliveryTable.sequence)
        .limit(1)
        .tuples()
        .execute(database)
    )
    parked_count, parked_at = _one(parked.select(fn.COUNT(SQL("*")), fn.MIN(DeliveryTable.next_attempt_at)), database)
    if not head:
        return QueueFacts(queued=0, parked=parked_count, oldest_pending_at=None, next_attempt_at=parked_at)
    [(oldest_pending_at, due_at)] = head
    if ordering is not Ordering.STRICT:
        (due_at,) = _one(pending.select(fn.MIN(DeliveryTable.next_attempt_at)), database)
    return QueueFacts(
        queued=_one(pending.select(fn.COUNT(SQL("*"))), database)[0],
        parked=parked_count,
        oldest_pending_at=oldest_pending_at,
        next_attempt_at=due_at if parked_at is None else min(due_at, parked_at),
    )


def _one(query: Query, database: Database) -> tuple[Any, ...]:
    [row] = query.tuples().execute(database)
    return tuple(row)


def alive() -> "ModelSelect[EndpointTable]":
    """Return the query for every endpoint; what follows it is the caller's."""
    return EndpointTable.select(*_COLUMNS).where(EndpointTable.deleted_at.is_null())


def from_row(row: Sequence[Any]) -> Endpoint:
    """Return a row of `alive` as an endpoint."""
    values = dict(zip(Endpoint.__struct_fields__, row, strict=True))
    decoded = {name: msgspec.json.decode(values[name]) for name in _JSON_COLUMNS}
    return row_of(Endpoint, row, **decoded, is_active=bool(values["is_active"]))


def _changing(database: Database, endpoint_id: str, condition: EndpointCondition | None) -> Endpoint:
    before = get(database, endpoint_id)
    if condition is not None:
        condition(before)
    return before


def _next_version(before: Endpoint, now: float) -> float:
    """Return when an endpoint is changed: later than it was before, so that `updated_at` tells two versions apart."""
    return max(now, round(before.updated_at + 0.001, 3))


def _switched_off(reason: DisabledReason, now: float) -> dict[str, object]:
    return {"is_active": False, "disabled_reason": reason.value, "disabled_at": now}


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _header_text(headers: Sequence[tuple[str, Secret[str]]]) -> Secret[str]:
    return Secret(_json([(name, value.reveal()) for name, value in headers]))
