"""Leases: which node drives which endpoints. The clock of the database alone decides when a node's lease ends.

Every endpoint belongs to one of 256 slots, by its row number. A slot is a node's from the moment in which it takes the
slot, which counts the slot's generation up, until another node does so or it gives the slot back. Each record names
the generation under which it was sent, and holds its slot's row while it commits; taking a slot needs the same row. So
all records of a generation are committed before the next one begins, and none after.

A node beats every 2 s, which moves the end of its lease to 7 s later. A node that comes too late is fenced: it has lost
every slot, and registers again under a new id, since an id is never used again. Whoever scans removes nodes whose lease
has ended, ends their sessions, which may still hold rows, and takes their slots. By its own clock a node stops sending
5.5 s after it sent its last good beat, before anybody else could take its slots.

After the database was restored, or has lost its last commits in a failover, slots are as they were once: nobody takes
one before every node has found that out (see `incarnations`).

Everything here blocks, and is called in a thread with a connection of its own: it must go on while a writer stands.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from peewee import Database
from psycopg import Connection

from webhookd.base.version import VERSION
from webhookd.journal.node_rows import NodeRow, Nodes
from webhookd.journal.ownership import LEADING, SLOTS, slot_of
from webhookd.journal.server import LeaseTimes

_SHARE_MOVED = 8  # at most an eighth of a node's slots move in a scan

# The row that each change of settings holds: one that needs nodes of a newer version sees this one, or is committed.
_REGISTER = """
INSERT INTO nodes (id, name, version, expires_at, program, address, beat_at)
SELECT
    %s, %s, %s, clock_timestamp() + make_interval(secs => %s), %s,
    host(inet_client_addr()), clock_timestamp()
FROM (SELECT 1 FROM heads WHERE name = 'changes' FOR SHARE) AS between_changes
RETURNING extract(epoch FROM clock_timestamp())::double precision
"""
_NOTE_KEYS = "UPDATE nodes SET key_ids = %s WHERE id = %s"
_LEAVE = "DELETE FROM nodes WHERE id = %s"
_BEAT = """
UPDATE nodes SET expires_at = clock_timestamp() + make_interval(secs => %s), beat_at = clock_timestamp(),
    known_change = %s, looked_at = clock_timestamp() - make_interval(secs => %s)
