"""Move a journal to another engine while nothing else uses it: from a file to a database on PostgreSQL, or back.

    1. lock      The source and the target, for this process alone.
    2. examine   The source: its version, its pages, the audit log, the master key, the rules of its numbers, and each
                 value that the other engine might refuse. Nothing has been written yet.
    3. copy      Each table in the order of its key, a bounded number of rows at a time.
    4. verify    Counts and digests of each table on both sides, the audit log, the rules and the last numbers.
    5. finish    The target gets what makes it a journal: its version, or the file its name.

The source is only read. A target without the last step is no journal: no server starts with it, and the next move from
the same source begins it again. A move that is cut off therefore changes nothing, wherever that was.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct
from peewee import Database

from webhookd.base.errors import CommandError, JournalError, MasterKeyError
from webhookd.base.secret import Secret
from webhookd.base.stages import reached
from webhookd.journal.audit_entries import Chain
from webhookd.journal.moved_tables import MOVED_TABLES, NUL, NUMBERED, MovedRow, MovedTable
from webhookd.journal.queries import audit
from webhookd.journal.queries.master_key import adopt_master_key, sealing_key_id
from webhookd.journal.server import Server, check_driver
from webhookd.journal.sqlite.moving import open_source as open_file_source
from webhookd.journal.sqlite.moving import open_target as open_file_target

_ROWS_A_REPORT = 100_000
_MOST_UNFIT = 20
_REPLACEMENT = "�"
_WITHOUT_AUDIT = "a journal without an audited change"

# What must hold of the numbers that a journal gives out. Each finds a row that breaks the rule.
_RULES = {
    "a webhook without its sequence": (
        "SELECT id FROM endpoints WHERE deleted_at IS NULL "
        "AND NOT EXISTS (SELECT 1 FROM sequences WHERE endpoint_pk = endpoints.pk) LIMIT 1"
    ),
    "a webhook whose last sequence is lower than that of a delivery": (
        "SELECT sequences.endpoint_pk FROM sequences JOIN deliveries ON deliveries.endpoint_pk = sequences.endpoint_pk "
        "WHERE deliveries.sequence > sequences.last LIMIT 1"
    ),
    "two deliveries of one webhook with the same sequence": (
        "SELECT endpoint_pk, sequence FROM deliveries WHERE sequence > 0 "
        "GROUP BY endpoint_pk, sequence HAVING count(*) > 1 LIMIT 1"
    ),
    "a delivery with more attempts than it has counted": (
        "SELECT deliveries.pk, number FROM {attempts} JOIN deliveries ON deliveries.pk = delivery_pk "
        "WHERE number > deliveries.attempts LIMIT 1"
    ),
}

Report = Callable[[str, int, int], None]
"""Gets what is done with a table, as `copied events`, the number of its rows so far, and that of all."""


class Side(Protocol):
    """The source or the target of a move; its methods block."""

    @property
    def name(self) -> str:
        """What messages call it: a path, or a database without a password."""
        ...

    @property
    def database(self) -> Database:
        """For queries that run on every engine."""
        ...

    @property
    def attempts(self) -> str:
        """What all attempts are read from, in such a query."""
        ...

    def count(self, table: MovedTable) -> int:
        """Return how many rows a table has."""
        ...

    def rows(self, table: MovedTable) -> Iterator[MovedRow]:
        """Yield the rows of a table in the order of its key, of which only few are in memory."""
        ...

    def last_numbers(self) -> Mapping[str, int]:
        """Return the last number that was given out, for each of `NUMBERED`; 0 for none."""
        ...


class Source(Side, Protocol):
    """A journal that is to be moved, and that nothing else changes meanwhile."""

    def examine(self) -> None:
        """Check what only its engine can; JournalError."""
        ...

    def unfit(self, table: MovedTable) -> Iterator[tuple[str, str]]:
        """Yield the values that another engine would refuse: where each is, and what it holds."""
        ...


class MoveTarget(Side, Protocol):
    """The place that a journal is moved to."""

    def check(self, mark: str) -> bool:
        """Return whether a move of the same source was cut off here; CommandError if anything else is there."""
        ...

    def begin(self, mark: str) -> None:
        """Make the tables, empty, in place of those that a cut-off move has left."""
        ...

    def add(self, table: MovedTable, rows: Callable[[], Iterator[MovedRow]]) -> None:
        """Add rows, of which only few are in memory."""
        ...

    def set_last_numbers(self, numbers: Mapping[str, int], chain: Chain) -> None:
        """Have numbers go on after these, and the audit log after the end of this chain."""
        ...

    def missing(self, chain: Chain) -> str | None:
        """Return what only its engine can find wrong with numbers and audit log, None if nothing is."""
        ...

    def finish(self) -> None:
        """Make it a journal, on disk before this returns."""
        ...


class MovedContents(Struct, frozen=True, kw_only=True):
    """How many rows of a table were moved, and the SHA-256 over them that both sides agree on; None in a trial."""

    rows: int
    sha256: str | None


class Moved(Struct, frozen=True, kw_only=True):
    """What was moved, by table; in a trial what would be, and `unfit`: what would not fit.

    `key_id` is that of the master key that opens the journal. `begun_again` says that a move was cut off before.
    """

    tables: dict[str, MovedContents]
    audit_entries: int
    key_id: str | None
    begun_again: bool
    unfit: list[str]


def move(
    source: Path | Server,
    target: Path | Server,
    *,
    load_key: Callable[[], Secret[bytes]],
    now: float,
    is_trial: bool = False,
    replaces_nul: bool = False,
    report: Report = lambda _what, _rows, _of: None,
) -> Moved:
    """Move a journal, or in a trial only look whether that is possible; blocks.

    With `replaces_nul`, U+FFFD is stored in place of each NUL character, which PostgreSQL can't store. Raises
    CommandError if something uses the journal, the target isn't empty or a value doesn't fit, MasterKeyError if the key
    doesn't open the journal, and JournalError if the journal can't be trusted or the copy differs from it.
    """
    with ExitStack() as stack:
        from_: Source = stack.enter_context(_open_source(source))
        to: MoveTarget = stack.enter_context(_open_target(target, is_trial=is_trial, now=now))
        mark = _mark_of(from_)
        begun_again = to.check(mark)
        chain, key_id = _examine(from_, load_key)
        counts = {table.name: from_.count(table) for table in MOVED_TABLES}
        unfit = _unfit(from_, counts, report, replaces_nul=replaces_nul)
        moved = Moved(
            tables={name: MovedContents(rows=rows, sha256=None) for name, rows in counts.items()},
            audit_entries=chain.entries,
            key_id=key_id,
            begun_again=begun_again,
            unfit=unfit,
        )
        if is_trial:
            return moved
        if unfit:
            raise CommandError(_refusal(from_, unfit))
        to.begin(mark)
        reached("move.begun")
        read = _replacing(from_) if replaces_nul else from_.rows
        for table in MOVED_TABLES:
            _copy(to, table, read, counts[table.name], report)
            reached("move.table_copied")
        to.set_last_numbers(from_.last_numbers(), chain)
        reached("move.copied")
        tables = {table.name: _compare(from_, to, table, read, report) for table in MOVED_TABLES}
        _check_numbers(from_, to, chain)
        reached("move.verified")
        to.finish()
        reached("move.finished")
        return msgspec.structs.replace(moved, tables=tables)


def _open_source(place: Path | Server) -> AbstractContextManager[Source]:
    if isinstance(place, Path):
        return open_file_source(place)
    check_driver()
    from webhookd.journal.postgres.moving import open_source  # noqa: PLC0415 - as in `open_store`

    return open_source(place)


def _open_target(place: Path | Server, *, is_trial: bool, now: float) -> AbstractContextManager[MoveTarget]:
    if isinstance(place, Path):
        return open_file_target(place, is_trial=is_trial, now=now)
    check_driver()
    from webhookd.journal.postgres.moving import open_target  # noqa: PLC0415 - as in `open_store`

    return open_target(place, now=now)


def _mark_of(source: Source) -> str:
    """Return what tells this journal from others, whatever is added to it: its first entry of the audit log."""
    found = source.database.execute_sql("SELECT hash FROM audit WHERE sequence = 1").fetchone()
    return _WITHOUT_AUDIT if found is None else bytes(found[0]).hex()


def _examine(source: Source, load_key: Callable[[], Secret[bytes]]) -> tuple[Chain, str | None]:
    """Return the audit log's chain and the id of the master key, which opens the journal."""
    source.examine()
    chain = audit.verify(source.database)
    if chain.broken is not None:
        raise JournalError(
            f"nothing was moved: the audit log of {source.name} is broken, {chain.broken}; move a backup in which it "
            "is whole"
        )
    if (broken := _broken_rule(source)) is not None:
        raise JournalError(f"nothing was moved: {source.name} has {broken}")
    changing = "SELECT count(*) FROM meta WHERE name IN ('master_key_next', 'master_key_previous')"
    if source.database.execute_sql(changing).fetchone()[0]:
        raise CommandError(
            f"nothing was moved: the master key of {source.name} is being changed: start webhookd until that has ended"
        )
    has_key = source.database.execute_sql("SELECT count(*) FROM meta WHERE name = 'master_key_check'").fetchone()[0]
    if has_key:
        try:
            adopt_master_key(source.database, load_key())
        except MasterKeyError as error:
            raise MasterKeyError(f"nothing was moved from {source.name}: {error}") from error
    return chain, sealing_key_id(source.database)


