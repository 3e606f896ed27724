"""Nodes of two versions on one database: what both know goes on, and what only one of them knows is refused.

The next version is planted: it knows settings, and has tables, that this one doesn't know.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Thread
from typing import Any

import pytest
import trio
from peewee import Database

from tests.journal.postgres.connections import connected, rows, value
from tests.journal.postgres.nodes import Nodes, Open, endpoint_of
from tests.patience import until, wait_until
from tests.world import World
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import Endpoint, PolicyOverrides, Role, SignatureChoice, SignatureForm
from webhookd.journal import EndpointChanges, EventTypeRow, KeyRow
from webhookd.journal.known_settings import SINCE, KnownSettings
from webhookd.journal.postgres import changes, leases, migrations, tables, versions
from webhookd.journal.postgres.database import PostgresDatabase
from webhookd.journal.queries import keys
from webhookd.journal.server import LeaseTimes

NEXT = KnownSettings(
    version=2, since={**SINCE, "webhook.burstWindow": 2, "webhook.signature.form=hex": 2, "eventType.deprecated": 2}
)
NEW = "webhook.burstWindow"
NOW = 1_700_000_000.0


class NextOverrides(PolicyOverrides, omit_defaults=True, frozen=True, kw_only=True):
    """The policy of the next version."""

    burst_window: int | None = None


BURSTS = EndpointChanges(overrides=NextOverrides(burst_window=5))


@contextmanager
def refused(*parts: str) -> Iterator[None]:
    """Check that the block is refused with a conflict, whose text has these parts."""
    with pytest.raises(Rejected) as caught:
        yield
    assert caught.value.code is ErrorCode.CONFLICT
    assert [part for part in parts if part not in f"{caught.value.detail} {caught.value.errors}"] == []


def stored(node: World, endpoint: Endpoint, column: str) -> Any:
    """Return the query for a column of a webhook, as it is stored."""

    def query(database: Database) -> Any:
        sql = f"SELECT {column} FROM endpoints WHERE pk = %s"  # noqa: S608 - a test's own
        return json.loads(database.execute_sql(sql, (endpoint.pk,)).fetchone()[0])  # type: ignore[no-untyped-call]  # peewee's stubs

    return node.journal.transactions.read(query)


# Settings


async def test_a_setting_is_refused_while_an_older_node_is_registered(open_nodes: Open) -> None:
    """It names the node and the setting, and changes nothing; once that node has gone, the setting is taken."""
    async with open_nodes() as nodes:
        older, newer = await nodes.start(), await nodes.start(known=NEXT)
        with refused("node-1", "doesn't know burstWindow", "/burstWindow"):
            await newer.endpoint(overrides=NextOverrides(burst_window=5))
        endpoint = await newer.endpoint(overrides=PolicyOverrides(timeout_seconds=7))
        assert await newer.journal.webhooks.all() == [endpoint]
        with refused("node-1", "burstWindow"):
            await newer.router.update_endpoint(endpoint.id, BURSTS)
        with refused("node-1", "signature.form=hex", "/signature/form"):
            hexadecimal = EndpointChanges(signature=SignatureChoice(form=SignatureForm.HEX))
            await newer.router.update_endpoint(endpoint.id, hexadecimal)
        assert await newer.journal.webhooks.get(endpoint.id) == endpoint
        row = EventTypeRow(name="a.b", deprecated=True)
        with refused("node-1", "deprecated"):
            await newer.journal.event_types.put(row, NOW, entry=None, condition=None)
        found = await newer.journal.read_nodes()
        assert found is not None
        assert [(node.name, node.version) for node in found.nodes] == [("node-1", 1), ("node-2", 2)]
        await nodes.stop(older)
        await newer.router.update_endpoint(endpoint.id, BURSTS)
        assert await stored(newer, endpoint, "overrides") == {"burstWindow": 5}
        await newer.journal.event_types.put(row, NOW, entry=None, condition=None)


async def test_a_setting_is_not_refused_for_what_is_known(open_nodes: Open) -> None:
    """Next to an older node all goes on that it knows too, also at a webhook that has a newer setting already."""
    async with open_nodes() as nodes:
        newer = await nodes.start(known=NEXT)
        endpoint = await newer.endpoint()
        await newer.router.update_endpoint(endpoint.id, BURSTS)
        await nodes.start()
        changed = await newer.router.update_endpoint(endpoint.id, EndpointChanges(description="known"))
        assert changed.description == "known"
        await newer.router.delete_endpoint(endpoint.id)


async def test_an_older_node_keeps_a_setting_that_it_does_not_know(open_nodes: Open) -> None:
    """It starts, delivers and changes what it knows, and the rest is still stored after that."""
    async with open_nodes() as nodes:
        newer = await nodes.start(known=NEXT)
        endpoint = await newer.endpoint()
        await newer.router.update_endpoint(endpoint.id, BURSTS)
        await nodes.stop(newer)
        older = await nodes.start()
        await older.publish("e")
        await until(partial(nodes.have_sent, endpoint.url, 1))
        overrides = PolicyOverrides(timeout_seconds=3)
        changed = await older.router.update_endpoint(endpoint.id, EndpointChanges(overrides=overrides))
        assert changed.overrides == overrides
        assert await stored(older, endpoint, "overrides") == {"burstWindow": 5, "timeoutSeconds": 3}


async def test_an_older_node_follows_a_change_that_it_does_not_understand(open_nodes: Open) -> None:
    """A change that was under way when it registered is no reason to stop: it goes on with what it knows."""
    async with open_nodes() as nodes:
        older, other = await nodes.two()
        endpoint = await endpoint_of(older, other)

        def change(database: Database) -> None:
            database.execute_sql(  # type: ignore[no-untyped-call]  # peewee's stubs
                """UPDATE endpoints SET overrides = '{"burstWindow": 5, "ordering": "newest", "timeoutSeconds": 3}',
                signature = '{"form": "v3", "ed25519": false}' WHERE pk = %s""",
                (endpoint.pk,),
            )

        await other.journal.transactions.write(change)
        await other.router.update_endpoint(endpoint.id, EndpointChanges(description="changed"))
        await until(lambda: (lane := lane_of(older, endpoint)) and lane.endpoint.description == "changed")
        assert lane_of(older, endpoint).endpoint.overrides == PolicyOverrides(timeout_seconds=3)
        await other.publish("e")
        await until(partial(nodes.have_sent, endpoint.url, 1))


def lane_of(node: World, endpoint: Endpoint) -> Any:
    return node.router.registry.lane(endpoint.pk)


async def test_a_key_whose_role_an_older_node_does_not_know_opens_nothing_there(open_nodes: Open) -> None:
    """It is left out, also where it is followed as a change, and the other keys work."""

    def add_newer(database: Database) -> None:
        database.execute_sql(  # type: ignore[no-untyped-call]  # peewee's stubs
            "INSERT INTO api_keys (id, role, name, key_hash, created_at) VALUES ('key_new', 'auditor', '', 'x', 0)"
        )

    async with open_nodes() as nodes:
        older = await nodes.start()
        row = KeyRow(
            id="key_old",
            role=Role.VIEWER,
            name="",
            organization_id=None,
            key_hash=b"y",
            created_at=NOW,
            expires_at=None,
        )
        await older.journal.keys.create(row, most=1, entry=None)
        await older.journal.transactions.write(add_newer)
        assert await older.journal.keys.all() == [row]
        assert (await older.journal.keys.page(None, limit=5, cursor=None)).items == [row]
        assert await older.journal.transactions.read(keys.find, "key_new") is None


# A node that registers at the same moment


def register(database: PostgresDatabase) -> None:
    leases.register(database.connection(), "node_old.1", "old", 1, LeaseTimes())  # type: ignore[no-untyped-call]  # peewee's stubs


def change_setting(database: PostgresDatabase) -> None:
    """Do what a change of settings does first."""
    changes.take_mark(database.connection())  # type: ignore[no-untyped-call]  # peewee's stubs
    versions.check_known(database, NEXT, [NEW])


def is_waiting(database: PostgresDatabase, waiting: PostgresDatabase) -> bool:
    return bool(value(database, "SELECT cardinality(pg_blocking_pids(%s)) > 0", waiting.backend_pid))


def test_a_node_that_registers_waits_for_a_change_of_settings(journal_database: str) -> None:
    """The change has found no older node, so none is registered before it is committed."""
    with connected(journal_database) as changing, connected(journal_database) as other:
        registering = Thread(target=register, args=[other])
        with changing.atomic():
            change_setting(changing)
            registering.start()
            wait_until(lambda: is_waiting(changing, other))
            assert value(changing, "SELECT count(*) FROM nodes") == 0
        registering.join()
        assert value(changing, "SELECT count(*) FROM nodes") == 1


def test_a_change_of_settings_waits_for_a_node_that_registers(journal_database: str) -> None:
    """It then finds that node, and is refused."""
    errors: list[Exception] = []

    def change(database: PostgresDatabase) -> None:
        try:
            with database.atomic():
                change_setting(database)
        except Rejected as error:
            errors.append(error)

    with connected(journal_database) as registering, connected(journal_database) as other:
        changing = Thread(target=change, args=[other])
        with registering.atomic():
            register(registering)
            changing.start()
            wait_until(lambda: is_waiting(registering, other))
        changing.join()
        assert value(registering, "SELECT number FROM heads WHERE name = 'changes'") == 0
    [error] = errors
    assert "the node old (node_old.1)" in str(error)


def test_a_node_whose_lease_has_ended_is_no_reason(journal_database: str) -> None:
    """It stands in the list until another node removes it, and can't come back under that id."""
    with connected(journal_database) as database:
        register(database)
        rows(database, "UPDATE nodes SET expires_at = clock_timestamp() - interval '1 second'")
        with database.atomic():
            change_setting(database)


