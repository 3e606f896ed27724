"""The feed of events and the search for them, while several nodes commit events under numbers of their own."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from peewee import Database

from tests.journal.postgres.connections import connected, rows, value
from tests.samples import AT
from webhookd.base.errors import Rejected
from webhookd.base.models import AcceptedEvent
from webhookd.journal.postgres.database import ConnectionRole, PostgresDatabase
from webhookd.journal.postgres.migrations import prepare
from webhookd.journal.queries import events, partitioned, searching

PUBLISHERS, EVENTS_EACH, A_PAGE = 4, 150, 20


def add(database: Database, event_id: str, *, at: float = AT, organization_id: str | None = None) -> int:
    """Store an event; return its number."""
    event = AcceptedEvent(
        id=event_id,
        type="user.created",
        organization_id=organization_id,
        ordering_key=None,
        traceparent=None,
        timestamp=at,
        accepted_at=at,
        body=b"",
    )
    return partitioned.add_event(database, event, deliveries=0)


@pytest.fixture
def reader(journal_database: str) -> Iterator[PostgresDatabase]:
    with connected(journal_database, ConnectionRole.READER) as opened:
        yield opened


def new_of(reader: PostgresDatabase, after: str | None, **asked: str) -> list[str]:
    """Return the ids of the events of a page of the feed."""
    with reader.atomic():
        found = events.page(reader, asked.get("organization"), limit=A_PAGE, cursor=None, after=after)
    return [each.id for each in found.items]


def test_an_event_that_is_committed_late_is_in_no_gap(journal_database: str, reader: PostgresDatabase) -> None:
    """Of two publishers, the one that began first commits last: a reader that pages by numbers would skip its event."""
    with connected(journal_database) as early, connected(journal_database) as late:
        add(early, "first")
        late.begin()
        low = add(late, "late", organization_id="acme")
        high = add(early, "early", organization_id="acme")
        assert low < high
        by_number = "SELECT id FROM events WHERE pk > %s ORDER BY pk"
        seen = [each for (each,) in rows(reader, by_number, 0)]
        assert seen == ["first", "early"]
        assert new_of(reader, None) == ["first"]
        assert new_of(reader, None, organization="acme") == []
        late.commit()
        assert rows(reader, by_number, high) == []  # it has skipped one
        assert new_of(reader, "first") == ["late", "early"]
        assert new_of(reader, None, organization="acme") == ["late", "early"]
        assert new_of(reader, "late", organization="acme") == ["early"]


def test_the_pages_of_the_feed(journal_database: str, reader: PostgresDatabase) -> None:
    """A page goes on where the last one ended, by its cursor, by an event's id, or by the cursor as a place."""
    with connected(journal_database) as writer:
        for number in range(3):
            with writer.atomic():
                for each in range(2):
                    add(writer, f"e{number}{each}")
    ids, cursor = list[str](), None
    while True:
        with reader.atomic():
            page = events.page(reader, None, limit=4, cursor=cursor, after=None)
            ids += [each.id for each in page.items]
            if cursor is not None:
                again = events.page(reader, None, limit=4, cursor=None, after=cursor)
                assert again.items == page.items
        cursor = page.next_cursor
        if cursor is None:
            break
    assert ids == ["e00", "e01", "e10", "e11", "e20", "e21"]
    for after in ("none", "c.WyJldmVudHMiLDFd"):  # an unknown event, and a cursor of a journal in a file
        with pytest.raises(Rejected):
            new_of(reader, after)


def test_events_of_another_cluster_come_first(journal_database: str, reader: PostgresDatabase) -> None:
    """After a move of the database its transactions count from another start: older events stay before newer ones."""
    with connected(journal_database) as writer:
        add(writer, "old")
        rows(writer, "UPDATE events SET xid = CAST('9000000000' AS xid8)")
        rows(writer, "UPDATE meta SET value = '1' WHERE name = 'cluster'")
        prepare(writer, now=AT)
        add(writer, "new")
    assert new_of(reader, None) == ["old", "new"]
    assert new_of(reader, "old") == ["new"]


def test_a_follower_skips_nothing_of_four_publishers(journal_database: str, reader: PostgresDatabase) -> None:
    """While four publishers commit as fast as they can, one that pages through the feed gets each event once."""
    seen: list[str] = []
    with ThreadPoolExecutor(PUBLISHERS) as threads:
        publishing = [threads.submit(publish_all, journal_database, number) for number in range(PUBLISHERS)]
        while not all(each.done() for each in publishing):
            seen += new_of(reader, seen[-1] if seen else None)
        for each in publishing:
            each.result()
    while found := new_of(reader, seen[-1] if seen else None):
        seen += found
    assert len(seen) == PUBLISHERS * EVENTS_EACH
    assert len(set(seen)) == len(seen)


def publish_all(url: str, publisher: int) -> None:
    """Commit a publisher's events, in transactions that take differently long."""
    chance = Random(publisher)  # noqa: S311 - no secret
    with connected(url) as database:
        for number in range(EVENTS_EACH):
            with database.atomic():
                add(database, f"e{publisher}-{number}")
                for _ in range(chance.randrange(4)):
                    rows(database, "SELECT 1")


def test_a_search_by_time_finds_what_was_stored_late(journal_database: str, reader: PostgresDatabase) -> None:
    """An event that was accepted hours before it could be stored has its place in time, however high its number is."""
    with connected(journal_database) as writer:
        for number in range(6):
            add(writer, f"e{number}", at=AT + 600 * number, organization_id="acme" if number % 2 else None)
        add(writer, "late", at=AT + 900, organization_id="acme")

    def search(organization_id: str | None = None, **asked: float) -> list[str]:
        found, cursor = list[str](), None
        while True:
            with reader.atomic():
                page = searching.search(reader, organization_id, limit=2, cursor=cursor, looked_at=3, **asked)  # type: ignore[arg-type]
            found += [each.id for each in page.items]
            if (cursor := page.next_cursor) is None:
                return found

    assert search() == ["e5", "e4", "e3", "e2", "late", "e1", "e0"]
    assert search("acme") == ["e5", "e3", "late", "e1"]
    assert search(since=AT + 700, until=AT + 1200) == ["late"]
    assert search("acme", since=AT + 600, until=AT + 1800) == ["late", "e1"]


def test_a_page_of_the_feed_reads_what_it_returns(journal_database: str, reader: PostgresDatabase) -> None:
    """Neither the events before it nor those above the oldest open transaction are read."""
    with connected(journal_database) as writer, connected(journal_database) as other:
        rows(writer, "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")
        many = (
            "INSERT INTO events (id, type, organization_id, timestamp, accepted_at, deliveries, body_bytes) "
            "SELECT %s || n, 'a', 'acme', n, n, 0, 0 FROM generate_series(1, 3000) n"
        )
        rows(writer, many, "before")
        rows(writer, "ANALYZE events")
        add(writer, "middle", organization_id="acme")
        for number in range(5):
            add(writer, f"e{number}", organization_id="acme")
        other.begin()
        add(other, "open")
        rows(writer, many, "after")
        for organization_id in (None, "acme"):
            with reader.atomic():
                before = value(
                    reader, "SELECT sum(idx_tup_fetch) FROM pg_stat_xact_user_tables WHERE relname = 'events'"
                )
                page = events.page(reader, organization_id, limit=9, cursor=None, after="middle")
                after = value(
                    reader, "SELECT sum(idx_tup_fetch) FROM pg_stat_xact_user_tables WHERE relname = 'events'"
                )
            assert [each.id for each in page.items] == [f"e{number}" for number in range(5)]
            assert after - before < 20
        other.rollback()
