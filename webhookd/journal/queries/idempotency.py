"""Queries on the answers that are kept for Idempotency-Keys, each sealed for its caller and request.

On PostgreSQL a request that has begun names the process that works on it, so that every node knows whether it is under
way; on SQLite the one process knows that by itself.
"""

import json
from collections.abc import Mapping, Sequence

import msgspec
from peewee import Database, Query, Tuple

from webhookd.crypto.vault import Vault
from webhookd.journal.queries.dialect import EngineSQL
from webhookd.journal.queries.locks import hold_master_key, locking
from webhookd.journal.queries.schema import IdempotencyTable
from webhookd.journal.queries.sealing import erasing, resealed
from webhookd.journal.queries.structs import Rows
from webhookd.journal.rows import KeptAnswer

KEPT_SECONDS = 86_400.0
BEGUN = 0
"""The `status` of a request that has begun, and whose answer isn't kept, or not yet."""

_IS_RUNNING = EngineSQL(
    sqlite="FALSE",
    postgres=(
        "(status = 0 AND EXISTS (SELECT 1 FROM nodes "
        "WHERE split_part(nodes.id, '.', 1) = node AND nodes.expires_at > clock_timestamp()))"
    ),
).converter(bool)
_ROWS = Rows(KeptAnswer, IdempotencyTable, is_running=_IS_RUNNING)
_KEY = (IdempotencyTable.caller, IdempotencyTable.route, IdempotencyTable.key)
_COLUMNS = {column.name for column in IdempotencyTable._meta.sorted_fields}  # noqa: SLF001
_REST = (IdempotencyTable.body_hash, IdempotencyTable.status, IdempotencyTable.sealed, IdempotencyTable.created_at)


def find(database: Database, caller: str, route: str, key: str, now: float) -> KeptAnswer | None:
    """Return the answer kept for a key, or None if there is none younger than a day.

    A refusal counts as none, because it changed nothing; an earlier version kept refusals too.
    """
    query = _ROWS.select().where(
        (IdempotencyTable.caller == caller)
        & (IdempotencyTable.route == route)
        & (IdempotencyTable.key == key)
        & (IdempotencyTable.created_at > now - KEPT_SECONDS)
        & ((IdempotencyTable.status == BEGUN) | IdempotencyTable.status.between(200, 299))
    )
    return _ROWS.find(database, query)


def begin(database: Database, begun: KeptAnswer) -> None:
    """Store that a request has begun, in place of an older answer; `begun.status` is `BEGUN`."""
    _put([values_of(begun)]).execute(database)


def forget(database: Database, caller: str, route: str, key: str) -> None:
    """Delete a request's answer, so that the request is carried out when it is sent again."""
    IdempotencyTable.delete().where(Tuple(*_KEY) == (caller, route, key)).execute(database)


def keep(database: Database, vault: Vault, answer: KeptAnswer, plain: bytes) -> None:
    """Store an answer in place of an older one; `answer.sealed` becomes `plain` sealed.

    It is sealed here, in the order of the writes: after the master key has changed, nothing is stored that was sealed
    with the previous one.
    """
    hold_master_key(database, vault)
    sealed = vault.encrypt(plain, context=_context(answer))
    _put([values_of(answer) | {"sealed": sealed}]).execute(database)


def unseal(vault: Vault, answer: KeptAnswer) -> bytes:
    """Open a kept answer; raises MasterKeyError if it belongs to another request."""
    return vault.decrypt(answer.sealed, context=_context(answer))


def prune(database: Database, now: float) -> int:
    """Delete the answers that are older than a day; return how many there were."""
    query = IdempotencyTable.delete().where(IdempotencyTable.created_at <= now - KEPT_SECONDS)
    with erasing(database):
        count: int = query.execute(database)
    return count


def forget_all(database: Database) -> None:
    """Delete every answer."""
    with erasing(database):
        IdempotencyTable.delete().execute(database)


def reseal(
    database: Database, vault: Vault, after: tuple[str, str, str] | None, limit: int
) -> tuple[tuple[str, str, str] | None, int]:
    """Seal the next answers with the vault's key; return the place of the last one (None: all are done) and a count.

    One that doesn't open is left unchanged: no request gets it as an answer.
    """
    hold_master_key(database, vault)
    query = _ROWS.select().where(IdempotencyTable.status != BEGUN).order_by(*_KEY).limit(limit)
    if after is not None:
        query = query.where(Tuple(*_KEY) > after)
    answers = _ROWS.all(database, locking(database, query, IdempotencyTable))
    changed = [
        values_of(answer) | {"sealed": again}
        for answer in answers
        if (again := resealed(vault, answer.sealed, _context(answer))) is not None
    ]
    if changed:
        with erasing(database):
            _put(changed).execute(database)
    return (_place(answers[-1]) if len(answers) == limit else None), len(changed)


def _put(rows: Sequence[Mapping[str, object]]) -> Query:
    """Return the query that stores answers, each in place of the older one of its key."""
    return IdempotencyTable.insert_many(rows).on_conflict(conflict_target=_KEY, preserve=_REST)


def values_of(answer: KeptAnswer) -> dict[str, object]:
    """Return the columns of an answer."""
    return {name: value for name, value in msgspec.structs.asdict(answer).items() if name in _COLUMNS}


def _place(answer: KeptAnswer) -> tuple[str, str, str]:
    return answer.caller, answer.route, answer.key


def _context(answer: KeptAnswer) -> str:
    # As JSON, because each of them may contain any separator.
    bound: Sequence[object] = (*_place(answer), answer.body_hash.hex(), answer.status)
    return f"idempotency:sealed:{json.dumps(bound)}"
