"""The tables: DDL against models, query plans of the hot queries, and what retention deletes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from peewee import Database, Model

from tests.journal.harness import CLOCK, add_endpoint, event, publish, running
from tests.journal.store_calls import record
from webhookd.base.errors import Rejected
from webhookd.base.models import DeliveryStatus, EndpointState, Ordering
from webhookd.delivery.policy.clock_correction import Bounds, correct
from webhookd.journal import Store, cursors
from webhookd.journal.queries import (
    audit,
    clock_steps,
    deliveries,
    endpoints,
    event_types,
    events,
    keys,
    quotas,
    schema,
    windows,
)
from webhookd.journal.queries.dialect import EngineSQL, SqlConnection
from webhookd.journal.queries.retention import give_back_pages, next_rows, prune

TABLES = [
    kind for kind in vars(schema).values() if isinstance(kind, type) and issubclass(kind, Model) and kind is not Model
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def columns(database: Database, table: str) -> dict[str, tuple[str, bool]]:
    rows: Any = database.execute_sql(f"PRAGMA table_info({table})")  # type: ignore[no-untyped-call]  # peewee's stub
    return {name: (kind, bool(pk)) for _, name, kind, _, _, pk in rows}


@pytest.mark.parametrize("table", TABLES, ids=[table.__name__ for table in TABLES])
async def test_a_model_is_its_table(path: Path, table: Any) -> None:
    """Every model has the columns of its table, no more and no fewer, with the same key."""
    async with running(path) as journal:
        found = await journal.transactions.read(columns, table._meta.table_name)
    key = table._meta.primary_key
    names = set(key.field_names) if hasattr(key, "field_names") else {key.name}
    assert set(found) == set(table._meta.sorted_field_names)
    assert {name for name, (_, is_key) in found.items() if is_key} == names


def test_all_tables_are_looked_at() -> None:
    """The list of models isn't empty by mistake."""
    assert len(TABLES) == 13


def explaining(query: Any, *arguments: Any, **options: Any) -> Callable[[Database], list[str]]:
    """Return a function that explains how SQLite carries out each statement of a query or a change."""

    def explain(database: Database) -> list[str]:
        statements: list[tuple[str, Any]] = []
        execute: Any = database.execute_sql

        def note(sql: str, params: Any = None, *rest: Any) -> Any:
            statements.append((sql, params))
            return execute(sql, params, *rest)

        vars(database)["execute_sql"] = note
        try:
            query(database, *arguments, **options)
        finally:
            del vars(database)["execute_sql"]
        return [str(row[3]) for sql, params in statements for row in execute(f"EXPLAIN QUERY PLAN {sql}", params)]

    return explain


async def plans(journal: Store, query: Any, *arguments: Any, **options: Any) -> list[str]:
    return await journal.transactions.read(explaining(query, *arguments, **options))


async def test_a_change_ends_back_offs_by_index(path: Path) -> None:
    """Ending or correcting back-offs costs as much as the deliveries that back off, however many others there are."""
    bounds = Bounds(retry_seconds=900.0, throttled_seconds=3600.0, age_seconds=1e6)
    async with running(path) as journal:
        endpoint = await add_endpoint(journal)
        ended = await journal.transactions.write(explaining(endpoints.end_backoffs, endpoint.pk, CLOCK.now()))
        now = CLOCK.now()
        failed = EndpointState(last_failure_at=now + 60.0)
        corrected = await journal.transactions.write(
            explaining(clock_steps.correct_queue, endpoint.pk, correct(failed, bounds, now))
        )
    partial = ("deliveries_due (", "deliveries_parked (", "sequences USING INTEGER PRIMARY KEY (")
    assert [line.split("INDEX ")[1] for line in ended if "deliveries" in line] == [
        "deliveries_due (endpoint_pk=? AND next_attempt_at>?)",
        "deliveries_parked (endpoint_pk=? AND next_attempt_at>?)",
    ]
    assert len(corrected) >= 9
    assert [line for line in (*ended, *corrected) if not any(name in line for name in partial)] == []


def parked(database: Database, event_id: str) -> None:
    """Park the delivery of an event."""
    named = schema.EventTable.select(schema.EventTable.pk).where(schema.EventTable.id == event_id)
    own = schema.DeliveryTable.event_pk.in_(named)
    schema.DeliveryTable.update({"status": "parked"}).where(own).execute(database)


