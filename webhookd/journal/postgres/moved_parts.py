"""How the tables that are moved between engines are read from PostgreSQL, and written to it.

A table with other columns here than in a file is declared in `_READ` and `_PARTS`; all others are as they are there.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from types import MappingProxyType

import msgspec

from webhookd.journal.moved_tables import MOVED_TABLES, STATISTICS, Column, Kind, MovedRow, MovedTable
from webhookd.journal.postgres.migrations import OWN_META
from webhookd.observe.statistics import Counts

_TYPES = {Kind.INTEGER: "int8", Kind.REAL: "float8", Kind.BOOLEAN: "bool", Kind.TEXT: "text", Kind.BLOB: "bytea"}
# What is moved is of an era before the current one, so all of it is in the feed at once, and before anything newer.
_MOVED_ERA = 0
_EVENTS_TRANSACTION = 0  # of all events: within it, the feed goes by their numbers
_EVENTS = next(table for table in MOVED_TABLES if table.name == "events")
_ATTEMPTS = next(table for table in MOVED_TABLES if table.name == "attempts")
_STARTED_AT, _BODY = _ATTEMPTS.place("started_at"), _EVENTS.place("body")
_MOVED_NODE = ""  # of statistics, which a server in a file keeps for itself alone

Rows = Iterator[MovedRow]


@dataclass(frozen=True, slots=True)
class Own:
    """A column that only PostgreSQL has: its name, its type, and its value for a row that is moved here."""

    name: str
    type: str
    value: Callable[[MovedRow], object]


@dataclass(frozen=True, slots=True)
class Part:
    """A table that a moved table is written to: which of its columns have which name there, and the table's own."""

    table: str
    columns: Mapping[str, str]
    own: tuple[Own, ...] = ()


@dataclass(frozen=True, slots=True)
class Read:
    """How a moved table is read: from what, in which order, how many rows there are, and what is done with them."""

    source: str
    order: str
    count: str
    merge: Callable[[Rows], Rows] = field(default=lambda rows: rows)


def _constant(value: object) -> Callable[[MovedRow], object]:
    return lambda _: value


def _began_at(row: MovedRow) -> object:
    """Return when an attempt began, in milliseconds: the last attempts are shown in the order of transactions."""
    started_at = row[_STARTED_AT]
    assert isinstance(started_at, float)  # noqa: S101 - the column's kind
    return max(int(started_at * 1000), 0)


def _size_of_body(row: MovedRow) -> object:
    body = row[_BODY]
    assert isinstance(body, bytes)  # noqa: S101 - the column's kind
    return len(body)


def _merged(rows: Rows) -> Rows:
    """Yield the statistics of all nodes together: those of one period and subject follow each other."""
    key = len(STATISTICS.key)
    for _, group in groupby(rows, key=lambda row: row[:key]):
        first, *others = group
        if not others:
            yield first
            continue
        total = Counts()
        for *_, counts in (first, *others):
            assert isinstance(counts, str)  # noqa: S101 - the column's kind
            total.add(msgspec.json.decode(counts, type=Counts))
        yield (*first[:key], msgspec.json.encode(total).decode())