# Tables


def add_to_tables(database: Database, _now: float) -> None:
    """The tables of the next version."""
    for table in tables.TABLES:
        database.execute_sql(f"ALTER TABLE {table} ADD COLUMN added bigint NOT NULL DEFAULT 7")  # type: ignore[no-untyped-call]  # peewee's stubs
    database.execute_sql("CREATE TABLE additions (number bigint)")  # type: ignore[no-untyped-call]  # peewee's stubs


async def use(nodes: Nodes, node: World, name: str) -> None:
    """Do what a node does: add and change settings, publish, fail and retry."""
    endpoint = await node.endpoint(url=f"https://{name}.example/")
    await node.publish(name)
    await until(partial(nodes.have_sent, endpoint.url, 1))
    await node.journal.event_types.put(EventTypeRow(name=f"{name}.made"), NOW, entry=None, condition=None)
    await node.router.update_endpoint(endpoint.id, EndpointChanges(description=name))
    while (row := (await node.deliveries(endpoint))[0]).completed_at is None:
        await trio.sleep(0.01)
    await node.router.retry(row.id, None, force=True)
    await until(partial(nodes.have_sent, endpoint.url, 2))
    await node.router.delete_endpoint(endpoint.id)


async def test_nodes_go_on_while_a_newer_one_changes_the_tables(open_nodes: Open, empty_database: str) -> None:
    """A node of this version serves before, during and after the upgrade, and another one can be started after it."""

    def upgrade() -> None:
        with connected(empty_database) as database:
            migrations.prepare(database, now=NOW, steps=(*migrations._STEPS, add_to_tables))

    async with open_nodes() as nodes:
        one = await nodes.start()
        await use(nodes, one, "before")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, upgrade)
            await use(nodes, one, "during")
        await use(nodes, one, "after")
        other = await nodes.start()
        await nodes.shared()
        await use(nodes, other, "started")
        assert await one.journal.transactions.read(migrations.read_version) == len(migrations._STEPS) + 1
