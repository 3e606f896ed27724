"""Queries on statistics: the counts of a subject in a period, each row replaced as the counts grow.

The key begins with the time, so rows that are written together are stored together, and retention deletes a range. A
query names the whole key of each row, so its cost doesn't depend on how many other subjects there are. On PostgreSQL
each process of a node has rows of its own, which are added up when they are read.
"""

import math
from collections.abc import Sequence

import msgspec
from peewee import Database

from webhookd.journal.queries.dialect import EngineSQL, is_postgres, listed, statements
from webhookd.observe.statistics import HOUR, MINUTE, QUARTER, Counts, CountsRow, Key

KEPT_SECONDS = {MINUTE: 2 * 3600, QUARTER: 48 * 3600, HOUR: 48 * 3600}

_PUT = EngineSQL(
    sqlite="""
INSERT OR REPLACE INTO statistics (seconds, at, subject, counts)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?)
""",
    postgres="""
INSERT INTO statistics (seconds, at, subject, counts, node)
SELECT CAST(value ->> 0 AS bigint), CAST(value ->> 1 AS bigint), value ->> 2, value ->> 3, ?
FROM json_array_elements(CAST(? AS json))
ON CONFLICT (seconds, at, subject, node) DO UPDATE SET counts = excluded.counts
""",
)
ROWS = EngineSQL(
    sqlite="""
SELECT statistics.seconds, statistics.at, statistics.subject, statistics.counts, '' AS node
FROM json_each(:subjects) AS subject CROSS JOIN json_each(:starts) AS start CROSS JOIN statistics
ON statistics.seconds = :seconds AND statistics.at = start.value AND statistics.subject = subject.value
""",
    postgres="""
SELECT seconds, at, subject, counts, node FROM statistics
WHERE seconds = :seconds AND at = ANY(CAST(:starts AS bigint[])) AND subject = ANY(CAST(:subjects AS text[]))
""",
)
_RUNNING = "SELECT seconds, at, subject, counts FROM statistics WHERE seconds = ? AND at = ?"
_PRUNE = """
DELETE FROM statistics WHERE (seconds, at, subject) IN (
    SELECT seconds, at, subject FROM statistics WHERE seconds = ? AND at < ? ORDER BY at LIMIT ?
)
"""

_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Counts)


def encode(rows: Sequence[CountsRow]) -> bytes:
    """Return rows as `put` takes them; later counts don't change the result."""
    return _encode([(*key, counts) for key, counts in rows])


def put(database: Database, rows: bytes, process: str = "") -> None:
    """Store rows of a process; each replaces the one with the same key."""
    named = (process,) if is_postgres(database) else ()
    statements(database).execute(_PUT.on(database), (*named, rows.decode()))


def find(
    database: Database, *, seconds: int, starts: Sequence[int], subjects: Sequence[str], process: str = ""
) -> tuple[dict[Key, Counts], dict[Key, Counts]]:
    """Return the stored rows of these subjects, for periods of `seconds` with these starts.

    They are those of one process, and the sums of all others.
    """
    asked = {"seconds": seconds, "starts": listed(database, starts), "subjects": listed(database, subjects)}
    own: dict[Key, Counts] = {}
    others: dict[Key, Counts] = {}
    for *row, node in statements(database).execute(ROWS.on(database), asked):
        key, counts = _row(row)
        if node == process:
            own[key] = counts
        else:
            others.setdefault(key, Counts()).add(counts)
    return own, others


def running(database: Database, now: float) -> list[CountsRow]:
    """Return the rows of every period that has not ended yet."""
    return [
        _row(row)
        for seconds in KEPT_SECONDS
        for row in statements(database).execute(_RUNNING, (seconds, int(now) // seconds * seconds))
    ]


def prune(database: Database, now: float, rows: int) -> bool:
    """Delete rows older than they are kept, at most `rows` of each length; return whether there may be more."""
    more, connection = False, statements(database)
    for seconds, kept_seconds in KEPT_SECONDS.items():
        connection.execute(_PRUNE, (seconds, math.ceil(now - kept_seconds), rows))
        more = more or connection.changes() >= rows
    return more


def _row(row: Sequence[object]) -> CountsRow:
    seconds, at, subject, counts = row
    key = msgspec.convert((seconds, at, subject), Key)
    assert isinstance(counts, str)  # noqa: S101 - the column's type
    return key, _decoder.decode(counts)
