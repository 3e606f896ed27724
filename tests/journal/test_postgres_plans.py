"""The plans of the hot queries on PostgreSQL: each reads its own rows, along the partial indexes."""

import re
from collections.abc import Iterator

import pytest
from peewee import Database

from tests.journal.engines import postgres_database
from tests.journal.harness import VAULT
from tests.journal.test_both_engines import new_webhook
from tests.journal.test_schema import texts_in
from tests.postgres_server import PostgresServer
from webhookd.journal.queries import endpoints, events, expiry, windows
from webhookd.journal.queries.dialect import EngineSQL, statements

# Half of what the first webhook has queued backs off.
QUEUES = """
INSERT INTO deliveries (id, endpoint_pk, event_pk, event_type, ordering_key, sequence, status, trigger, attempts,
    refusals, backoff_step, next_attempt_at, created_at, expires_at)
SELECT 'dlv_' || n, n % 2 + 1, n, 'user.created', CASE n % 3 WHEN 0 THEN 'k' || n % 50 END, n,
    CASE WHEN n % 4 < 2 OR n % 16 = 2 THEN 'pending' WHEN n % 16 < 8 THEN 'parked' ELSE 'succeeded' END,
    CASE n % 500 WHEN 0 THEN 'manual' ELSE 'auto' END, 0, 0, n % 16 / 8, n, n, n + 100
FROM generate_series(1, 20000) AS n
"""
EVENTS = """
INSERT INTO events (id, type, timestamp, accepted_at, deliveries, body)
SELECT 'evt_' || n, 'user.created', n, n, 1, '' FROM generate_series(1, 20000) AS n
"""
VALUES = {
    "endpoint_pk": 1,
    "now": 5000.0,
    "fresh": 100,
    "backing_off": 100,
    "due_at": 100.0,
    "after": 5000.0,
    "later_than": 5000.0,
    "limit": 50,
    "blocked_keys": ["k3", "k6"],
    "event_pks": [1, 2, 3],
    "expires_at": 10.0,
    "pk": 0,
}
WASTEFUL = re.compile(r"\s*(-> +)?(Sort|Seq Scan on (deliveries|events)\b.*)")


@pytest.fixture(scope="module")
def queues(postgres_server: PostgresServer, journal_template: str) -> Iterator[Database]:
    """Two webhooks with long queues, which the planner knows about."""
    with postgres_server.database(journal_template) as name, postgres_database(postgres_server.url(name)) as database:
        for number in (1, 2):
            endpoints.insert(database, VAULT, new_webhook(number))
        for sql in (QUEUES, EVENTS, "VACUUM ANALYZE"):
            statements(database).execute(sql)
        yield database


def plan_of(database: Database, sql: EngineSQL) -> list[str]:
    """Return the lines of a statement's plan."""
    return [line for (line,) in statements(database).execute(f"EXPLAIN (COSTS OFF) {sql.postgres}", VALUES)]


def wasteful(plan: list[str]) -> list[str]:
    """Return the steps that sort, or read a whole table that may be long."""
    return [line for line in plan if WASTEFUL.fullmatch(line)]


def test_a_window_reads_the_first_rows_of_its_queue(queues: Database) -> None:
    """No statement of a window sorts a queue or reads all of it, and none filters by what an index has."""
    found = [sql for name, value in vars(windows).items() if name.startswith("_") for sql in texts_in(value)]
    assert len(found) == 10
    for sql in found:
        plan = plan_of(queues, sql)
        assert not wasteful(plan), (sql.postgres, plan)
        assert not [line for line in plan if "Filter" in line and "backoff_step" in line], (sql.postgres, plan)


@pytest.mark.parametrize("sql", [expiry.EXPIRED, expiry.NEXT, events.MESSAGES], ids=["expired", "next", "messages"])
def test_what_all_windows_share_is_read_by_index(queues: Database, sql: EngineSQL) -> None:
    """What has expired, the next expiry and the bodies cost their own rows."""
    plan = plan_of(queues, sql)
    assert not wasteful(plan), plan
    assert any("Index" in line for line in plan)


def test_a_waste_would_be_seen(queues: Database) -> None:
    """A plan that sorts a queue is recognized, so that the tests above can fail."""
    sql = (
        "SELECT pk FROM deliveries WHERE status = 'pending' AND (backoff_step > 0) = FALSE ORDER BY attempts, sequence"
    )
    assert wasteful(plan_of(queues, EngineSQL(sqlite=sql, postgres=sql)))