async def test_a_deleted_webhooks_queue_is_canceled_by_index(path: Path) -> None:
    """A step cancels at most its limit, parked deliveries too, and costs no more than these."""
    async with running(path) as journal:
        endpoint = await add_endpoint(journal)
        for number in range(5):
            await publish(journal, event(f"e{number}"), endpoint).wait()
        await journal.transactions.write(parked, "e1")
        await journal.transactions.write(parked, "e3")
        counts = [await journal.transactions.write(deliveries.cancel, endpoint.pk, CLOCK.now(), 2) for _ in range(4)]
        assert counts == [2, 2, 1, 0]
        found = await journal.transactions.write(explaining(deliveries.cancel, endpoint.pk, CLOCK.now(), 500))
    chosen = [line for line in found if "endpoint_pk" in line]
    assert len(chosen) == 2
    assert "deliveries_parked (" in chosen[1]
    assert "deliveries_line (" in chosen[0] or "deliveries_due (" in chosen[0]


def statements_of_windows() -> list[str]:
    """Return every statement by which a window is read, with its parameters by name."""
    return [sql.sqlite for name, value in vars(windows).items() if name.startswith("_") for sql in texts_in(value)]


def texts_in(value: object) -> list[EngineSQL]:
    """Return the statements in a constant of a module."""
    if isinstance(value, dict | tuple):
        parts = value.values() if isinstance(value, dict) else value
        return [text for part in parts for text in texts_in(part)]
    return [value] if isinstance(value, EngineSQL) else []


async def test_a_window_reads_by_index_and_sorts_nothing(path: Path) -> None:
    """A window and its messages cost their own rows, however long the queue or the history is."""
    values = {
        "endpoint_pk": 1,
        "now": CLOCK.now(),
        "fresh": 0,
        "backing_off": 0,
        "due_at": 0.0,
        "after": CLOCK.now(),
        "limit": 100,
        "blocked_keys": '["a"]',
        "event_pks": "[1]",
    }

    def explain(database: Database) -> list[str]:
        connection: SqlConnection = database.connection()  # type: ignore[no-untyped-call]  # peewee's stubs
        return [
            str(row[3])
            for sql in (*statements, events.MESSAGES.sqlite)
            for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)
        ]

    statements = statements_of_windows()
    assert len(statements) == 10
    async with running(path) as journal:
        found = await journal.transactions.read(explain)
        assert len(found) > len(statements)
        assert not wasteful(found), found
        assert not [line for line in found if "deliveries_list" in line], "no history is read"


async def test_lists_and_single_views_read_by_index(path: Path) -> None:
    """No list of the API scans a table or sorts it."""
    async with running(path) as journal:
        endpoint = await add_endpoint(journal)
        await publish(journal, event("e", organization_id="acme"), endpoint).wait()
        [row] = (await journal.transactions.read(deliveries.page, endpoint.pk, **everything())).items
        queries: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
            (deliveries.page, (endpoint.pk,), everything()),
            (deliveries.page, (endpoint.pk,), everything() | {"since": 1.0, "until": 2e9}),
            *((deliveries.page, (endpoint.pk,), everything() | {"status": status}) for status in DeliveryStatus),
            (deliveries.get, (row.id, None), {}),
            (deliveries.get, (row.id, None), {"before": 5, "limit": 2}),
            (event_types.page, (), {"limit": 20, "cursor": cursors.encode("event-types", ["user.created"])}),
            (event_types.find, ("user.created",), {}),
            (keys.page, (None,), {"limit": 20, "cursor": cursors.encode("keys", ["key_x"])}),
            (keys.page, ("acme",), {"limit": 20, "cursor": None}),
            (deliveries.backlog, (), {}),
            (events.page, ("acme",), {"limit": 20, "cursor": None, "after": None}),
            (events.get, ("e", None), {}),
            (endpoints.get, (endpoint.id,), {}),
            (quotas.webhooks_of, ("acme",), {}),
            (quotas.keys_of, ("acme",), {}),
            (endpoints.health_facts, ({endpoint.pk: Ordering.STRICT},), {}),
            *((audit.page, ("acme",), entries() | {name: "x"}) for name in ("actor", "what")),
            *((audit.page, (None,), entries() | {name: "x"}) for name in ("actor", "what")),
        ]
        for query, arguments, options in queries:
            found = await plans(journal, query, *arguments, **options)
            assert not wasteful(found), (query.__name__, found)


@pytest.mark.parametrize("status", [DeliveryStatus.FAILED, DeliveryStatus.PARKED, DeliveryStatus.CANCELED])
async def test_rare_statuses_have_an_index(path: Path, status: DeliveryStatus) -> None:
    """A search for failed deliveries costs as much as there are of them, however many have succeeded."""
    async with running(path) as journal:
        endpoint = await add_endpoint(journal)
        found = await plans(journal, deliveries.page, endpoint.pk, **everything() | {"status": status})
        assert any("deliveries_rare" in line for line in found), found