def _broken_rule(side: Side) -> str | None:
    for rule, sql in _RULES.items():
        found = side.database.execute_sql(sql.format(attempts=side.attempts)).fetchone()
        if found is not None:
            return f"{rule}: {', '.join(map(str, found))}"
    return None


def _unfit(source: Source, counts: Mapping[str, int], report: Report, *, replaces_nul: bool) -> list[str]:
    """Return the first values that don't fit, and how many more there are."""
    found: list[str] = []
    more = 0
    for table in MOVED_TABLES:
        for where, what in source.unfit(table):
            if replaces_nul and what == NUL and _may_change(table):
                continue
            if len(found) < _MOST_UNFIT:
                found.append(f"{table.name}, {where} holds {what}")
            else:
                more += 1
        report(f"looked at {table.name}", counts[table.name], counts[table.name])
    return [*found, f"{more} more"] if more else found


def _may_change(table: MovedTable) -> bool:
    """Whether a text of a table may be changed: the audit log's hashes are over the texts."""
    return table.name != "audit"


def _refusal(source: Source, unfit: list[str]) -> str:
    mend = (
        "--replace-nul stores U+FFFD in place of NUL characters"
        if any(NUL in each for each in unfit)
        else "webhookd writes no such value: correct it in the journal, or move a backup that has none"
    )
    return f"nothing was moved: in {source.name}, {unfit[0]}. --dry-run lists all such values; {mend}"


