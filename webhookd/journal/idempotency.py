"""Queries on the answers that are kept for Idempotency-Keys."""

import msgspec
from peewee import Database

from webhookd.journal.rows import KeptAnswer, row_of
from webhookd.journal.schema import IdempotencyTable

KEPT_SECONDS = 86_400.0

_COLUMNS = [getattr(IdempotencyTable, name) for name in KeptAnswer.__struct_fields__]


def find(database: Database, caller: str, route: str, key: str, now: float) -> KeptAnswer | None:
    """Return the answer kept for a key, None where there is none younger than a day."""
    query = IdempotencyTable.select(*_COLUMNS).where(
        (IdempotencyTable.caller == caller)
        & (IdempotencyTable.route == route)
        & (IdempotencyTable.key == key)
        & (IdempotencyTable.created_at > now - KEPT_SECONDS)
    )
    for row in list(query.tuples().execute(database)):
        return row_of(KeptAnswer, row)
    return None


def keep(database: Database, answer: KeptAnswer) -> None:
    """Keep an answer, in place of an older one."""
    IdempotencyTable.replace(msgspec.structs.asdict(answer)).execute(database)


def prune(database: Database, now: float) -> int:
    """Forget the answers that are older than a day; return how many there were."""
    count: int = IdempotencyTable.delete().where(IdempotencyTable.created_at <= now - KEPT_SECONDS).execute(database)
    return count
