"""The checks of `webhookd doctor` for a journal in a database, in the order in which they are printed."""

from collections.abc import Iterable, Iterator

from webhookd.base.database_url import DatabaseUrl
from webhookd.base.interpreter import lacking_here
from webhookd.base.version import VERSION
from webhookd.cli.checks import (
    Finding,
    Level,
    audit_chain,
    configuration,
    headers,
    interpreter,
    master_key,
    ok,
    problem,
    run,
    server,
    sockets,
)
from webhookd.config import Config
from webhookd.journal import CONNECTIONS_A_NODE, Pooler, ServerFacts, Views

_MOST_CLOCK_SECONDS = 1.0
_LONG_TRANSACTION_SECONDS = 600.0
_ENOUGH_DAYS = 3
_NOT_WAITING = ("off", "local")


def connection(url: DatabaseUrl, facts: ServerFacts) -> Iterator[Finding]:
    """The server is reached, over a connection that nobody else can read or change."""
    secured = "encrypted" if facts.is_encrypted else "not encrypted"
    yield ok(f"{url}: PostgreSQL {facts.version}, the connection is {secured}")
    if url.weakness is not None:
        yield problem(url.weakness)
    if facts.pooler is Pooler.TRANSACTION:
        yield problem(
            "a pooler hands out the connections for each transaction, and webhookd needs them for a whole session: set "
            "pool_mode = session for it, or connect directly"
        )
    elif facts.pooler is Pooler.SESSION:
        yield ok("a pooler hands out the connections, each for a whole session")
    if facts.is_standby:
        yield problem("it is a standby, which takes no changes: name the primary in journal.url, or all of them")


def rights(facts: ServerFacts) -> Iterator[Finding]:
    """The user may do what webhookd does."""
    for right in facts.missing_rights:
        yield problem(f"the user of journal.url lacks {right}: GRANT it")
    if not facts.missing_rights:
        yield ok("the user may do all that webhookd does")


def nodes(facts: ServerFacts) -> Iterator[Finding]:
    """All nodes have this version of webhookd, and every webhook has one."""
    if not facts.nodes:
        yield ok("none runs")
        return
    count = f"{facts.nodes} {'node runs' if facts.nodes == 1 else 'nodes run'}"
    others = [program for program in facts.programs if program != VERSION]
    if others:
        yield Finding(Level.NOTE, f"{count} webhookd {', '.join(facts.programs)}, and this is {VERSION}: upgrade all")
    else:
        yield ok(f"{count} webhookd {VERSION}")
    if facts.free_slots:
        yield problem(
            f"{facts.free_slots} of 256 slots have no node, and nothing is sent to their webhooks: if that lasts, "
            "`webhookd nodes` and the log of each node say more"
        )


def replication(facts: ServerFacts) -> Iterator[Finding]:
    """A commit waits for a standby, so that a failover loses no acknowledged event."""
    standbys = f"{facts.standbys} {'standby is' if facts.standbys == 1 else 'standbys are'} connected"
    if facts.synchronous_standbys and facts.synchronous_commit in _NOT_WAITING:
        yield problem(
            f"synchronous_commit is {facts.synchronous_commit}, so no commit waits for the standbys that "
            "synchronous_standby_names asks for, and a failover may lose acknowledged events: set it to on"
        )
    elif facts.synchronous_standbys:
        yield ok(f"commits wait for {facts.synchronous_standbys}; {standbys}")
    elif facts.standbys:
        yield problem(
            f"{standbys} and no commit waits for one, so a failover may lose acknowledged events: set "
            "synchronous_standby_names, unless what takes over has the same disk"
        )
    else:
        yield Finding(Level.NOTE, "no standby is connected: what is newer than the last backup is on one machine")


def connections(facts: ServerFacts) -> Iterator[Finding]:
    """There are as many connections as the nodes need."""
    nodes = max(facts.nodes, 1)
    needed = nodes * CONNECTIONS_A_NODE
    left = facts.connections - facts.foreign_connections
    found = (
        f"{facts.connections} are allowed, other programs have {facts.foreign_connections}, and "
        f"{nodes} {'node needs' if nodes == 1 else 'nodes need'} {needed}"
    )
    yield ok(found) if left >= needed else problem(f"{found}: raise max_connections, or the limit of the user")


def vacuum(facts: ServerFacts) -> Iterator[Finding]:
    """What has ended is vacuumed: the queues are in indexes, which grow otherwise."""
    if not facts.vacuums:
        yield problem("autovacuum or track_counts is off: the tables grow, and reading a queue slows down; set both on")
    for table in facts.unvacuumed:
        yield problem(f"autovacuum is off for {table}: ALTER TABLE {table} RESET (autovacuum_enabled)")
    for slot in facts.unread_slots:
        yield problem(
            f"nobody reads the replication slot {slot}, so the write-ahead log and what has ended may be kept for it: "
            f"reconnect its standby, or SELECT pg_drop_replication_slot('{slot}')"
        )
    if facts.vacuums and not facts.unvacuumed:
        yield ok("autovacuum is on")


