"""The plans of the hot queries on PostgreSQL: each reads its own rows, along the partial indexes, in its own day."""

import re
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from peewee import Database

from tests.journal.engines import postgres_database
from tests.journal.harness import VAULT
from tests.journal.test_both_engines import new_webhook
from tests.journal.test_schema import texts_in
from tests.postgres_server import PostgresServer
from webhookd.journal.queries import endpoints, events, expiry, partitioned, windows
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
INSERT INTO events (id, type, timestamp, accepted_at, deliveries, body_bytes)
SELECT 'evt_' || n, 'user.created', n, n, 1, 0 FROM generate_series(1, 20000) AS n
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
MANY_DAYS = 90
BODIES = """
INSERT INTO bodies SELECT n, 86400 * mod(n, 90) + 1, CAST(repeat('x', 500) AS bytea) FROM generate_series(1, 18000) AS n
"""
ATTEMPTS = """
INSERT INTO attempts (delivery_pk, number, id, trigger, started_at, duration_seconds, response_headers, response_body,
    truncated, detail, created_at, xid)
SELECT event_pk, 1, 'att_' || event_pk, 'auto', accepted_at, 0, '[]', body, false, '', accepted_at,
    CAST(CAST(event_pk / 20 AS text) AS xid8)
FROM bodies
"""
ATTEMPTED = """
INSERT INTO deliveries (id, endpoint_pk, event_pk, event_type, sequence, status, trigger, attempts, refusals,
    backoff_step, created_at, expires_at)
SELECT 'dlv_' || n, 1, n, 'user.created', n, 'succeeded', 'auto', 1, 0, 0, n, n FROM generate_series(1, 18000) AS n
"""
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


@pytest.fixture(scope="module")
def many_days(postgres_server: PostgresServer, journal_template: str) -> Iterator[Database]:
    """Three months of bodies and attempts."""
    from tests.journal.postgres.connections import connected, rows  # noqa: PLC0415 - the driver isn't always installed
    from webhookd.journal.postgres.partitions import make_days  # noqa: PLC0415 - as above

    with postgres_server.database(journal_template) as name, connected(postgres_server.url(name)) as database:
        rows(database, "SET statement_timeout = 0")
        make_days(database, range(MANY_DAYS))
        endpoints.insert(database, VAULT, new_webhook(1))
        for sql in (BODIES, ATTEMPTS, ATTEMPTED, EVENTS, "VACUUM ANALYZE"):
            rows(database, sql)
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


SCANNED = """
SELECT relname, idx_scan, seq_scan FROM pg_stat_xact_user_tables WHERE starts_with(relname, ?) ORDER BY relname
"""


def scanned(database: Database, table: str, query: Callable[[], object]) -> list[tuple[str, bool, bool]]:
    """Return the partitions of a table that a query has read: the name, and whether by index and whether as a whole.

    It runs often enough for the driver to prepare its statements, and for PostgreSQL to plan them for any value.
    """
    with database.atomic():
        # The counts of earlier transactions may be among them: PostgreSQL passes those on once a second at most.
        before = list(statements(database).execute(SCANNED, (f"{table}_",)))
        for _ in range(20):
            query()
        after = list(statements(database).execute(SCANNED, (f"{table}_",)))
    scans = [
        (name, by_index > by_index_before, as_a_whole > as_a_whole_before)
        for (name, by_index, as_a_whole), (_, by_index_before, as_a_whole_before) in zip(after, before, strict=True)
    ]
    return [each for each in scans if any(each[1:])]


def test_bodies_are_read_in_the_days_of_their_events(many_days: Database) -> None:
    """Of 90 partitions those of the events' own days are read, by index."""
    wanted = {91: 86401.0, 181: 86401.0, 2: 172801.0}
    assert set(partitioned.bodies(many_days, wanted)) == {91, 181, 2}
    assert scanned(many_days, "bodies", partial(partitioned.bodies, many_days, wanted)) == [
        ("bodies_19700102", True, False),
        ("bodies_19700103", True, False),
    ]


def test_attempts_are_read_in_the_day_of_their_delivery(many_days: Database) -> None:
    """Of 90 partitions one is read for the attempts of a delivery, by index."""
    asked = partial(partitioned.attempts, many_days, 91, 86401.0, before=None, limit=100)
    assert [attempt.id for attempt in asked()] == ["att_91"]
    assert scanned(many_days, "attempts", asked) == [("attempts_19700102", True, False)]


def test_the_last_attempts_are_read_from_the_end_of_each_day(many_days: Database) -> None:
    """They may be in any partition: of each one the last rows are read, by index; after the last one nothing is."""
    from webhookd.journal.postgres import recent_attempts  # noqa: PLC0415 - the driver isn't always installed

    fetched = (
        "SELECT sum(idx_tup_fetch + seq_tup_read) FROM pg_stat_xact_user_tables WHERE starts_with(relname, 'attempts_')"
    )
    with many_days.atomic():
        [[before]] = statements(many_days).execute(fetched)
        page = recent_attempts.after(many_days, None)
        [[after]] = statements(many_days).execute(fetched)
        assert [attempt.id for _, attempt in page.attempts] == [f"att_{number}" for number in range(17_001, 18_001)]
        assert after - before < 5000
        assert recent_attempts.after(many_days, page.last).attempts == []
        [[at_end]] = statements(many_days).execute(fetched)
        assert at_end - after < 30
