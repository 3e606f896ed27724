"""Which process carries out a request with an Idempotency-Key: the one that stores first that it has begun it.

The row names the process, so that every node knows whether the request is under way (`KeptAnswer.is_running`).
"""

from peewee import Database

from webhookd.journal.queries import idempotency
from webhookd.journal.queries.dialect import statements
from webhookd.journal.rows import KeptAnswer

_CLAIM = """
INSERT INTO idempotency (caller, route, key, body_hash, status, sealed, created_at, node)
VALUES (:caller, :route, :key, :body_hash, :status, :sealed, :created_at, :node)
ON CONFLICT (caller, route, key) DO UPDATE SET body_hash = excluded.body_hash, status = excluded.status,
    sealed = excluded.sealed, created_at = excluded.created_at, node = excluded.node
WHERE idempotency.created_at <= :old_at OR NOT (idempotency.status = 0 OR idempotency.status BETWEEN 200 AND 299)
RETURNING 1
"""
_GIVE_UP = "UPDATE idempotency SET node = NULL WHERE caller = ? AND route = ? AND key = ?"


def claim(database: Database, begun: KeptAnswer, process: str) -> KeptAnswer | None:
    """Store that a process has begun a request, unless a request with its key was begun before.

    Return that one then. It waits for another process that claims the same key at the same time.
    """
    values = idempotency.values_of(begun) | {"node": process, "old_at": begun.created_at - idempotency.KEPT_SECONDS}
    while not list(statements(database).execute(_CLAIM, values)):
        if (found := idempotency.find(database, begun.caller, begun.route, begun.key, begun.created_at)) is not None:
            return found
    return None


def give_up(database: Database, caller: str, route: str, key: str) -> None:
    """Note that no process works on a request any more; its result is unknown."""
    statements(database).execute(_GIVE_UP, (caller, route, key))
