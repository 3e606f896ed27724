"""The metrics of a node and of its database; a server whose journal is a file has none of them.

What a node knows of itself is read from memory during a scrape, also while the database can't be reached. What the
database tells, of all nodes and of itself, every node reads every ten seconds, so that it is known whichever of them is
gone: it is the same at each, and its maximum is what is true, not its sum. While the database can't be reached, or a
reading is old, these metrics are missing.
"""

from collections.abc import Iterator

import trio
from prometheus_client.core import Metric

from webhookd.admin.metric_families import counter, gauge, gauges
from webhookd.base.errors import ReadTimeoutError, Rejected
from webhookd.journal import Nodes, NodeStatus, ServerFacts, Store

READ_SECONDS = 10.0
KEPT_SECONDS = 30.0


class NodeMetrics:
    """Reads what the database tells while `run` runs, and yields the metrics of it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read_at = 0.0
        self._read: tuple[Nodes, ServerFacts] | None = None

    async def run(self) -> None:
        """Read at intervals until canceled; at once for a journal in a file, of which there is nothing to read."""
        while self._store.is_shared:
            began_at = trio.current_time()
            try:
                nodes, facts = await self._store.read_nodes(), await self._store.read_server()
            except (ReadTimeoutError, Rejected):
                self._read = None
            else:
                assert nodes is not None and facts is not None  # noqa: S101, PT018 - the journal is shared
                self._read_at, self._read = began_at, (nodes, facts)
            await trio.sleep(READ_SECONDS)

    @property
    def reading(self) -> tuple[Nodes, ServerFacts] | None:
        """What the database has told last; None if that is too long ago."""
        is_new = trio.current_time() - self._read_at <= KEPT_SECONDS
        return self._read if is_new else None

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics that there are."""
        if (status := self._store.node_status) is None:
            return
        yield from of_node(status)
        if (reading := self.reading) is not None:
            yield from of_database(status, *reading)


def of_node(status: NodeStatus) -> Iterator[Metric]:
    """Yield what a node knows of itself."""
    yield gauge("node_slots", "Slots of webhooks that this node drives", status.slots)
    yield gauge("node_leads", "1 at the node that does what only one may do at a time", int(status.leads))
    yield gauge("node_beat_age_seconds", "Time since this node sent its last good beat", status.beat_age_seconds)
    lost = "Times that other nodes could take slots of this one, because it came too late"
    yield counter("node_leases_lost", lost, status.leases_lost)
    yield counter("node_slots_taken", "Slots that this node has taken", status.slots_taken)
    outage = "Time for which this node could not reach the database"
    yield counter("database_unreachable_seconds", outage, status.unreachable_seconds)


def of_database(status: NodeStatus, nodes: Nodes, facts: ServerFacts) -> Iterator[Metric]:
    """Yield what the database tells of all nodes and of itself, and how far this node has followed it."""
    behind = max(0, nodes.last_change - status.known_change)
    yield gauge("node_changes_behind", "Changes of settings that this node has not followed yet", behind)
    yield gauge("nodes", "Nodes that are registered", len(nodes.nodes))
    versions = len({(node.program, node.version) for node in nodes.nodes})
    yield gauge("node_versions", "Different versions of webhookd among the nodes", versions)
    yield gauge("slots_without_node", "Slots of webhooks to which nothing is sent", nodes.free_slots)
    oldest = max(facts.oldest_seconds or 0.0, facts.oldest_prepared_seconds or 0.0)
    yield gauge("database_oldest_transaction_seconds", "Age of the oldest transaction that is open", oldest)
    yield gauges("database_dead_rows", "Versions of rows that wait to be vacuumed", "table", facts.dead_rows)
    yield gauge("database_connections", "Connections that the server has", facts.used_connections)
    yield gauge("database_connections_limit", "Connections that webhookd's user may have", facts.connections)
    yield gauge("database_standbys", "Standbys that are connected", facts.standbys)
    yield gauge("database_synchronous", "1 if commits wait for a standby", int(facts.is_synchronous))
    if facts.days_ahead is not None:
        yield gauge("database_partitions_ahead_days", "Days after today that have their partitions", facts.days_ahead)