async def test_pending_ones_are_found_behind_a_long_history(path: Path) -> None:
    """A list of pending deliveries walks the queue's index, page by page, whatever the wall clock did."""
    async with running(path) as journal:
        endpoint = await add_endpoint(journal)
        pending = everything() | {"status": DeliveryStatus.PENDING}
        assert (await journal.transactions.read(deliveries.page, endpoint.pk, **pending)).items == []
        for number in range(3):
            set_back = msgspec.structs.replace(event(f"e{number}"), accepted_at=CLOCK.now() - number)
            await publish(journal, set_back, endpoint).wait()
        first = await journal.transactions.read(deliveries.page, endpoint.pk, **pending | {"limit": 2})
        second = await journal.transactions.read(
            deliveries.page, endpoint.pk, **pending | {"cursor": first.next_cursor}
        )
        assert [row.event_id for row in (*first.items, *second.items)] == ["e2", "e1", "e0"]
        assert any("deliveries_line" in line for line in await plans(journal, deliveries.page, endpoint.pk, **pending))


async def test_a_list_of_pending_ones_is_in_sequence_whatever_backs_off(path: Path) -> None:
    """Its pages join the two parts of the queue's index: those that back off, and the others."""
    async with running(path) as journal:
        endpoint, pending = await add_endpoint(journal), everything() | {"status": DeliveryStatus.PENDING, "limit": 2}
        for number in range(7):
            await publish(journal, event(f"e{number}"), endpoint).wait()
        for place in (1, 2, 5):
            later = {"status": DeliveryStatus.PENDING, "next_attempt_at": CLOCK.now() + 60, "completed_at": None}
            await record(journal, endpoint, place=place, **later)
        listed: list[int] = []
        cursor = None
        while len(listed) < 7:
            page = await journal.transactions.read(deliveries.page, endpoint.pk, **pending | {"cursor": cursor})
            listed += [row.sequence for row in page.items]
            cursor = page.next_cursor
        assert (listed, cursor) == ([7, 6, 5, 4, 3, 2, 1], None)


async def test_a_scan_would_be_seen(path: Path) -> None:
    """A query without an index is recognized, so that the tests above can fail."""

    def by_body(database: Database) -> None:
        list(
            schema.EventTable.select()
            .where(schema.EventTable.body == b"{}")
            .order_by(schema.EventTable.timestamp)
            .execute(database)
        )

    async with running(path) as journal:
        found = await plans(journal, by_body)
        assert len(wasteful(found)) == 2, found


def wasteful(plan: list[str]) -> list[str]:
    """Return the steps of a plan that scan a whole table (peewee calls them t1, t2, …), or sort."""
    return [line for line in plan if "TEMP B-TREE" in line or (line.startswith("SCAN t") and "INDEX" not in line)]


def everything() -> dict[str, Any]:
    names = ("status", "event", "event_id", "since", "until", "cursor")
    return dict.fromkeys(names) | {"limit": 20}


def entries() -> dict[str, Any]:
    return dict.fromkeys(("actor", "action", "what", "since", "until", "cursor")) | {"limit": 20}


async def test_an_event_for_many_is_forgotten_in_steps(path: Path) -> None:
    """A step deletes a bounded number of deliveries, and the event together with the last of them."""
    async with running(path) as journal:
        many = [await add_endpoint(journal) for _ in range(25)]
        await publish(journal, event("wide"), *many).wait()
        for endpoint in many:
            await journal.transactions.write(deliveries.cancel, endpoint.pk, CLOCK.now(), 100)
        steps = []
        while (step := await journal.transactions.write(prune, CLOCK.now() + 1, 10)).rows:
            steps.append(step.rows)
        assert steps == [10, 10, 6]
        assert (await journal.transactions.read(events.page, None, limit=20, cursor=None, after=None)).items == []


def test_steps_follow_the_disk() -> None:
    """A quick step makes the next one larger, a slow one smaller, within bounds."""
    assert [next_rows(100, seconds) for seconds in (0.001, 0.007, 0.03)] == [200, 100, 50]
    assert (next_rows(2000, 0.0), next_rows(10, 1.0)) == (2000, 10)


async def test_retention_forgets_what_has_ended_alone(path: Path) -> None:
    """Old events are deleted with their deliveries and attempts; one with a pending delivery stays, with its body."""
    async with running(path) as journal:
        endpoint = await add_endpoint(journal)
        await publish(journal, event("ended", size=50_000)).wait()
        await publish(journal, event("waiting"), endpoint).wait()
        before = CLOCK.now() + 1
        assert (await journal.transactions.write(prune, before, 100)).rows == 1
        assert (await journal.transactions.write(prune, before, 100)).rows == 0
        await journal.transactions.write(give_back_pages)
        with pytest.raises(Rejected):
            await journal.transactions.read(events.get, "ended", None)
        assert (await journal.transactions.read(events.get, "waiting", None)).deliveries == 1
        # What is gone may come again.
        assert not (await publish(journal, event("ended")).wait()).duplicate
