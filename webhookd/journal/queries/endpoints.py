"""Queries on endpoints: their settings, their sealed secrets and their delivery state.

A deleted endpoint keeps its row for the history of its deliveries; of the functions here only `by_pk` finds it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct
from peewee import SQL, Database, Expression, ModelSelect, Query, fn

from webhookd.base.models import Credentials, DisabledReason, Endpoint, EndpointState, Ordering
from webhookd.base.secret import Secret
from webhookd.crypto.vault import Vault
from webhookd.journal.known_settings import unknown_part, with_unknown
from webhookd.journal.queries import sealing
from webhookd.journal.queries.locks import lock
from webhookd.journal.queries.schema import (
    BACKING_OFF_BY_TIME,
    LINE_PARTS,
    PARKED,
    PENDING,
    UNFINISHED,
    DeliveryTable,
    EndpointStateTable,
    EndpointTable,
    SequenceTable,
    count_edition,
)
from webhookd.journal.queries.structs import Rows, narrowed
from webhookd.journal.rows import EndpointChanges, EndpointCondition, NewEndpoint, QueueFacts, RowPage

_CURRENT, _PREVIOUS, _ED25519, _HEADERS = sealing.CURRENT, sealing.PREVIOUS, sealing.ED25519, sealing.HEADERS

ROWS = Rows(Endpoint, EndpointTable)
_STATES = Rows(EndpointState, EndpointStateTable)
_GIVEN = set(NewEndpoint.__struct_fields__) & set(Endpoint.__struct_fields__)
_CHANGED = set(EndpointChanges.__struct_fields__) & set(Endpoint.__struct_fields__) - {"is_active"}
_DOCUMENTS = {"overrides", "signature"}
_pairs = msgspec.json.Decoder(tuple[tuple[str, str], ...])


def insert(database: Database, vault: Vault, new: NewEndpoint) -> Endpoint:
    """Register an endpoint with its secrets."""
    values = {name: getattr(new, name) for name in _GIVEN} | {"updated_at": new.created_at}
    values["header_names"] = [name for name, _ in new.headers]
    if not new.is_active:
        values |= _disabled(DisabledReason.MANUAL, new.created_at)
    pk = EndpointTable.insert(values).execute(database)
    EndpointStateTable.insert(msgspec.structs.asdict(EndpointState()) | {"endpoint_pk": pk}).execute(database)
    SequenceTable.insert({"endpoint_pk": pk}).execute(database)
    sealing.seal(database, vault, pk, new.id, kind=_CURRENT, plain=new.secret)
    if new.ed25519_secret is not None:
        sealing.seal(database, vault, pk, new.id, kind=_ED25519, plain=new.ed25519_secret)
    if new.headers:
        sealing.seal(database, vault, pk, new.id, kind=_HEADERS, plain=_header_text(new.headers))
    return get(database, new.id)


def get(database: Database, endpoint_id: str, organization_id: str | None = None) -> Endpoint:
    """Return an endpoint; raises Rejected NOT_FOUND, also for another organization's endpoint if one is given."""
    query = narrowed(alive(), (EndpointTable.id, endpoint_id), (EndpointTable.organization_id, organization_id))
    return ROWS.get(database, query, f"there is no webhook {endpoint_id}")


def changing(database: Database, endpoint_id: str, condition: EndpointCondition | None = None) -> Endpoint:
    """Return an endpoint before a change of it, which no other change overlaps.

    Raises Rejected NOT_FOUND, or what `condition` raises.
    """
    lock(database, EndpointTable.id == endpoint_id, EndpointTable.pk)
    before = get(database, endpoint_id)
    if condition is not None:
        condition(before)
    return before


def by_pk(database: Database, pk: int) -> tuple[Endpoint, bool]:
    """Return an endpoint by its row number, and whether it has been deleted."""
    query = EndpointTable.select(*ROWS.columns, EndpointTable.deleted_at).where(EndpointTable.pk == pk)
    [row] = query.dicts().execute(database)
    return ROWS.convert(row), row["deleted_at"] is not None


def all(database: Database) -> list[Endpoint]:  # noqa: A001 - reads as endpoints.all
    """Return every endpoint."""
    return ROWS.all(database, alive().order_by(EndpointTable.pk))


def page(database: Database, organization_id: str | None, *, limit: int, cursor: str | None) -> RowPage[Endpoint]:
    """Return a page of the endpoints, newest first; of one organization if it is given.

    Raises Rejected INVALID_CURSOR.
    """
    query = narrowed(alive(), (EndpointTable.organization_id, organization_id))
    pk = EndpointTable.pk
    return ROWS.page(database, query, pk, limit=limit, list_name="webhooks", cursor=cursor, descending=True)


