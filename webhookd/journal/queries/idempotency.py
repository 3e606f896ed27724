"""Queries on the answers that are kept for Idempotency-Keys: each sealed, and bound to whom and what it answers."""

import json
from collections.abc import Sequence

import msgspec
from peewee import Database, Tuple

from webhookd.crypto.vault import Vault
from webhookd.journal.queries.schema import IdempotencyTable
from webhookd.journal.queries.sealing import erasing, resealed
from webhookd.journal.rows import KeptAnswer, row_of

KEPT_SECONDS = 86_400.0
BEGUN = 0
"""In the place of a status: the request was begun, and what was answered isn't kept, or not yet."""

_COLUMNS = [getattr(IdempotencyTable, name) for name in KeptAnswer.__struct_fields__]
_KEY = (IdempotencyTable.caller, IdempotencyTable.route, IdempotencyTable.key)


def find(database: Database, caller: str, route: str, key: str, now: float) -> KeptAnswer | None:
    """Return the answer kept for a key, None where there is none younger than a day.

    A refusal counts as none: it changed nothing. An earlier version kept them too.
    """
    query = IdempotencyTable.select(*_COLUMNS).where(
        (IdempotencyTable.caller == caller)
        & (IdempotencyTable.route == route)
        & (IdempotencyTable.key == key)
        & (IdempotencyTable.created_at > now - KEPT_SECONDS)
        & ((IdempotencyTable.status == BEGUN) | IdempotencyTable.status.between(200, 299))
    )
    for row in list(query.tuples().execute(database)):
        return row_of(KeptAnswer, row)
    return None


def begin(database: Database, begun: KeptAnswer) -> None:
    """Note that a request is begun, in place of an older answer; `begun.status` is `BEGUN`."""
    IdempotencyTable.replace(msgspec.structs.asdict(begun)).execute(database)


def forget(database: Database, caller: str, route: str, key: str) -> None:
    """Forget a request, so that it is done when it is sent again."""
    IdempotencyTable.delete().where(Tuple(*_KEY) == (caller, route, key)).execute(database)


def keep(database: Database, vault: Vault, answer: KeptAnswer, plain: bytes) -> None:
    """Keep an answer, in place of an older one; `plain` is what `answer.sealed` becomes.

    It is sealed here, where every write has its turn: after a change of the master key nothing comes in that was
    sealed with the key of before.
    """
    sealed = vault.encrypt(plain, context=_context(answer))
    IdempotencyTable.replace(msgspec.structs.asdict(answer) | {"sealed": sealed}).execute(database)


def unseal(vault: Vault, answer: KeptAnswer) -> bytes:
    """Open a kept answer; MasterKeyError where it was made for another request."""
    return vault.decrypt(answer.sealed, context=_context(answer))


def prune(database: Database, now: float) -> int:
    """Forget the answers that are older than a day; return how many there were."""
    query = IdempotencyTable.delete().where(IdempotencyTable.created_at <= now - KEPT_SECONDS)
    with erasing(database):
        count: int = query.execute(database)
    return count


def forget_all(database: Database) -> None:
    """Forget every answer."""
    with erasing(database):
        IdempotencyTable.delete().execute(database)


def reseal(
    database: Database, vault: Vault, after: tuple[str, str, str] | None, limit: int
) -> tuple[tuple[str, str, str] | None, int]:
    """Seal the next answers under the vault's key; return the place of the last one (None: that was all) and a count.

    One that doesn't open stays as it is: it answers nobody.
    """
    query = IdempotencyTable.select(*_COLUMNS).where(IdempotencyTable.status != BEGUN).order_by(*_KEY).limit(limit)
    if after is not None:
        query = query.where(Tuple(*_KEY) > after)
    answers = [row_of(KeptAnswer, row) for row in query.tuples().execute(database)]
    changed = [
        msgspec.structs.asdict(answer) | {"sealed": again}
        for answer in answers
        if (again := resealed(vault, answer.sealed, _context(answer))) is not None
    ]
    if changed:
        with erasing(database):
            IdempotencyTable.replace_many(changed).execute(database)
    return (_place(answers[-1]) if len(answers) == limit else None), len(changed)


def _place(answer: KeptAnswer) -> tuple[str, str, str]:
    return answer.caller, answer.route, answer.key


def _context(answer: KeptAnswer) -> str:
    # As JSON, since any of them may hold whatever separates them.
    bound: Sequence[object] = (*_place(answer), answer.body_hash.hex(), answer.status)
    return f"idempotency:sealed:{json.dumps(bound)}"