_ERA = Own("era", "int8", _constant(_MOVED_ERA))
# A transaction's number is sent as an integer of 8 bytes.
_OWN: Mapping[str, tuple[Own, ...]] = MappingProxyType({"statistics": (Own("node", "text", _constant(_MOVED_NODE)),)})
# Attempts of any day that are in no partition, as those that are moved.
_OF_ATTEMPTS = (
    "(SELECT * FROM attempts UNION ALL SELECT * FROM kept_attempts) AS attempts "
    "WHERE EXISTS (SELECT 1 FROM deliveries WHERE deliveries.pk = delivery_pk)"  # others go with their day
)
ATTEMPTS = f"(SELECT * FROM {_OF_ATTEMPTS}) AS attempts"
_BODIES = "(SELECT event_pk, body FROM bodies UNION ALL SELECT event_pk, body FROM kept_bodies) AS bodies"
_OF_META = f"meta WHERE name NOT IN ({', '.join(repr(name) for name in OWN_META)})"
_READ: Mapping[str, Read] = MappingProxyType(
    {
        "meta": Read(
            source=f"(SELECT * FROM {_OF_META}) AS meta", order="name", count=f"SELECT count(*) FROM {_OF_META}"
        ),
        "events": Read(
            source=f"(SELECT events.*, body FROM events JOIN {_BODIES} ON event_pk = events.pk) AS events",
            order="pk",
            count="SELECT count(*) FROM events",
        ),
        "attempts": Read(
            source=ATTEMPTS,
            order="delivery_pk, number",
            count=f"SELECT count(*) FROM {_OF_ATTEMPTS}",
        ),
        "statistics": Read(
            source="statistics",
            order="seconds, at, subject, node",
            count="SELECT count(*) FROM (SELECT DISTINCT seconds, at, subject FROM statistics) AS found",
            merge=_merged,
        ),
    }
)
# Bodies and attempts go to the tables for rows of any day, where retention deletes them row by row.
_PARTS: Mapping[str, tuple[Part, ...]] = MappingProxyType(
    {
        "events": (
            Part(
                "events",
                {name: name for name in _EVENTS.names() if name != "body"},
                (
                    _ERA,
                    Own("xid", "int8", _constant(_EVENTS_TRANSACTION)),
                    Own("body_bytes", "int8", _size_of_body),
                ),
            ),
            Part("kept_bodies", {"event_pk": "pk", "accepted_at": "accepted_at", "body": "body"}),
        ),
        "attempts": (
            Part(
                "kept_attempts",
                {name: name for name in _ATTEMPTS.names()},
                (
                    _ERA,
                    Own("xid", "int8", _began_at),
                    Own("created_at", "float8", lambda row: row[_STARTED_AT]),
                ),
            ),
        ),
    }
)


def parts_of(table: MovedTable) -> tuple[Part, ...]:
    """Return the tables that a moved table is written to, each by a pass over its rows."""
    same = Part(table.name, {name: name for name in table.names()}, _OWN.get(table.name, ()))
    return _PARTS.get(table.name, (same,))


def read_of(table: MovedTable) -> Read:
    """Return how a moved table is read."""
    same = Read(
        source=f'"{table.name}"',
        order=", ".join(f'"{name}"' for name in table.key),
        count=f'SELECT count(*) FROM "{table.name}"',
    )
    return _READ.get(table.name, same)


def copy_from(table: MovedTable, part: Part) -> tuple[str, list[str], Callable[[MovedRow], MovedRow]]:
    """Return the COPY that writes a part, the types of its columns, and what makes its rows of moved ones."""
    kinds = {column.name: column.kind for column in table.columns}
    names = [*part.columns, *(own.name for own in part.own)]
    types = [*(_TYPES[kinds[name]] for name in part.columns.values()), *(own.type for own in part.own)]
    places = [table.place(name) for name in part.columns.values()]
    listed = ", ".join(f'"{name}"' for name in names)

    def row(moved: MovedRow) -> MovedRow:
        return (*(moved[place] for place in places), *(own.value(moved) for own in part.own))

    return f'COPY "{part.table}" ({listed}) FROM STDIN (FORMAT BINARY)', types, row


def copy_to(table: MovedTable) -> tuple[str, list[str]]:
    """Return the COPY that reads a table in the order of its key, and the types of its columns."""
    read = read_of(table)
    columns = ", ".join(map(_read_column, table.columns))
    sql = f"COPY (SELECT {columns} FROM {read.source} ORDER BY {read.order}) TO STDOUT (FORMAT BINARY)"
    return sql, ["int4" if column.kind is Kind.BOOLEAN else _TYPES[column.kind] for column in table.columns]


def _read_column(column: Column) -> str:
    return f'CAST("{column.name}" AS int)' if column.kind is Kind.BOOLEAN else f'"{column.name}"'