def _replacing(source: Source) -> Callable[[MovedTable], Iterator[MovedRow]]:
    def rows(table: MovedTable) -> Iterator[MovedRow]:
        if not _may_change(table):
            yield from source.rows(table)
            return
        for row in source.rows(table):
            yield tuple(map(_without_nul, row))

    return rows


def _without_nul(value: object) -> object:
    return value.replace("\0", _REPLACEMENT) if isinstance(value, str) else value


def _copy(
    to: MoveTarget, table: MovedTable, read: Callable[[MovedTable], Iterator[MovedRow]], count: int, report: Report
) -> None:
    def rows() -> Iterator[MovedRow]:
        for number, row in enumerate(read(table), 1):
            yield row
            if number % _ROWS_A_REPORT == 0 and number < count:
                report(f"copied {table.name}", number, count)

    to.add(table, rows)
    report(f"copied {table.name}", count, count)


def _compare(
    from_: Source, to: MoveTarget, table: MovedTable, read: Callable[[MovedTable], Iterator[MovedRow]], report: Report
) -> MovedContents:
    """Read a table on both sides, and compare counts and digests; JournalError names the first row that differs."""
    counts = from_.count(table), to.count(table)
    encode = msgspec.msgpack.Encoder().encode
    digests = hashlib.sha256(), hashlib.sha256()
    read_rows, differing = [0, 0], ""
    for rows in zip_longest(read(table), to.rows(table)):
        if rows[0] != rows[1] and not differing:
            differing = table.key_of(rows[0] if rows[0] is not None else rows[1])
        for side, row in enumerate(rows):
            if row is not None:
                digests[side].update(encode(row))
                read_rows[side] += 1
        if read_rows[0] % _ROWS_A_REPORT == 0:
            report(f"compared {table.name}", read_rows[0], counts[0])
    if counts[0] != counts[1] or read_rows != list(counts):
        raise _not_the_same(to, f"{table.name} has {counts[1]} rows instead of {counts[0]}", differing)
    if digests[0].digest() != digests[1].digest():
        raise _not_the_same(to, f"{table.name} has other rows", differing)
    report(f"compared {table.name}", counts[0], counts[0])
    return MovedContents(rows=counts[0], sha256=digests[0].hexdigest())


def _check_numbers(from_: Source, to: MoveTarget, chain: Chain) -> None:
    """Check the audit log, the rules, and where numbers go on; JournalError."""
    found = audit.verify(to.database)
    if found != chain:
        raise _not_the_same(to, f"the audit log has {found.entries} entries of {chain.entries}", found.broken or "")
    if (broken := _broken_rule(to)) is not None:
        raise _not_the_same(to, f"it has {broken}", "")
    wanted, given = from_.last_numbers(), to.last_numbers()
    for table in NUMBERED:
        if given[table] != wanted[table]:
            raise _not_the_same(to, f"numbers of {table} go on after {given[table]} instead of {wanted[table]}", "")
    if (missing := to.missing(chain)) is not None:
        raise _not_the_same(to, missing, "")


def _not_the_same(to: MoveTarget, what: str, where: str) -> JournalError:
    place = f" (first at {where})" if where else ""
    return JournalError(
        f"the copy in {to.name} isn't what was moved: {what}{place}. No server starts with it, and the source is "
        "unchanged: find out what else wrote there, and call this again, which begins from the start"
    )
