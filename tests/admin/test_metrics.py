"""The metrics: their values, and that documentation, dashboards and alerts use existing metrics."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from tests.admin.inprocess import Api, Signer, api_in_process
from tests.cli.test_database import SOUND
from tests.journal.harness import add_endpoint, running
from tests.world import Sent, new_event, world
from webhookd.admin.node_metrics import of_database, of_node
from webhookd.admin.prometheus import KEPT_SECONDS
from webhookd.journal import NodeRow, Nodes, NodeStatus, Store
from webhookd.journal.queries import census
from webhookd.observe.measures import Histogram

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/metrics.md").read_text()
DASHBOARD = (ROOT / "docs/grafana/webhookd.json").read_text()
RULES = (ROOT / "docs/prometheus/alerts.yml").read_text()
NAME = re.compile(r"\b(?:webhookd|process)_[a-z_]+\b")
ALSO = {"histogram": ("_bucket", "_sum", "_count")}


class Exposition:
    """A parsed answer of `/metrics`: families by name, and values by sample name and labels."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        assert len({family.name for family in families}) == len(families)
        self.samples: list[Sample] = [sample for family in families for sample in family.samples]
        # The parser takes the ending off a counter's name.
        self.types = {f"{each.name}_total" if each.type == "counter" else each.name: each.type for each in families}
        self.labels: dict[str, set[str]] = {name: set() for name in self.types}
        for family, name in zip(families, self.types, strict=True):
            for sample in family.samples:
                self.labels[name] |= set(sample.labels) - {"le"}

    def add(self, other: "Exposition") -> None:
        """Add another one's metrics, of which this one has none."""
        assert not self.types.keys() & other.types.keys()
        self.samples += other.samples
        self.types |= other.types
        self.labels |= other.labels

    def value(self, name: str, **labels: str) -> float:
        [value] = [each.value for each in self.samples if each.name == name and each.labels == labels]
        return value

    def sample_names(self) -> set[str]:
        """Return every name that a query can use."""
        endings = {name: ALSO.get(kind, ("",)) for name, kind in self.types.items()}
        return {f"{name}{ending}" for name, several in endings.items() for ending in several}


async def exposed(api: Api) -> Exposition:
    """Return a new exposition after a count of the backlog."""
    exporter = api.services.metrics
    with trio.move_on_after(KEPT_SECONDS):
        await exporter.run()
    answer = await api.ask("GET", "/metrics", None)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return Exposition(answer.text)


class OfNodes(Collector):
    """The metrics of a node and of its database, with some values."""

    def collect(self) -> Iterator[Metric]:
        status = NodeStatus(
            slots=128,
            leads=True,
            beat_age_seconds=0.5,
            leases_lost=1,
            slots_taken=256,
            unreachable_seconds=2.5,
            known_change=7,
        )
        rows = [
            NodeRow(id=f"node_{name}.1", name=name, version=1, slots=128, seconds_left=6.5, program=program)
            for name, program in (("a", "1.0"), ("b", "1.1"))
        ]
        yield from of_node(status)
        yield from of_database(status, Nodes(own="node_a.1", nodes=rows, free_slots=3, last_change=9), SOUND)