def update(
    database: Database,
    vault: Vault,
    endpoint_id: str,
    changes: EndpointChanges,
    now: float,
    *,
    condition: EndpointCondition | None = None,
) -> Endpoint:
    """Change the settings that `changes` gives; raises Rejected NOT_FOUND, or what `condition` raises."""
    before = changing(database, endpoint_id, condition)
    values: dict[str, object] = {"updated_at": _next_version(before, now)}
    values |= {name: value for name in _CHANGED if (value := getattr(changes, name)) is not UNSET}
    if changes.is_active is True:
        values |= {"is_active": True, "disabled_reason": None, "disabled_at": None}
    elif changes.is_active is False and before.is_active:
        values |= _disabled(DisabledReason.MANUAL, now)
    for name in _DOCUMENTS & values.keys():
        values[name] = _with_unknown(database, before.pk, name, values[name])
    if changes.ed25519_secret is not UNSET:
        sealing.seal(database, vault, before.pk, before.id, kind=_ED25519, plain=changes.ed25519_secret)
    if changes.headers is not UNSET:
        values["header_names"] = [name for name, _ in changes.headers]
        sealing.seal(database, vault, before.pk, before.id, kind=_HEADERS, plain=_header_text(changes.headers))
    EndpointTable.update(values).where(EndpointTable.pk == before.pk).execute(database)
    return get(database, endpoint_id)


def _with_unknown(database: Database, pk: int, name: str, value: object) -> object:
    """Return the new value of a column with what a newer version has stored in it: another node may need it."""
    assert isinstance(value, Struct)  # noqa: S101 - a column of `_DOCUMENTS`
    query = EndpointTable.select(getattr(EndpointTable, name)).where(EndpointTable.pk == pk)
    [[stored]] = query.tuples().execute(database)
    if not (unknown := unknown_part(type(value), stored)):
        return value
    return with_unknown(value, unknown)


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
    """Make `secret` the current one; the previous one signs too during the overlap. Raises what `update` raises."""
    before = changing(database, endpoint_id, condition)
    expires_at = round(now + overlap_seconds, 3) if overlap_seconds > 0 else None
    if expires_at is None:
        sealing.seal(database, vault, before.pk, before.id, kind=_CURRENT, plain=secret)
        sealing.remove(database, before.pk, _PREVIOUS)
    else:
        # Opened and sealed again: a sealed value is bound to its kind.
        current = sealing.unseal(database, vault, before.pk, before.id)[_CURRENT]
        sealing.seal(database, vault, before.pk, before.id, kind=_CURRENT, plain=secret)
        sealing.seal(database, vault, before.pk, before.id, kind=_PREVIOUS, plain=current)
    EndpointTable.update(
        {
            "secret_hint": secret_hint,
            "previous_secret_expires_at": expires_at,
            "updated_at": _next_version(before, now),
        }
    ).where(EndpointTable.pk == before.pk).execute(database)
    return get(database, endpoint_id)


def delete(database: Database, endpoint_id: str, now: float, *, condition: EndpointCondition | None = None) -> Endpoint:
    """Delete an endpoint and its secrets, but not its queue (see `deliveries.cancel`). Raises what `update` raises."""
    endpoint = changing(database, endpoint_id, condition)
    EndpointTable.update({"deleted_at": now, "updated_at": now}).where(EndpointTable.pk == endpoint.pk).execute(
        database
    )
    sealing.remove(database, endpoint.pk, _CURRENT, _PREVIOUS, _ED25519, _HEADERS)
    for table in (EndpointStateTable, SequenceTable):
        table.delete().where(table.endpoint_pk == endpoint.pk).execute(database)
    return endpoint


def about(endpoint: Endpoint) -> tuple[str, str | None]:
    """Return the object that the audit log names for an endpoint, and its organization."""
    return endpoint.id, endpoint.organization_id


def disable(database: Database, pk: int, reason: DisabledReason, now: float, *, forgiven: int) -> Endpoint:
    """Disable an endpoint because of its responses; one that is disabled or deleted already is not changed.

    Nor is one that was changed by hand since: `forgiven` is the number of such changes that are known.
    """
    lock(database, EndpointTable.pk == pk, EndpointTable.pk)
    if state(database, pk).forgiven != forgiven:
        return by_pk(database, pk)[0]
    version = _next_version(by_pk(database, pk)[0], now)
    EndpointTable.update(_disabled(reason, now) | {"updated_at": version}).where(
        (EndpointTable.pk == pk) & EndpointTable.is_active & EndpointTable.deleted_at.is_null()
    ).execute(database)
    return by_pk(database, pk)[0]


