"""A witness in the database: triggers note each change of a slot's owner, and each record with the owner of its slot.

A record is noted at its commit, so one that passes its check and commits after another node has taken the slot shows,
and so does one whose slot was taken, perhaps by its own process as another node, since its transaction began.
All times are those of the machine's clock, which receivers read too.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.postgres_server import PostgresServer

_MAKE = """
CREATE SCHEMA witness;
CREATE TABLE witness.takes (
    number bigint GENERATED ALWAYS AS IDENTITY, slot int, before text, node text, generation bigint,
    was_living boolean, at double precision
);
CREATE TABLE witness.records (
    delivery_pk bigint, process text, node text, was_taken boolean, at double precision
);
CREATE INDEX ON witness.takes (slot);
CREATE FUNCTION witness.take() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO witness.takes (slot, before, node, generation, was_living, at)
    VALUES (NEW.slot, OLD.node, NEW.node, NEW.generation,
        EXISTS (SELECT FROM public.nodes WHERE id = OLD.node AND expires_at > clock_timestamp()),
        extract(epoch FROM clock_timestamp()));
    RETURN NULL;
END
$$;
CREATE TRIGGER witness AFTER UPDATE ON slots FOR EACH ROW
    WHEN (OLD.node IS DISTINCT FROM NEW.node) EXECUTE FUNCTION witness.take();
CREATE FUNCTION witness.record() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO witness.records (delivery_pk, process, node, was_taken, at)
    SELECT NEW.pk, split_part(current_setting('application_name'), '/', 2), node,
        EXISTS (
            SELECT FROM witness.takes
            WHERE takes.slot = slots.slot AND takes.node IS NOT NULL AND at > extract(epoch FROM now())
        ),
        extract(epoch FROM clock_timestamp())
    FROM public.slots WHERE slot = NEW.endpoint_pk % 256;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER witness AFTER UPDATE ON deliveries DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.attempts > OLD.attempts) EXECUTE FUNCTION witness.record();
"""


class Take(NamedTuple):
    """A change of a slot's owner; None is no node. `was_living` is about the owner before."""

    slot: int
    before: str | None
    node: str | None
    was_living: bool
    at: float

    @property
    def is_from_dead(self) -> bool:
        """Whether a node took the slot from another one."""
        return self.before is not None and self.node is not None


class Witness:
    """Reads what has been noted; it blocks for some milliseconds, which tests may."""

    def __init__(self, server: PostgresServer, database: str) -> None:
        self.database = database
        self._server = server

    def begin(self) -> None:
        """Make the triggers, once the tables are there."""
        with self._server.administer(self.database) as connection:
            connection.execute(_MAKE)

    def ask(self, sql: str, *parameters: object) -> list[tuple[object, ...]]:
        """Return the rows of a query."""
        with self._server.administer(self.database) as connection:
            return connection.execute(sql, parameters or None).fetchall()

    def slots_of(self, process: str) -> set[int]:
        """Return the slots that are in the name of a process."""
        rows = self.ask("SELECT slot FROM slots WHERE split_part(node, '.', 1) = %s", process)
        return {int(str(slot)) for (slot,) in rows}

    def slots_under(self, node: str) -> set[int]:
        """Return the slots of a node, which may be one that a process was before."""
        return {int(str(slot)) for (slot,) in self.ask("SELECT slot FROM slots WHERE node = %s", node)}

    def shares(self) -> dict[str, int]:
        """Return how many slots are in the name of each process."""
        rows = self.ask("SELECT split_part(node, '.', 1), count(*) FROM slots WHERE node IS NOT NULL GROUP BY 1")
        return {str(process): int(str(number)) for process, number in rows}

    def takes(self) -> list[Take]:
        """Return all changes of owners, in their order."""
        sql = "SELECT slot, before, node, was_living, at FROM witness.takes ORDER BY number"
        return [Take(*row) for row in self.ask(sql)]  # type: ignore[arg-type]  # the columns are of its types

    def living(self) -> int:
        """Return how many nodes have a lease."""
        [[number]] = self.ask("SELECT count(*) FROM nodes WHERE expires_at > clock_timestamp()")
        return int(str(number))

    def end_lease(self, process: str) -> str:
        """End the lease of a process now, as a standby with a clock that is ahead does; return the node's id."""
        [[node]] = self.ask(
            "UPDATE nodes SET expires_at = clock_timestamp() WHERE split_part(id, '.', 1) = %s RETURNING id", process
        )
        return str(node)

    def stand_in_transaction(self, process: str) -> bool:
        """Whether a session of a process holds locks in a transaction that it has not ended."""
        sql = (
            "SELECT count(*) FROM pg_stat_activity WHERE split_part(application_name, '/', 2) = %s "
            "AND split_part(application_name, '/', 3) = 'writer' AND backend_xid IS NOT NULL"
        )
        return self.ask(sql, process) != [(0,)]

    def waits_for_lock(self, process: str) -> bool:
        """Whether a session of a process waits for a row that another one has locked."""
        sql = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE split_part(application_name, '/', 2) = %s AND wait_event_type = 'Lock'"
        )
        return self.ask(sql, process) != [(0,)]

    def problems(self) -> Iterator[str]:
        """Yield what must never happen, whatever the receivers have seen."""
        for take in self.takes():
            if take.was_living and take.node is not None:
                yield f"slot {take.slot} was taken from a living node: {take.node} took it from {take.before}"
        sql = (
            "SELECT delivery_pk, process, node FROM witness.records "
            "WHERE was_taken OR process <> split_part(coalesce(node, ''), '.', 1)"
        )
        for delivery_pk, process, node in self.ask(sql):
            yield f"delivery {delivery_pk} was recorded by a node that had lost the webhook: {process}, and not {node}"
        [[deadlocks]] = self.ask("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        if deadlocks:
            yield f"transactions waited for each other in a circle, {deadlocks} times"


class Owners:
    """Who had a slot at a time."""

    def __init__(self, takes: Sequence[Take]) -> None:
        self._of: dict[int, list[Take]] = defaultdict(list)
        for take in takes:
            self._of[take.slot].append(take)

    def at(self, slot: int, moment: float) -> Take | None:
        """Return the last change of a slot's owner before a moment."""
        return next((take for take in reversed(self._of[slot]) if take.at <= moment), None)

    def from_dead(self, slot: int) -> int:
        """Return how often a node took the slot from another one."""
        return sum(take.is_from_dead for take in self._of[slot])

    def between(self, slot: int, begin: float, end: float) -> int:
        """Return how often a node took the slot between two moments."""
        return sum(take.node is not None and begin <= take.at <= end for take in self._of[slot])
