"""How much room an event, a delivery and an attempt take in a database on PostgreSQL, with their indexes.

The server publishes and delivers events of 1 KiB, to one webhook each and to ten each. What is measured is the size of
each table after a vacuum, divided by its rows.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.load import Load
from tests.bench.receivers import cheapest
from tests.bench.report import Figure, Result
from tests.bench.server import SkippedCaseError, serving
from tests.bench.throughput import Scene, deliver
from tests.postgres_server import PostgresServer, find_programs

SCENES = {"one to one": Scene(endpoints=50), "to ten": Scene(endpoints=10, to_all=True)}
DELIVERIES = 20_000
_SIZES = """
SELECT name, (
    SELECT sum(pg_total_relation_size(part.relid)) FROM (
        SELECT to_regclass(name)::oid AS relid UNION SELECT relid::oid FROM pg_partition_tree(to_regclass(name))
    ) AS part
)::float8 FROM unnest(%s::text[]) AS name
"""
_TABLES = {"events": "an event", "deliveries": "a delivery", "attempts": "an attempt"}


def on_postgresql(load: Load) -> Result:
    """Deliver events, and return the bytes of each row."""
    programs = find_programs(os.environ)
    if programs is None:
        raise SkippedCaseError("PostgreSQL is not installed")
    with cheapest() as receiver, PostgresServer(programs) as postgres:
        result = Result(receiver=receiver.name)
        for name, scene in SCENES.items():
            with postgres.database() as database, TemporaryDirectory(prefix="webhookd-bench-") as directory:
                place = Path(directory)
                journal = f'url = "{postgres.url(database)}"\n[secrets]\nmaster_key_file = "{place / "master.key"}"'
                with serving(place, journal=journal) as server:
                    server.add_webhooks(receiver.url, scene.endpoints, in_organizations=not scene.to_all)
                    result.lost += deliver(server, receiver, scene, load.of(DELIVERIES)).lost
                    server.settle()
                result.figures += figures(postgres, database, name)
        return result


def figures(postgres: PostgresServer, database: str, scene: str) -> list[Figure]:
    """Return the bytes of each row of a database that nobody writes to."""
    from psycopg import sql  # noqa: PLC0415 - the other cases do without the driver

    with postgres.administer(database) as connection:
        connection.execute("VACUUM")
        sizes = dict(connection.execute(_SIZES, [list(_TABLES)]).fetchall())
        found = []
        for table, what in _TABLES.items():
            [[count]] = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchall()
            found.append(Figure(what=f"{scene}: {what}", unit="bytes", values=(sizes[table] / max(count, 1),)))
        return found
