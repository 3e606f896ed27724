"""What each of several nodes shows: who drives a webhook, the nodes, the database, and the metrics of them."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import trio
from peewee import Database

from tests.admin.inprocess import OWN_UID, Api, Signer, api_of
from tests.admin.test_metrics import Exposition, of_nodes
from tests.dashboard.browsing import Site, text_of
from tests.journal.postgres.connections import connected, rows
from tests.journal.postgres.nodes import PATIENT, Nodes, Open, endpoint_of, slots_of
from tests.patience import until
from tests.world import World
from webhookd.admin.prometheus import KEPT_SECONDS
from webhookd.base.models import PolicyOverrides, RateLimit
from webhookd.base.version import VERSION
from webhookd.journal.ownership import SLOTS

OFTEN_SECONDS = 0.02


async def api_at(node: World, directory: Path, name: str) -> Api:
    (directory / name).mkdir()
    return await api_of(node, directory / name, Signer())


async def ask(api: Api, path: str) -> Any:
    answer = await api.ask("GET", path, None, uid=OWN_UID)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_each_node_says_who_drives_a_webhook(open_nodes: Open, tmp_path: Path) -> None:
    """Its health names the node, and is the same at each but for what only the driving one knows."""
    async with open_nodes(PATIENT) as nodes:
        one, other = await nodes.two()
        theirs = await endpoint_of(other, at=one)
        apis = [await api_at(node, tmp_path, str(number)) for number, node in enumerate((one, other))]
        released = trio.Event()
        nodes.sender.held_by = lambda sent: released if sent.url == theirs.url else None
        await one.publish("held")
        await until(partial(nodes.have_sent, theirs.url, 1))
        path = f"/api/webhooks/{theirs.id}"
        name = names_of(nodes)[other]
        here, there = [(await ask(api, path))["health"] for api in (apis[1], apis[0])]
        assert (here["node"], here["sending"], here["reason"]) == (name, True, None)
        said = f"Due at the node {name}, which alone knows whether a request is in flight"
        assert (there["node"], there["sending"], there["reason"]) == (name, False, said)
        [listed] = [row for row in (await ask(apis[0], "/api/webhooks?limit=100"))["data"] if row["id"] == theirs.id]
        assert listed["health"]["node"] == name
        nodes.sender.script = lambda _: 500
        released.set()
        await until(lambda: other.measures.attempts.get("http_5xx", 0) > 0)
        for api in apis:
            while (await ask(api, path))["health"]["consecutiveFailures"] == 0:
                await trio.sleep(OFTEN_SECONDS)
            assert (await ask(api, path))["health"]["reason"].startswith("Backing off after a failure, last: HTTP 500")


def names_of(nodes: Nodes) -> dict[World, str]:
    return {node: f"node-{number}" for number, node in enumerate(nodes.all, 1)}


async def test_the_list_of_nodes_says_how_each_is(open_nodes: Open, tmp_path: Path) -> None:
    """Its slots, its version, whether it leads, when it beat last and whether it has followed all changes."""
    async with open_nodes(PATIENT) as nodes:
        leader, other = await nodes.two()
        api = await api_at(other, tmp_path, "other")
        await leader.endpoint()

        async def found() -> dict[str, Any]:
            return {row["name"]: row for row in (await ask(api, "/api/nodes"))["nodes"]}

        names = names_of(nodes)
        while any(row["changesBehind"] for row in (await found()).values()):
            await trio.sleep(OFTEN_SECONDS)
        rows_found = await found()
        for node in (leader, other):
            row = rows_found[names[node]]
            assert (row["slots"], row["program"], row["leads"]) == (len(slots_of(node)), VERSION, node is leader)
            assert (row["address"], row["own"]) == (None, node is other)
            assert row["lastBeatAt"] is not None
            assert 0 <= row["beatAgeSeconds"] < 60
        async with other.journal.holding_changes():  # it stands still
            await leader.endpoint()
            await leader.endpoint()
            while (await found())[names[other]]["changesBehind"] != 2:
                await trio.sleep(OFTEN_SECONDS)


def fence(database: Database, process: str) -> None:
    """End the lease of a node, as a scan does that finds it too old."""
    database.execute_sql("DELETE FROM nodes WHERE split_part(id, '.', 1) = %s", (process,))  # type: ignore[no-untyped-call]  # peewee's stubs


def leases_lost(node: World) -> int:
    status = node.journal.node_status
    assert status is not None
    return status.leases_lost


async def test_the_metrics_of_nodes_are_at_each_of_them(open_nodes: Open, tmp_path: Path) -> None:
    """Those of the whole system are the same at each; a lease that was lost is counted once."""
    async with open_nodes(PATIENT) as nodes, trio.open_nursery() as nursery:
        leader, other = await nodes.two()
        apis = {node: await api_at(node, tmp_path, str(at)) for at, node in enumerate((leader, other))}
        for api in apis.values():
            nursery.start_soon(api.services.metrics.nodes.run)

        async def scraped(node: World) -> Exposition:
            while "webhookd_nodes" not in (text := (await apis[node].ask("GET", "/metrics", None)).text):
                await trio.sleep(KEPT_SECONDS)
            return Exposition(text)

        for node in (leader, other):
            said = await scraped(node)
            assert of_nodes().types.items() <= said.types.items()
            assert said.value("webhookd_nodes") == 2
            assert said.value("webhookd_slots_without_node") == 0
            assert said.value("webhookd_node_versions") == 1
            assert said.value("webhookd_node_slots") == SLOTS // 2
            assert said.value("webhookd_node_leads") == (node is leader)
            assert said.value("webhookd_node_leases_lost_total") == 0
            assert said.value("webhookd_database_synchronous") == 0
            assert 0 <= said.value("webhookd_node_beat_age_seconds") < 60
            assert {sample.labels["table"] for sample in said.samples if "table" in sample.labels} >= {
                "deliveries",
                "sequences",
            }
        taken = [(await scraped(node)).value("webhookd_node_slots_taken_total") for node in (leader, other)]
        assert sum(taken) >= SLOTS + SLOTS // 2  # the first one has given half of them back
        await leader.journal.transactions.write(fence, other.journal.transactions.process)
        await until(lambda: leases_lost(other) == 1)
        await nodes.shared()
        assert leases_lost(other) == 1
        nursery.cancel_scope.cancel()


async def test_the_page_of_nodes(open_nodes: Open, tmp_path: Path, empty_database: str) -> None:
    """It lists the nodes and the database's facts, for callers without an organization alone."""
    async with open_nodes(PATIENT) as nodes:
        one, _ = await nodes.two()
        site = Site(await api_at(one, tmp_path, "one"))
        visitor = await site.visitor("viewer")
        assert 'href="/nodes"' in await visitor.page("/")
        said = text_of(await visitor.page("/nodes"))
        for name in names_of(nodes).values():
            assert name in said
        assert "256 of 256 slots have a node" in said
        assert "leads" in said
        assert "Replication none" in said
        _, stream = await visitor.stream("/nodes/live", 0.5)
        assert "event: list" in stream
        bound = await site.visitor("admin", organizationId="acme")
        assert 'href="/nodes"' not in await bound.page("/")
        assert (await bound.get("/nodes")).status_code == 404
        with connected(empty_database) as database:
            rows(database, "ALTER TABLE deliveries SET (autovacuum_enabled = off)")
        assert "Autovacuum is off for deliveries" in text_of(await visitor.page("/nodes"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.api.services.metrics.nodes.run)
            while "Autovacuum is off for deliveries" not in text_of(await visitor.page("/")):
                await trio.sleep(OFTEN_SECONDS)
            nursery.cancel_scope.cancel()


async def test_the_page_of_a_webhook_says_who_drives_it(open_nodes: Open, tmp_path: Path) -> None:
    """At another node it shows no tokens and no requests in flight, which it can't know."""
    async with open_nodes(PATIENT) as nodes:
        one, other = await nodes.two()
        overrides = PolicyOverrides(rate_limit=RateLimit(per_second=5, burst=7))
        for number in range(SLOTS):
            theirs = await one.endpoint(url=f"https://receiver.example/{number}", overrides=overrides)
            if other.journal.ownership.owns(theirs.pk):
                break
        said = {}
        for node in (one, other):
            site = Site(await api_at(node, tmp_path, names_of(nodes)[node]))
            visitor = await site.visitor("viewer")
            while (text := text_of(await visitor.page("/webhooks"))) and "receiver.example" not in text:
                await trio.sleep(OFTEN_SECONDS)
            said[node] = text_of(await visitor.page(f"/webhooks/{theirs.id}"))
        name = names_of(nodes)[other]
        assert f"Driven by the node {name}, this one" in said[other]
        assert re.search(r"\d of 7 tokens", said[other])
        assert f"Driven by the node {name}, this one" not in said[one]
        assert f"Driven by the node {name}" in said[one]
        assert "burst 7" in said[one]
        assert "known to its node" in said[one]
