"""What a node that goes on does when its database was replaced: by another server, or by a new database of its name.

And when its address gives no answer any more, while some of its connections still work.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import psycopg
import pytest
import trio

from tests.journal.harness import CLOCK, IDS, VAULT
from tests.journal.postgres.connections import connected, rows
from tests.journal.postgres.nodes import PATIENT, QUICK
from tests.journal.postgres.test_outage import running
from tests.journal.postgres.test_shared_rotation import begin, cluster, open_everything, sealed_under, stage
from tests.journal.store_calls import add
from tests.journal.test_both_engines import new_webhook
from tests.patience import PATIENCE_SECONDS, until
from tests.postgres_server import OWNER, PostgresServer
from tests.stages import at_stage
from webhookd.base.database_url import parse
from webhookd.base.errors import Rejected
from webhookd.crypto.vault import Vault, key_id
from webhookd.journal import DatabaseReplaced, InlineRunner, QueueGrown, QueuesFound, Server, open_store
from webhookd.journal.feed import Feed
from webhookd.journal.ownership import SLOTS, Everything, slot_of
from webhookd.journal.postgres import database
from webhookd.journal.postgres.database import ConnectionRole
from webhookd.journal.postgres.outages import OutageLog
from webhookd.journal.postgres.wakes import CHANGED, CHANNEL, Wakes
from webhookd.journal.queries import endpoints

T = TypeVar("T")
Administrator = psycopg.Connection[Any]

NEVER_LOOKS = replace(QUICK, look=86_400.0)
END_NODE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND application_name LIKE '%%/node'"
)
PARTS = ("listener", "changes", "notifier")
HAS_PART = "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND application_name LIKE '%%/' || %s"
END_PART = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND application_name LIKE '%%/' || %s
"""
LEASE = "SELECT expires_at FROM nodes"
BRING_BACK = """
UPDATE secrets SET sealed = kept.sealed FROM kept
WHERE (kept.endpoint_pk, kept.kind) = (secrets.endpoint_pk, secrets.kind)
"""
# The driver ends a transaction that has failed with the one or the other.
HAS_FAILED = """
SELECT 1 FROM pg_stat_activity WHERE datname = %s AND application_name LIKE '%%/node' AND state = 'idle'
AND query IN ('ROLLBACK', 'DEALLOCATE ALL')
"""


@pytest.fixture
def address(spare_server: PostgresServer) -> Iterator[Path]:
    """A directory that can be pointed at the socket of any server, as an address that follows the primary."""
    path = spare_server.directory / "address"
    yield path
    path.unlink(missing_ok=True)


def point(address: Path, directory: Path) -> None:
    """Have new connections go to the server of a directory; those that there are stay where they are."""
    new = address.with_name("new address")
    new.symlink_to(directory)
    new.rename(address)


@contextmanager
def empty_namesake(server: PostgresServer, name: str) -> Iterator[None]:
    """Have a server with an empty database of a name."""
    with server.administer() as administrator:
        administrator.execute(f"CREATE DATABASE {name} OWNER {OWNER}".encode())
        yield
        administrator.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


async def test_notifications_follow_the_database(
    postgres_server: PostgresServer, spare_server: PostgresServer, address: Path
) -> None:
    """The new server's notifications are heard and it gets some, although connections to the old one still work."""
    point(address, postgres_server.directory)
    with (
        postgres_server.database() as name,
        empty_namesake(spare_server, name),
        postgres_server.administer(name) as before,
        spare_server.administer(name) as after,
        trio.fail_after(2 * PATIENCE_SECONDS),
    ):
        server = Server(url=parse(f"postgresql://{OWNER}@/{name}?host={address}"), times=NEVER_LOOKS)
        async with open_store(server, clock=CLOCK, ids=IDS) as store, trio.open_nursery() as nursery:
            await nursery.start(store.run)
            grown, told, replaced = list[int](), list[str](), trio.Event()
            store.feed.follow(QueueGrown, lambda change: grown.append(change.endpoint_pk))
            store.feed.follow(DatabaseReplaced, lambda _: replaced.set())
            for each in (before, after):
                each.add_notify_handler(lambda notification: told.append(notification.payload))
                each.execute(f"LISTEN {CHANNEL}".encode())

            def is_heard(pk: int, at: Administrator) -> bool:
                at.execute("SELECT pg_notify(%s, %s)", (CHANNEL, f"{pk}:0"))
                return pk in grown

            def has_told(at: Administrator) -> bool:
                at.execute("SELECT")  # which also reads notifications
                return CHANGED in told

            await until(lambda: is_heard(1, before))
            await add(store)
            await until(lambda: has_told(before))
            told.clear()
            point(address, spare_server.directory)
            before.execute(END_NODE, (name,))
            await replaced.wait()
            await until(lambda: is_heard(2, after))
            await add(store)
            await until(lambda: has_told(after))
            nursery.cancel_scope.cancel()