def clock(facts: ServerFacts) -> Iterator[Finding]:
    """The clocks of this machine and of the server agree."""
    seconds = abs(facts.clock_seconds)
    if seconds <= _MOST_CLOCK_SECONDS:
        yield ok(f"this machine's clock and the server's differ by less than {_MOST_CLOCK_SECONDS:.0f} s")
        return
    side = "ahead of" if facts.clock_seconds > 0 else "behind"
    yield problem(f"this machine's clock is {seconds:.1f} s {side} the server's: synchronize both (NTP)")


def transactions(facts: ServerFacts) -> Iterator[Finding]:
    """No transaction has been open for long: it keeps what has ended from being vacuumed, and the feed of events."""
    for age, what in (
        (facts.oldest_seconds, "a transaction has been open"),
        (facts.oldest_prepared_seconds, "a prepared transaction has waited"),
    ):
        if age is not None and age > _LONG_TRANSACTION_SECONDS:
            yield problem(f"{what} for {age / 60:.0f} minutes, and nothing newer is vacuumed: end it")
    if facts.idle_transactions:
        sessions = "session stands" if facts.idle_transactions == 1 else "sessions stand"
        yield problem(
            f"{facts.idle_transactions} {sessions} in an open transaction for over a minute, doing nothing: set "
            "idle_in_transaction_session_timeout for what connects there"
        )
    if not facts.sees_all:
        yield Finding(Level.NOTE, "other users' transactions aren't shown to this user: GRANT pg_monitor to it")
    if max(facts.oldest_seconds or 0, facts.oldest_prepared_seconds or 0) <= _LONG_TRANSACTION_SECONDS:
        yield ok(f"no transaction has been open for {_LONG_TRANSACTION_SECONDS / 60:.0f} minutes")


def partitions(facts: ServerFacts) -> Iterator[Finding]:
    """There are partitions for the next days, so that an event needs none to be made."""
    if facts.days_ahead is None:
        return
    found = f"there are partitions for {max(facts.days_ahead, 0)} days after today"
    if facts.days_ahead >= _ENOUGH_DAYS:
        yield ok(found)
    elif facts.nodes:
        yield problem(
            f"{found}, although nodes run, which make a week's: the lines `partitions.` of their logs say why"
        )
    else:
        yield Finding(Level.NOTE, f"{found}: the next start makes a week's")


def tables(journal: Views) -> Iterator[Finding]:
    """This program supports the version of the tables."""
    found, known = journal.version()
    if found > known:
        yield Finding(Level.DAMAGED, f"version {found}, and this webhookd supports {known}: run the newer one")
    elif found == 0:
        yield problem("there are none yet: `webhookd init` or `webhookd serve` creates them")
    elif found < known:
        yield ok(f"version {found}; the next start upgrades them to {known}")
    else:
        yield ok(f"version {found}")


def _checks(
    config: Config, url: DatabaseUrl, looked: tuple[Views, ServerFacts] | None
) -> Iterator[tuple[str, Iterable[Finding]]]:
    """Yield each check with its name; it runs when its findings are read."""
    journal, facts = (None, None) if looked is None else looked
    has_tables = journal is not None and 0 < journal.version()[0] <= journal.version()[1]
    if facts is not None:
        yield "database", connection(url, facts)
    yield "configuration", configuration(config)
    yield "server", server(config)
    yield "sockets", sockets(config)
    yield "master key", master_key(config, journal if has_tables else None)
    yield "interpreter", interpreter(lacking_here())
    if facts is not None:
        yield "rights", rights(facts)
        yield "nodes", nodes(facts)
        yield "replication", replication(facts)
        yield "connections", connections(facts)
        yield "vacuum", vacuum(facts)
        yield "partitions", partitions(facts)
        yield "clock", clock(facts)
        yield "transactions", transactions(facts)
    if journal is not None:
        yield "tables", tables(journal)
        if has_tables:
            yield "audit log", audit_chain(journal)
            yield "headers", headers(journal)


def examine_database(config: Config, looked: tuple[Views, ServerFacts] | None) -> Iterator[tuple[str, Finding]]:
    """Run every check, and yield its findings with its name; `looked` is None if the database couldn't be opened."""
    url = config.journal.database
    assert url is not None  # noqa: S101 - these are its checks
    yield from run(_checks(config, url, looked))