WHERE id = %s AND expires_at > clock_timestamp() RETURNING extract(epoch FROM clock_timestamp())::double precision
"""
_TIME = "SELECT extract(epoch FROM clock_timestamp())::double precision"
_IS_SETTLED = """
SELECT coalesce(max(noticed_at) + make_interval(secs => %s) < clock_timestamp(), true) FROM incarnations
"""
_REMOVE_EXPIRED = "DELETE FROM nodes WHERE expires_at < clock_timestamp()"
# In a statement of its own: a row that has just changed is checked again by the update below, but the list of nodes
# would be the one of its beginning, and a slot of a node that has registered meanwhile would be taken from it.
_FIND_DEAD = "SELECT DISTINCT node FROM slots WHERE node IS NOT NULL AND node NOT IN (SELECT id FROM nodes)"
_END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND split_part(application_name, '/', 2) = ANY(%s)
"""
_FIND_NODES = "SELECT id FROM nodes"
_FIND_OWN = "SELECT slot, generation FROM slots WHERE node = %s"
# In an order of the node's own: the first webhooks of an installation are in the first slots.
_TAKE = """
UPDATE slots AS s SET node = %s, generation = generation + 1
FROM (
    SELECT slot FROM slots WHERE node IS NULL OR node = ANY(%s)
    ORDER BY hashtext(%s || slot) LIMIT %s FOR UPDATE SKIP LOCKED
) AS free
WHERE s.slot = free.slot RETURNING s.slot, s.generation
"""
_LIST = """
SELECT nodes.id, nodes.name, nodes.version, count(slots.slot)::int,
    greatest(0, extract(epoch FROM nodes.expires_at - clock_timestamp()))::float8,
    nodes.program, nodes.address, coalesce(bool_or(slots.slot = %s), false),
    extract(epoch FROM nodes.beat_at)::float8,
    coalesce(greatest(0, extract(epoch FROM clock_timestamp() - nodes.beat_at)), 0)::float8,
    coalesce(greatest(0, %s - nodes.known_change), 0), extract(epoch FROM clock_timestamp() - nodes.looked_at)::float8
FROM nodes LEFT JOIN slots ON slots.node = nodes.id GROUP BY nodes.id ORDER BY nodes.name, nodes.id
"""
_LAST_CHANGE = "SELECT number FROM heads WHERE name = 'changes'"
_FIND_DRIVERS = """
SELECT slots.slot, nodes.name, nodes.id FROM slots JOIN nodes ON nodes.id = slots.node WHERE slots.slot = ANY(%s)
"""
_COUNT_FREE = "SELECT count(*) FROM slots WHERE node IS NULL OR node NOT IN (SELECT id FROM nodes)"
_GIVE_BACK = "UPDATE slots SET node = NULL WHERE node = %s AND slot = ANY(%s)"
# Those that commit right now are seen the next time.
_NOTE_LIVING = """
UPDATE writers SET alive_at = clock_timestamp() FROM (
    SELECT node, writer FROM writers WHERE node IN (SELECT split_part(id, '.', 1) FROM nodes) FOR UPDATE SKIP LOCKED
) AS living
WHERE writers.node = living.node AND writers.writer = living.writer
"""
_FORGET_WRITERS = """
DELETE FROM writers WHERE alive_at < clock_timestamp() - make_interval(secs => %s)
AND node NOT IN (SELECT split_part(id, '.', 1) FROM nodes)
"""


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a scan has found: slots that the node has taken, with their generations, and slots that it should give back.

    `lost` are slots that the node has held until now, and that another one has taken.
    `nodes` is the number of living nodes, and `dead` are the ids of those whose slots were free to take.
    """

    taken: Mapping[int, int]
    lost: Sequence[int]
    surplus: Sequence[int]
    nodes: int
    dead: Sequence[str]


def process_of(node: str) -> str:
    """Return the process of a node, whose sessions have it in their application name: `webhookd/PROCESS/USE`."""
    return node.rpartition(".")[0]


def register(
    connection: "Connection[Any]", node: str, name: str, version: int, times: LeaseTimes, *, program: str = VERSION
) -> float:
    """Add a node; return the time of the database.

    `node` is its process and a number, as no other node ever had them: `PROCESS.1`. `version` is that of the settings
    it knows, and `program` that of webhookd.
    """
    [[its_time]] = connection.execute(_REGISTER, (node, name, version, times.lease, program)).fetchall()
    return float(its_time)


def note_keys(connection: "Connection[Any]", node: str, key_ids: Sequence[str]) -> None:
    """Store the ids of the master keys that a node has in its files, and so knows also after its next start."""
    connection.execute(_NOTE_KEYS, (" ".join(key_ids), node))


def leave(connection: "Connection[Any]", node: str) -> None:
    """Remove a node that has given back its slots, or that can't know any more whether it has."""
    connection.execute(_LEAVE, (node,))


class Progress(NamedTuple):
    """How far a node has followed the others: the last change it knows, and the seconds since it looked at queues."""

    change: int | None = None
    look_age_seconds: float | None = None


def beat(
    connection: "Connection[Any]",
    node: str,
    times: LeaseTimes,
    progress: Progress = Progress(),  # noqa: B008 - a constant
) -> float | None:
    """Move the end of a node's lease; return the time of the database.

    None if the lease has ended, whatever the node's own clock says.
    """
    row = connection.execute(_BEAT, (times.lease, *progress, node)).fetchone()
    return None if row is None else float(row[0])


