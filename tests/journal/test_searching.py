"""The search for events: its results, their order, and its cost."""

import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.journal.harness import add_endpoint, event, publish, running
from webhookd.base.errors import Rejected
from webhookd.base.models import AcceptedEvent
from webhookd.journal import Store
from webhookd.journal.queries import deliveries, searching

NOW = 1_700_000_000.0


def typed(event_id: str, event_type: str, at: float, organization_id: str | None = None) -> AcceptedEvent:
    made = event(event_id, organization_id=organization_id)
    return msgspec.structs.replace(made, type=event_type, accepted_at=at)


async def fill(journal: Store, *events: AcceptedEvent) -> None:
    for one in events:
        await publish(journal, one).wait()


async def ids(journal: Store, organization_id: str | None = None, **wanted: Any) -> list[str]:
    found = await journal.transactions.read(searching.search, organization_id, **{"limit": 10, **wanted})
    return [row.id for row in found.items]


async def test_what_fits_comes_newest_first(tmp_path: Path) -> None:
    """A search takes a name or a pattern, a time range, and an organization, whose events alone it finds."""
    async with running(tmp_path / "journal.db") as journal:
        await fill(
            journal,
            typed("e1", "user.created", NOW),
            typed("e2", "user.deleted", NOW + 1, "acme"),
            typed("e3", "users.merged", NOW + 2, "acme"),
            typed("e4", "user.created", NOW + 300, "other"),
        )
        assert await ids(journal) == ["e4", "e3", "e2", "e1"]
        assert await ids(journal, pattern="*") == ["e4", "e3", "e2", "e1"]
        assert await ids(journal, pattern="user.*") == ["e4", "e2", "e1"]
        assert await ids(journal, pattern="user.created") == ["e4", "e1"]
        assert await ids(journal, "acme") == ["e3", "e2"]
        assert await ids(journal, "acme", pattern="user.*") == ["e2"]
        assert await ids(journal, since=NOW + 1, until=NOW + 2) == ["e2"]
        assert await ids(journal, since=NOW + 1) == ["e4", "e3", "e2"]
        assert await ids(journal, until=NOW + 2) == ["e2", "e1"]
        assert await ids(journal, since=NOW + 301) == await ids(journal, until=NOW) == []


async def test_pages_join_without_gap_or_repetition(tmp_path: Path) -> None:
    """The pages together have what one large page has, whether a page is full or has looked at enough events."""
    async with running(tmp_path / "journal.db") as journal:
        kinds = ["user.created", "user.deleted", "user.updated"]
        await fill(journal, *(typed(f"e{number:02}", kinds[number % 3], NOW + number) for number in range(30)))
        for options in ({"limit": 4}, {"limit": 10, "looked_at": 7}, {"limit": 2, "looked_at": 7}):
            seen: list[str] = []
            stops = 0
            cursor = None
            while True:
                found = await journal.transactions.read(
                    searching.search,
                    None,
                    pattern="user.deleted",
                    cursor=cursor,
                    **options,
                )
                seen += [row.id for row in found.items]
                stops += found.looked_back_to is not None
                cursor = found.next_cursor
                if cursor is None:
                    break
            assert seen == [f"e{number:02}" for number in range(28, 0, -3)], options
            assert (stops > 0) == ("looked_at" in options)
        with pytest.raises(Rejected, match="cursor"):
            await journal.transactions.read(searching.search, None, limit=1, cursor="c.garbage")


async def test_the_start_of_an_id_is_enough(tmp_path: Path) -> None:
    """Events are found by the start of their ids, an organization's own only, and underscores are no wildcards."""
    async with running(tmp_path / "journal.db") as journal:
        await fill(
            journal,
            typed("order_2", "user.created", NOW, "acme"),
            typed("order_1", "user.created", NOW),
            typed("orderX3", "user.created", NOW),
        )
        found = await journal.transactions.read(searching.by_id, None, "order_", 10)
        assert [row.id for row in found] == ["order_1", "order_2"]
        assert [row.id for row in await journal.transactions.read(searching.by_id, "acme", "order", 10)] == ["order_2"]
        assert len(await journal.transactions.read(searching.by_id, None, "order", 2)) == 2
        assert await journal.transactions.read(searching.by_id, None, "%", 10) == []


async def test_where_an_event_went(tmp_path: Path) -> None:
    """An event's deliveries, page by page; a caller of an organization sees those to its webhooks."""
    async with running(tmp_path / "journal.db") as journal:
        ours = await add_endpoint(journal, organization_id="acme")
        others = [await add_endpoint(journal) for _ in range(3)]
        await publish(journal, event("e1", organization_id="acme"), *others, ours).wait()
        await publish(journal, event("e2"), *others).wait()
        first = await journal.transactions.read(deliveries.of_event, 1, None, limit=3, cursor=None)
        second = await journal.transactions.read(deliveries.of_event, 1, None, limit=3, cursor=first.next_cursor)
        assert [row.endpoint_id for row in (*first.items, *second.items)] == [one.id for one in (*others, ours)]
        assert second.next_cursor is None
        bound = await journal.transactions.read(deliveries.of_event, 1, "acme", limit=3, cursor=None)
        assert [row.endpoint_id for row in bound.items] == [ours.id]


async def test_a_search_is_made_by_index(tmp_path: Path) -> None:
    """Neither a search nor its bounds scan or sort the table."""
    async with running(tmp_path / "journal.db") as journal:
        await fill(journal, event("e1"))
    statements = (
        (searching._NEWEST, 3, "INTEGER PRIMARY KEY"),
        (searching._NEWEST_OF_ONE, 4, "events_organization"),
        (searching._BY_ID, 3, "sqlite_autoindex_events"),
        (searching._FIRST_FROM, 1, "events_accepted"),
        (searching._LAST_BEFORE, 1, "events_accepted"),
    )
    connection = sqlite3.connect(tmp_path / "journal.db")
    for statement, parameters, index in statements:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", (0,) * parameters)]
        assert len(plan) == 1, plan
        assert plan[0].startswith("SEARCH events USING"), plan
        assert index in plan[0], plan
    connection.close()