class SilentServer:
    """Takes connections at the usual socket in a directory, and never answers."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / ".s.PGSQL.5432"))
        self._listener.listen(9)
        self._listener.setblocking(False)
        self._clients: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._clients):
            each.close()

    def accept(self) -> int:
        """Return how many connections there have been."""
        with suppress(BlockingIOError):
            while True:
                self._clients.append(self._listener.accept()[0])
        return len(self._clients)


async def test_connections_without_answer_hold_up_no_beat(
    postgres_server: PostgresServer, address: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node extends its lease while all three other parts that share its threads wait for a connection."""
    monkeypatch.setattr(database, "_CONNECT_SECONDS", int(4 * PATIENCE_SECONDS))
    point(address, postgres_server.directory)
    with (
        postgres_server.database() as name,
        postgres_server.administer(name) as administrator,
        trio.fail_after(2 * PATIENCE_SECONDS),
    ):
        server = Server(url=parse(f"postgresql://{OWNER}@/{name}?host={address}"), times=PATIENT)
        async with open_store(server, clock=CLOCK, ids=IDS) as store, trio.open_nursery() as nursery:
            await nursery.start(store.run)
            await add(store)
            for part in PARTS:
                await until(lambda part=part: administrator.execute(HAS_PART, (name, part)).fetchall())  # type: ignore[misc]
            with SilentServer(address.with_name("silent")) as silent:
                point(address, address.with_name("silent"))
                for part in PARTS:
                    administrator.execute(END_PART, (name, part))
                    await until(silent.accept)  # the listener's first: it would wait for the changes
                while silent.accept() < len(PARTS):
                    await add(store)  # other nodes are to be told of it
                before = administrator.execute(LEASE).fetchone()
                await until(lambda: administrator.execute(LEASE).fetchone() != before)
            nursery.cancel_scope.cancel()


async def test_a_new_database_without_rights_is_waited_for(
    postgres_server: PostgresServer, empty_database: str
) -> None:
    """A database that was dropped and created again lacks a right to make tables: the node goes on once it has it."""
    name = parse(empty_database).database
    async with running(empty_database) as store:
        with postgres_server.administer() as administrator:
            administrator.execute(b"CREATE DATABASE again TEMPLATE template0")
            with postgres_server.administer("again") as inside:
                inside.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
            administrator.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
            administrator.execute(f"ALTER DATABASE again RENAME TO {name}".encode())
            await until(lambda: administrator.execute(HAS_FAILED, (name,)).fetchall())
        # It has no tables yet.
        await store.tell_keys(["key"])
        with pytest.raises(Rejected, match="can't be reached"):
            await store.follow_changes()
        assert not store.ownership.owns(1)
        with postgres_server.administer(name) as administrator:
            administrator.execute(f"GRANT CREATE ON SCHEMA public TO {OWNER}".encode())
        await until(lambda: store.ownership.owns(1))
        assert (await add(store)).pk == 1


async def test_what_a_look_finds_in_the_database_before_is_dropped(journal_database: str) -> None:
    """The last sequences of one database say nothing of the queues of another."""

    class Replacing(InlineRunner):
        """Has the database be replaced before the result of a call is known."""

        replaces = True

        async def run(self, function: Callable[[], T]) -> T:
            result = await super().run(function)
            if self.replaces:
                feed.announce(DatabaseReplaced())
            return result

    feed, found = Feed(), list[QueuesFound]()
    feed.follow(QueuesFound, found.append)
    with connected(journal_database) as writer, connected(journal_database, ConnectionRole.NOTIFIER) as notifier:
        pk = endpoints.insert(writer, VAULT, new_webhook(1)).pk
        rows(writer, "UPDATE sequences SET last = 7")
        runner = Replacing()
        wakes = Wakes(
            lambda: notifier,
            lambda: notifier,
            runner,
            feed,
            Everything(),
            outages=OutageLog("a test"),
            slots=lambda: frozenset(range(SLOTS)),
            changed=trio.lowlevel.checkpoint,
            look_seconds=1.0,
            is_used=lambda _: True,
        )
        await wakes._look()
        assert found == []
        runner.replaces = False
        await wakes._look()
        assert found == [QueuesFound(frozenset({slot_of(pk)}))]


@pytest.mark.parametrize("is_during_a_step", [False, True])
async def test_the_resealing_begins_again(empty_database: str, tmp_path: Path, *, is_during_a_step: bool) -> None:
    """A database that has lost what was resealed is resealed from the start, before the previous key is deleted."""
    async with cluster(empty_database, tmp_path) as nodes:
        one = await nodes.start("one", rotates=False)
        await until(lambda: one.store.ownership.is_leader)
        for number in range(3):
            await one.seal(number)
        new = stage(one)
        await begin(one, new)
        with connected(empty_database) as writer:
            rows(writer, "CREATE TABLE kept AS SELECT * FROM secrets")

            def replace_database() -> None:
                rows(writer, BRING_BACK)
                one.store.feed.announce(DatabaseReplaced())

            if is_during_a_step:
                with at_stage("batch.committed", partial(trio.from_thread.run_sync, replace_database)):
                    await one.rotator.step()
            else:
                await one.rotator.step()
                replace_database()
            assert len(sealed_under(writer)) == 2
        while await one.rotator.step():
            pass
        assert await one.store.transactions.read(sealed_under) == {key_id(new).hex()}
        assert await one.store.transactions.read(open_everything, Vault(new)) == 3
        assert one.rotator.progress().resealed == 9