def credentials(database: Database, vault: Vault, pk: int, now: float) -> Credentials | None:
    """Open an endpoint's secrets; None if it has been deleted.

    Raises MasterKeyError for a value that doesn't open: the file was changed without the key.
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
    """Return an endpoint's delivery state; the initial one for a deleted endpoint."""
    query = _STATES.select().where(EndpointStateTable.endpoint_pk == pk)
    return _STATES.find(database, query) or EndpointState()


def changing_state(database: Database, pk: int) -> EndpointState:
    """Return an endpoint's delivery state before a change of it, which no other change overlaps."""
    lock(database, EndpointStateTable.endpoint_pk == pk, EndpointStateTable.endpoint_pk)
    return state(database, pk)


def set_state(database: Database, pk: int, changed: EndpointState) -> None:
    """Store an endpoint's delivery state."""
    query = EndpointStateTable.update(msgspec.structs.asdict(changed))
    query.where(EndpointStateTable.endpoint_pk == pk).execute(database)


def end_backoffs(database: Database, pk: int, due_at: float) -> None:
    """End the back-off of all that an endpoint has queued: it becomes due at `due_at` at the latest."""
    count_edition(database, pk)
    later = (DeliveryTable.endpoint_pk == pk) & (DeliveryTable.next_attempt_at > due_at)
    lock(database, later & UNFINISHED, DeliveryTable.pk)
    for chosen in (BACKING_OFF_BY_TIME, PARKED):
        DeliveryTable.update({"next_attempt_at": due_at, "backoff_step": 0}).where(later & chosen).execute(database)


def health_facts(database: Database, orderings: Mapping[int, Ordering]) -> dict[int, tuple[EndpointState, QueueFacts]]:
    """Return the delivery states and queue facts of endpoints, by row number."""
    return {pk: (state(database, pk), _queue_facts(database, pk, ordering)) for pk, ordering in orderings.items()}


def _queue_facts(database: Database, pk: int, ordering: Ordering) -> QueueFacts:
    own = DeliveryTable.endpoint_pk == pk
    pending, parked, backing_off = (
        DeliveryTable.select().where(own & chosen) for chosen in (PENDING, PARKED, BACKING_OFF_BY_TIME)
    )
    parked_count, parked_at = _one(parked.select(fn.COUNT(SQL("*")), fn.MIN(DeliveryTable.next_attempt_at)), database)
    (queued,) = _one(pending.select(fn.COUNT(SQL("*"))), database)
    if not queued:
        return QueueFacts(queued=0, parked=parked_count, oldest_pending_at=None, next_attempt_at=parked_at)
    heads = [head for part in LINE_PARTS for head in _head(database, own & part)]
    _, oldest_pending_at, due_at = min(heads)
    if ordering is not Ordering.STRICT:
        (first_at,) = _one(backing_off.select(fn.MIN(DeliveryTable.next_attempt_at)), database)
        due_at = min(at for at in (*(due_at for _, _, due_at in heads), first_at) if at is not None)
    return QueueFacts(
        queued=queued,
        parked=parked_count,
        oldest_pending_at=oldest_pending_at,
        next_attempt_at=due_at if parked_at is None else min(due_at, parked_at),
    )


def _head(database: Database, chosen: Expression) -> list[tuple[int, float, float]]:
    """Return sequence, time of creation and due time of the first delivery of a queue, if there is one."""
    query = DeliveryTable.select(DeliveryTable.sequence, DeliveryTable.created_at, DeliveryTable.next_attempt_at)
    return list(query.where(chosen).order_by(DeliveryTable.sequence).limit(1).tuples().execute(database))


def _one(query: Query, database: Database) -> tuple[Any, ...]:
    [row] = query.tuples().execute(database)
    return tuple(row)


def alive() -> "ModelSelect[EndpointTable]":
    """Return the query for every endpoint that isn't deleted, to be narrowed down."""
    return EndpointTable.select(*ROWS.columns).where(EndpointTable.deleted_at.is_null())


def _next_version(before: Endpoint, now: float) -> float:
    """Return the `updated_at` of a change: later than the previous one, so that it tells two versions apart."""
    return max(now, round(before.updated_at + 0.001, 3))


def _disabled(reason: DisabledReason, now: float) -> dict[str, object]:
    return {"is_active": False, "disabled_reason": reason, "disabled_at": now}


def _header_text(headers: Sequence[tuple[str, Secret[str]]]) -> Secret[str]:
    return Secret(msgspec.json.encode([(name, value.reveal()) for name, value in headers]).decode())