def scan(
    connection: "Connection[Any]", node: str, held: Mapping[int, int], times: LeaseTimes, *, may_take: bool = True
) -> Scanned:
    """Remove the dead, and take what is free, up to an equal share; `held` are the node's slots and generations.

    A slot that is the node's in the table but not in `held` was taken in a transaction whose answer was lost: it is
    given back, and taken again with a new generation.
    """
    [[is_settled]] = connection.execute(_IS_SETTLED, (times.settle,)).fetchall()
    dead: list[str] = []
    if is_settled:
        connection.execute(_REMOVE_EXPIRED)
        dead = [row[0] for row in connection.execute(_FIND_DEAD)]
    living = [row[0] for row in connection.execute(_FIND_NODES)]
    # A process that was fenced and is a new node by now goes on with its sessions.
    if ended := {process_of(each) for each in dead} - {process_of(each) for each in living}:
        connection.execute(_END_SESSIONS, (sorted(ended),))
    own = dict(connection.execute(_FIND_OWN, (node,)).fetchall())
    lost = [slot for slot, generation in held.items() if own.get(slot) != generation]
    orphaned = [slot for slot, generation in own.items() if held.get(slot) != generation]
    if orphaned:
        connection.execute(_GIVE_BACK, (node, orphaned))
    share = -(-SLOTS // max(len(living), 1))
    wanted = share - (len(held) - len(lost))
    taken: dict[int, int] = {}
    if may_take and is_settled and wanted > 0:
        taken = dict(connection.execute(_TAKE, (node, dead, node, wanted)).fetchall())
    surplus = surplus_of(held, share) if is_settled and not lost else ()
    return Scanned(taken=taken, lost=lost, surplus=surplus, nodes=len(living), dead=dead)


def read_time(database: Database) -> float:
    """Return the time of the database, in epoch seconds."""
    return float(database.execute_sql(_TIME).fetchone()[0])


def read_nodes(database: Database, own: str) -> Nodes:
    """Return all nodes, as of one moment; `own` is the id of this process's."""
    [[last_change]] = database.execute_sql(_LAST_CHANGE).fetchall()
    rows = database.execute_sql(_LIST, (slot_of(LEADING), last_change)).fetchall()
    [[free]] = database.execute_sql(_COUNT_FREE).fetchall()
    nodes = [
        NodeRow(
            id=node,
            name=name,
            version=version,
            slots=slots,
            seconds_left=round(left, 1),
            program=program,
            address=address,
            leads=leads,
            beat_at=beat_at,
            beat_age_seconds=beat_age,
            changes_behind=behind,
            look_age_seconds=look_age,
        )
        for node, name, version, slots, left, program, address, leads, beat_at, beat_age, behind, look_age in rows
    ]
    return Nodes(own=own, nodes=nodes, free_slots=free, last_change=last_change)


def read_drivers(database: Database, slots: Collection[int]) -> dict[int, tuple[str, str]]:
    """Return the name and the id of the node that has each of some slots; those without a node are left out."""
    rows = database.execute_sql(_FIND_DRIVERS, (sorted(slots),)).fetchall()
    return {slot: (name or node, node) for slot, name, node in rows}


def surplus_of(held: Collection[int], share: int) -> Sequence[int]:
    """Return the slots that a node should give back now, an eighth of what it holds at most.

    They are spread over all that it holds: the first webhooks of an installation are in the first slots. The leader
    stays the leader: its share is one slot at least.
    """
    above = len(held) - share
    if above <= 0:
        return ()
    number = min(above, max(1, len(held) // _SHARE_MOVED))
    ordered = sorted(slot for slot in held if slot != slot_of(LEADING))
    return [ordered[(2 * at + 1) * len(ordered) // (2 * number)] for at in range(number)]


def give_back(connection: "Connection[Any]", node: str, slots: Sequence[int]) -> None:
    """Let others take slots: no actor of theirs runs any more, and its records are committed."""
    connection.execute(_GIVE_BACK, (node, list(slots)))


def forget_writers(database: Database, seconds: float) -> None:
    """Delete the writers of processes that have not been nodes for that long; called more often than that."""
    database.execute_sql(_NOTE_LIVING)
    database.execute_sql(_FORGET_WRITERS, (seconds,))