@pytest.fixture
async def there_are(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> Exposition:
    """All metrics of a server with a file, and those of nodes."""
    async with api_in_process(tmp_path, Signer()) as api:
        of_file = await exposed(api)
    of_file.add(of_nodes())
    return of_file


def of_nodes() -> Exposition:
    registry = CollectorRegistry()
    registry.register(OfNodes())
    return Exposition(generate_latest(registry).decode())


def expressions(part: object) -> Iterator[str]:
    """Return all queries of a document."""
    if isinstance(part, dict):
        for name, value in part.items():
            if name in {"expr", "query"} and isinstance(value, str):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(part, list):
        for one in part:
            yield from expressions(one)


async def test_every_metric_is_documented(there_are: Exposition) -> None:
    """The list of the documentation has exactly the existing metrics with their types and labels."""
    rows = re.findall(r"^- `((?:webhookd|process)_\w+)` \((\w+)(.*?)\): ", PAGE, re.MULTILINE)
    assert len(rows) == len({name for name, _, _ in rows})
    assert {name: kind for name, kind, _ in rows} == there_are.types
    assert {name: set(re.findall(r"\w+", labels)) for name, _, labels in rows} == there_are.labels


@pytest.mark.parametrize("document", [json.loads(DASHBOARD), yaml.safe_load(RULES)], ids=["dashboard", "alerts"])
async def test_queries_name_metrics_that_there_are(document: object, there_are: Exposition) -> None:
    """Each name in the queries of the dashboard and the rules is an existing sample."""
    used = {name for expression in expressions(document) for name in NAME.findall(expression)}
    assert len(used) > 10
    assert used <= there_are.sample_names()


async def test_queries_name_labels_that_there_are(there_are: Exposition) -> None:
    """The labels in queries are those of our metrics, or labels that Prometheus adds."""
    known = set().union(*there_are.labels.values()) | {"job", "instance", "le"}
    for document in (json.loads(DASHBOARD), yaml.safe_load(RULES)):
        for expression in expressions(document):
            named = re.findall(r"(\w+)(?:=~|!=|=)\"", expression)
            for grouped in re.findall(r"\bby \(([\w, ]+)\)", expression):
                named += re.findall(r"\w+", grouped)
            assert set(named) <= known, expression


def test_every_alert_is_documented() -> None:
    """Each alert has a heading in the documentation and the reverse, and each rule is valid for Prometheus."""
    rules = [rule for group in yaml.safe_load(RULES)["groups"] for rule in group["rules"]]
    headings = re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)
    assert [rule["alert"] for rule in rules] == headings
    for rule in rules:
        assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"]["summary"]
        assert rule["expr"].count("(") == rule["expr"].count(")")


async def test_no_label_comes_from_outside(there_are: Exposition) -> None:
    """No caller can create a series: the values of labels are fixed."""
    labels = set().union(*there_are.labels.values())
    assert labels == {"code", "outcome", "connection", "status", "state", "version", "python", "sqlite", "table"}
    assert len(there_are.samples) < 200


def test_the_metrics_of_nodes_are_those_of_the_facts() -> None:
    """Each value is the one that was read: what a node is behind, versions that differ, slots without a node."""
    said = of_nodes()
    names = "node_changes_behind", "node_versions", "nodes", "slots_without_node", "database_synchronous"
    assert [said.value(f"webhookd_{name}") for name in names] == [2, 2, 2, 3, 1]
    assert said.value("webhookd_database_unreachable_seconds_total") == 2.5
    assert said.value("webhookd_database_oldest_transaction_seconds") == 1.5
    assert said.value("webhookd_database_dead_rows", table="deliveries") == 40
    assert said.value("webhookd_database_partitions_ahead_days") == 7


def test_a_histogram_counts_each_value_once() -> None:
    """A value is in the first bucket with a bound not below it; larger values are counted too."""
    histogram = Histogram((1, 2, 5))
    for value in (0, 1, 1.5, 2, 5, 5.1, 100):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1, 2]
    assert histogram.total == pytest.approx(114.6)


