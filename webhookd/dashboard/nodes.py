"""The page of the nodes that share a database, and of the database; for a journal in a file there is none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quart import Response

from webhookd.admin.auth import Permission
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.dashboard.formatting import capitalized, duration, plural
from webhookd.dashboard.live import live
from webhookd.dashboard.pages import Visit, page
from webhookd.journal import CONNECTIONS_A_NODE, NodeRow, Nodes, ServerFacts

PARTS = ("summary", "problems", "list", "database")
KEPT_SECONDS = 1.5
LATE_BEAT_SECONDS = 4.0  # two beats
LATE_LOOK_SECONDS = 10.0
OLD_TRANSACTION_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class ListedNode:
    """One node of the list, with its state in a word and a tone."""

    row: NodeRow
    is_own: bool
    word: str
    tone: str


async def show_nodes(visit: Visit) -> Response:
    """Show the nodes."""
    return await visit.render("nodes.html", await _values(visit))


async def node_parts(visit: Visit) -> Mapping[str, str]:
    """Render the live parts, once for all callers: they may see the same."""

    async def make() -> Mapping[str, str]:
        values = await _values(visit)
        return {name: visit.part(f"nodes/{name}.html", values) for name in PARTS}

    return await visit.cache.get(("nodes",), KEPT_SECONDS, make)


async def _values(visit: Visit) -> Mapping[str, object]:
    store = visit.services.store
    if not store.is_shared or visit.caller.organization_id is not None:
        raise Rejected(ErrorCode.NOT_FOUND, "there is no such page")
    nodes, facts = await store.read_nodes(), await store.read_server()
    assert nodes is not None and facts is not None  # noqa: S101, PT018 - the journal is shared
    return {
        "nodes": [listed(row, is_own=row.id == nodes.own) for row in nodes.nodes],
        "free_slots": nodes.free_slots,
        "facts": facts,
        "needed_connections": len(nodes.nodes) * CONNECTIONS_A_NODE,
        "problems": problems_of(nodes, facts),
    }


def listed(row: NodeRow, *, is_own: bool) -> ListedNode:
    """Return a node with its state."""
    if row.beat_age_seconds > LATE_BEAT_SECONDS:
        return ListedNode(row, is_own, "late", "bad")
    if row.look_age_seconds is None:
        return ListedNode(row, is_own, "starting", "idle")
    if row.changes_behind or row.look_age_seconds > LATE_LOOK_SECONDS:
        return ListedNode(row, is_own, "behind", "warn")
    return ListedNode(row, is_own, "in step", "good")


def problems_of(nodes: Nodes, facts: ServerFacts) -> Sequence[tuple[str, str, str]]:
    """Return what needs attention: tone, word and sentence of each, worst first."""
    found: list[tuple[str, str, str]] = []
    if nodes.free_slots:
        slots = plural(nodes.free_slots, "slot")
        has = "has" if nodes.free_slots == 1 else "have"
        found.append(("bad", "no node", f"{slots} {has} no node: nothing is sent to their webhooks."))
    if facts.standbys and not facts.is_synchronous:
        sentence = "No commit waits for a standby, so a failover may lose acknowledged events."
        found.append(("warn", "asynchronous", sentence))
    if not facts.vacuums or facts.unvacuumed:
        what = "" if not facts.vacuums else f" for {', '.join(facts.unvacuumed)}"
        found.append(("warn", "autovacuum", f"Autovacuum is off{what}: reading a queue slows down."))
    oldest = max(facts.oldest_seconds or 0.0, facts.oldest_prepared_seconds or 0.0)
    if oldest > OLD_TRANSACTION_SECONDS:
        sentence = f"A transaction has been open for {duration(oldest)}, and nothing newer is vacuumed."
        found.append(("warn", "transaction", sentence))
    versions = sorted({capitalized(row.program or "unknown") for row in nodes.nodes})
    if len(versions) > 1:
        found.append(("idle", "versions", f"The nodes have different versions: {', '.join(versions)}."))
    return found


PAGES = (
    page("nodes", "GET /nodes", Permission.READ, show_nodes, label="Nodes", of_nodes=True),
    live("nodes_live", "GET /nodes/live", Permission.READ, node_parts),
)
