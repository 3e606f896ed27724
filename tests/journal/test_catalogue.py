"""The catalogue of event types and the list of keys: their pages, and the bounds of the catalogue."""

from itertools import count
from pathlib import Path

import pytest
from msgspec.structs import replace
from peewee import Database

from tests.journal.harness import CLOCK, running
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.event_types import STARTING_EVENT_TYPES
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import Role
from webhookd.journal import EventTypeRow, KeyRow
from webhookd.journal.queries import event_types, keys
from webhookd.journal.queries.event_types import MOST_BYTES, MOST_TYPES


def event_type(name: str, **fields: str) -> EventTypeRow:
    values: dict[str, str | None] = {"description": "", "schema_json": None, "example_json": None}
    return EventTypeRow(name=name, deprecated=False, **values | fields)  # type: ignore[arg-type]  # a test's own fields


def put_all(database: Database, rows: list[EventTypeRow]) -> None:
    for row in rows:
        event_types.put(database, row, CLOCK.now())


async def test_the_catalogue_takes_so_many_names(tmp_path: Path) -> None:
    """One name more is refused until another is deleted; existing ones can be changed."""
    names = [f"type.n{number:04}" for number in range(MOST_TYPES - len(STARTING_EVENT_TYPES))]
    async with running(tmp_path / "journal.db") as journal:
        await journal.transactions.write(put_all, [event_type(name) for name in names])
        with pytest.raises(Rejected, match=f"has {MOST_TYPES} event types, and at most {MOST_TYPES}") as refused:
            await journal.transactions.write(event_types.put, event_type("one.more"), CLOCK.now())
        assert refused.value.code is ErrorCode.QUOTA_EXCEEDED
        await journal.transactions.write(event_types.put, event_type(names[0], description="changed"), CLOCK.now())
        await journal.transactions.write(event_types.delete, names[1])
        await journal.transactions.write(event_types.put, event_type("one.more"), CLOCK.now())


async def test_the_catalogue_takes_so_many_bytes(tmp_path: Path) -> None:
    """A change that makes the catalogue too large is refused with the excess; one that makes it smaller is not."""
    schema = "{" + " " * 1_000_000 + "}"
    row = event_type("user.created", schema_json=schema)
    async with running(tmp_path / "journal.db") as journal:
        rows = [event_type(f"large.n{number}", schema_json=schema, example_json="{}") for number in range(4)]
        await journal.transactions.write(put_all, rows)
        over = 5 * len(schema) + 4 * len("{}") - MOST_BYTES
        with pytest.raises(Rejected, match=f"make this one shorter by {over}") as refused:
            await journal.transactions.write(event_types.put, row, CLOCK.now())
        assert refused.value.code is ErrorCode.QUOTA_EXCEEDED
        await journal.transactions.write(event_types.put, replace(row, schema_json=schema[over:]), CLOCK.now())
        await journal.transactions.write(event_types.put, replace(rows[0], schema_json="{}"), CLOCK.now())


async def test_lists_are_read_in_parts(tmp_path: Path) -> None:
    """Each page of the catalogue and of the keys continues the previous one; an organization sees its own keys."""
    async with running(tmp_path / "journal.db") as journal:
        names, cursor = list[str](), None
        while True:
            part = await journal.transactions.read(event_types.page, limit=5, cursor=cursor)
            names += [row.name for row in part.items]
            if (cursor := part.next_cursor) is None:
                break
        assert names == sorted(STARTING_EVENT_TYPES)
        times = count(1.0)  # ids of one millisecond are in no order
        ids = IdFactory(lambda: next(times))
        for number in range(6):
            organization_id = "acme" if number % 2 else None
            row = KeyRow(
                id=ids.new(Prefix.KEY),
                role=Role.VIEWER,
                name=f"{number}",
                organization_id=organization_id,
                key_hash=bytes(32),
                created_at=CLOCK.now(),
                expires_at=1000.0 + number,
            )
            await journal.transactions.write(keys.insert, row)
        first = await journal.transactions.read(keys.page, None, limit=4, cursor=None)
        rest = await journal.transactions.read(keys.page, None, limit=4, cursor=first.next_cursor)
        assert [row.name for row in (*first.items, *rest.items)] == ["5", "4", "3", "2", "1", "0"]
        assert rest.next_cursor is None
        own = await journal.transactions.read(keys.page, "acme", limit=4, cursor=None)
        assert [row.name for row in own.items] == ["5", "3", "1"]
        soon = await journal.transactions.read(keys.ending, None, after=1000.0, before=1005.0, limit=3)
        assert [row.name for row in soon] == ["1", "2", "3"]
        assert [
            row.name for row in await journal.transactions.read(keys.ending, "acme", after=0, before=2e3, limit=9)
        ] == [*"135"]