async def test_scrapes_of_one_second_are_one(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """All scrapes within a second get the same bytes, later ones get new ones."""
    async with api_in_process(tmp_path, Signer()) as api:
        first = await api.services.metrics.expose()
        await api.world.publish("e1")
        assert await api.services.metrics.expose() is first
        await trio.sleep(KEPT_SECONDS)
        assert Exposition((await api.services.metrics.expose()).decode()).value("webhookd_events_accepted_total") == 1


async def test_events_are_counted_once(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """A repeated id counts as a duplicate, a refused event by its code, and neither as accepted."""
    async with api_in_process(tmp_path, Signer()) as api:
        _, key = await api.key("ingest")
        event = {"type": "user.created", "data": {}, "id": "e1"}
        for body, status in ((event, 202), (event, 202), ({**event, "x": 1}, 400), ({**event, "type": "no"}, 400)):
            assert (await api.ask("POST", "/api/events", key, body=body)).status_code == status
        said = await exposed(api)
        assert said.value("webhookd_events_accepted_total") == 1
        assert said.value("webhookd_events_duplicate_total") == 1
        assert said.value("webhookd_events_refused_total", code="VALIDATION_ERROR") == 1
        assert said.value("webhookd_events_refused_total", code="UNKNOWN_EVENT_TYPE") == 1


async def test_the_backlog_is_counted_by_index(tmp_path: Path) -> None:
    """No step of the census reads the table of deliveries from end to end, or sorts."""
    async with running(tmp_path / "journal.db") as journal:
        await add_endpoint(journal)
        for sql in (census.PENDING, census.PARKED, census.OLDEST):
            for step in await plan(journal, sql.sqlite):
                # A list of constants in the query is scanned too.
                is_table = step != "SCAN found" and "CONSTANT ROW" not in step
                is_walk = step.startswith("SCAN") and "INDEX" not in step and is_table
                assert not is_walk, step
                assert "TEMP B-TREE" not in step


async def plan(journal: Store, sql: str) -> list[str]:
    def explain(database: Any) -> list[str]:
        return [str(row[3]) for row in database.execute_sql(f"EXPLAIN QUERY PLAN {sql}")]

    return await journal.transactions.read(explain)


async def test_the_oldest_is_the_head_of_an_active_line(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """Held deliveries are pending but don't count for the age; the oldest head of a stuck queue does."""
    async with world(tmp_path) as w:
        w.sender.script = lambda _: 500
        await w.endpoint("https://held.example/", is_active=False)
        await w.publish("held")
        before = await w.journal.transactions.read(census.take)
        assert (before.pending, before.oldest_pending_at, before.inactive_endpoints) == (1, None, 1)
        await trio.sleep(10)
        await w.endpoint()
        stuck_at = w.clock.now()
        for number in range(3):
            await w.router.publish(new_event({"type": "user.created", "data": {}, "id": f"e{number}"})).wait()
            await trio.sleep(5)
        taken = await w.journal.transactions.read(census.take)
        assert (taken.pending, taken.parked, taken.active_endpoints) == (7, 0, 1)
        assert taken.oldest_pending_at == pytest.approx(stuck_at, abs=0.01)
        await trio.sleep(600)
        assert (await w.journal.transactions.read(census.take)).breakers == {"open": 1, "closed": 1}


async def test_what_happened_to_deliveries_is_counted(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """Attempts are counted by outcome, only first ones have a lag, and a failed delivery is counted."""
    async with world(tmp_path) as w:
        answers = iter((500, 200, 410))
        w.sender.script = lambda _: next(answers)
        w.sender.seconds = 0.3
        await w.endpoint()
        await w.publish("e1")
        await trio.sleep(60)
        await w.publish("e2")
        await trio.sleep(60)
        assert w.measures.attempts == {"http_5xx": 1, "success": 1, "gone": 1}
        assert sum(w.measures.durations.counts) == 3
        assert w.measures.durations.total == pytest.approx(0.9)
        assert sum(w.measures.lags.counts) == 2
        assert w.measures.failed_deliveries == 1
        assert sum(w.measures.batches.counts) == sum(w.measures.commits.counts) > 0


async def test_crashes_are_counted_past_their_webhook(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """Each crash of an actor counts, five in a row halt the webhook, and its deletion doesn't reduce the count."""

    def crash(_: Sent) -> int:
        raise RuntimeError("a bug")

    async with api_in_process(tmp_path, Signer()) as api:
        api.world.sender.script = crash
        endpoint = await api.world.endpoint()
        await api.world.publish("e1")
        await trio.sleep(60)
        said = await exposed(api)
        assert said.value("webhookd_actor_crashes_total") == 5
        assert said.value("webhookd_webhooks_halted") == 1
        await api.world.router.delete_endpoint(endpoint.id)
        said = await exposed(api)
        assert said.value("webhookd_actor_crashes_total") == 5
        assert said.value("webhookd_webhooks_halted") == 0


async def test_without_proc_the_gauges_that_need_it_are_left_out(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """In a bare root directory, or on macOS, a scrape still answers with everything else."""
    async with api_in_process(tmp_path, Signer(), process=tmp_path / "proc") as api:
        names = (await exposed(api)).sample_names()
    assert not names & {"process_resident_memory_bytes", "process_open_fds"}
    assert {"process_cpu_seconds_total", "webhookd_journal_bytes"} <= names
