"""How the server of the database is set up, and what is under way on it, as the server itself tells.

Cheap enough to be read every few seconds: it looks at settings and statistics, and at no table but that of nodes.
"""

import time

from peewee import Database

from webhookd.journal.node_rows import ServerFacts
from webhookd.journal.postgres.partitions import attached, covered_until, days_ahead
from webhookd.journal.postgres.tables import TABLES

HOT_TABLES = ("attempts", "deliveries", "endpoint_state", "events", "nodes", "sequences", "slots", "writers")
"""Those of which each commit changes rows; what is dead of them slows down the next."""

_CLOCK = "SELECT extract(epoch FROM clock_timestamp())::double precision"
_FACTS = """
SELECT
    current_setting('server_version'),
    current_setting('synchronous_commit'),
    current_setting('synchronous_standby_names'),
    (SELECT count(*) FROM pg_stat_replication),
    (SELECT coalesce(ssl, false) FROM pg_stat_ssl WHERE pid = pg_backend_pid()),
    least(
        current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint,
        (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),
        (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database())
    ),
    (
        SELECT count(*) FROM pg_stat_activity
        WHERE datid IS NOT NULL AND NOT starts_with(application_name, 'webhookd/') AND pid <> pg_backend_pid()
    ),
    current_setting('autovacuum')::boolean AND current_setting('track_counts')::boolean,
    ARRAY(
        SELECT relname::text FROM pg_class LEFT JOIN pg_inherits ON inhrelid = pg_class.oid
        WHERE coalesce(inhparent, pg_class.oid) = ANY(%s::regclass[])
        AND array_to_string(reloptions, ' ') ~* 'autovacuum_enabled=(false|off|no|0)' ORDER BY 1
    ),
    pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'),
    (
        SELECT max(extract(epoch FROM clock_timestamp() - xact_start))::double precision FROM pg_stat_activity
        WHERE datid IS NOT NULL AND pid <> pg_backend_pid()
    ),
    (SELECT max(extract(epoch FROM clock_timestamp() - prepared))::double precision FROM pg_prepared_xacts),
    pg_is_in_recovery(),
    (SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL),
    (
        SELECT count(*) FROM pg_stat_activity
        WHERE state LIKE 'idle in transaction%%' AND state_change < clock_timestamp() - interval '1 minute'
    ),
    ARRAY(SELECT slot_name::text FROM pg_replication_slots WHERE NOT active ORDER BY 1),
    ARRAY(
        SELECT 'EXECUTE on ' || name FROM unnest(%s::text[]) name WHERE NOT has_function_privilege(name, 'EXECUTE')
        UNION ALL
        SELECT 'CREATE on the schema ' || current_schema()
        WHERE NOT has_schema_privilege(current_schema(), 'CREATE')
        ORDER BY 1
    )
"""
_NEEDED = (
    "pg_catalog.pg_control_system()",
    "pg_catalog.pg_current_wal_lsn()",
    "pg_catalog.pg_notify(text, text)",
    "pg_catalog.pg_terminate_backend(integer, bigint)",
    "pg_catalog.pg_walfile_name(pg_lsn)",
)
# A table may have partitions, whose rows are not counted as its own.
_DEAD_ROWS = """
SELECT hot.name, coalesce(sum(pg_stat_get_dead_tuples(part.relid)), 0)::bigint
FROM unnest(%s::text[]) AS hot (name)
CROSS JOIN LATERAL (
    SELECT to_regclass(hot.name)::oid AS relid UNION SELECT relid::oid FROM pg_partition_tree(to_regclass(hot.name))
) AS part
GROUP BY 1 ORDER BY 1
"""
_COUNT_FREE = "SELECT count(*) FROM slots WHERE node IS NULL OR node NOT IN (SELECT id FROM nodes)"
_PROGRAMS = "SELECT coalesce(program, 'unknown') FROM nodes WHERE expires_at > clock_timestamp() ORDER BY 1"


def read(database: Database, *, has_tables: bool) -> ServerFacts:
    """Return the facts; blocks. `has_tables` says whether the journal's tables have been made."""
    began_at = time.time()
    [[its_time]] = database.execute_sql(_CLOCK).fetchall()
    ended_at = time.time()
    # What the answer's way took isn't known, and is no difference.
    ahead = began_at - its_time if its_time < began_at else min(ended_at - its_time, 0.0)
    [row] = database.execute_sql(_FACTS, (list(TABLES) if has_tables else [], list(_NEEDED))).fetchall()
    values = dict(zip(ServerFacts.__struct_fields__, row, strict=False))
    for name in ("unvacuumed", "unread_slots", "missing_rights"):
        values[name] = tuple(values[name])
    dead_rows = dict(database.execute_sql(_DEAD_ROWS, (list(HOT_TABLES),)).fetchall()) if has_tables else {}
    programs = [name for (name,) in database.execute_sql(_PROGRAMS).fetchall()] if has_tables else []
    free_slots = database.execute_sql(_COUNT_FREE).fetchone()[0] if programs else 0
    covered = covered_until(attached(database), its_time) if has_tables else None
    return ServerFacts(
        **values,
        dead_rows=dead_rows,
        nodes=len(programs),
        free_slots=free_slots,
        programs=tuple(dict.fromkeys(programs)),
        clock_seconds=ahead,
        days_ahead=None if covered is None else days_ahead(covered, its_time),
    )
