"""A rotation of the master key while several nodes run: both seal, one leads, and each has key files of its own."""

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import trio
from peewee import Database

from tests.journal.harness import CLOCK, IDS, MASTER_KEY, VAULT, new_endpoint
from tests.journal.postgres.connections import connected, rows, value
from tests.journal.postgres.nodes import PATIENT
from tests.patience import PATIENCE_SECONDS, until, wait_until
from webhookd.base.database_url import parse
from webhookd.base.errors import ErrorCode, MasterKeyError, Rejected
from webhookd.base.secret import Secret
from webhookd.config import load_config
from webhookd.crypto.key_file import CREDENTIALS_DIRECTORY, create_master_key, load_master_key
from webhookd.crypto.vault import Vault, key_id, new_master_key
from webhookd.jobs.key_rotation import Rotator, Stage, unlock
from webhookd.journal import KeptAnswer, NewSession, Server, SessionLimits, Store, open_store
from webhookd.journal.errors import StaleKeyError
from webhookd.journal.postgres import sessions
from webhookd.journal.queries import endpoints, idempotency
from webhookd.journal.queries.locks import hold_master_key
from webhookd.journal.queries.master_key import adopt_master_key, begin_change

ANSWER = b"an answer with a secret"
LIMITS = SessionLimits(idle_seconds=3600.0, longest_seconds=3600.0, most_of_one_caller=1000, most=1000)
OFTEN_SECONDS = 0.01
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@dataclass(slots=True, eq=False)
class Node:
    """A node with key files of its own, in its directory."""

    directory: Path
    store: Store
    rotator: Rotator
    stop: Callable[[], None]

    @property
    def file(self) -> Path:
        return self.directory / "master.key"

    @property
    def is_settled(self) -> bool:
        return self.rotator.progress().stage is Stage.SETTLED

    async def seal(self, number: int) -> None:
        """Store a secret, an answer and a session."""
        vault = self.rotator.vault
        await self.store.webhooks.create(vault, new_endpoint(), most=1_000_000, entry=None)
        name = f"{self.directory.name}-{number}"
        answer = KeptAnswer(
            caller="local",
            route="POST /api/keys",
            key=name,
            body_hash=bytes(32),
            status=201,
            sealed=b"",
            created_at=CLOCK.now(),
        )
        await self.store.kept_answers.keep(vault, answer, ANSWER).wait()
        new = NewSession(key=name.encode(), place=name, share=name, expires_at=None)
        await self.store.sessions.begin(vault, new, ANSWER, LIMITS)


class Cluster:
    """Starts nodes on one database; the first one makes the master key, and the others get copies."""

    def __init__(self, url: str, directory: Path, nursery: trio.Nursery) -> None:
        self._url = url
        self._directory = directory
        self._nursery = nursery

    async def start(self, name: str, *, copies: Node | None = None, is_node: bool = True, rotates: bool = True) -> Node:
        """Start a node; one that isn't told of by `is_node` is unknown to the others, as after a long pause."""
        directory = self._directory / name
        directory.mkdir()
        if copies is not None:
            shutil.copy(copies.file, directory / "master.key")
        started: Node = await self._nursery.start(partial(self._run, directory, is_node=is_node, rotates=rotates))
        return started

    async def two(self) -> tuple[Node, Node]:
        """Start two nodes; the first one leads."""
        one = await self.start("one")
        await until(lambda: one.store.ownership.is_leader)
        return one, await self.start("other", copies=one)

    async def _run(self, directory: Path, *, is_node: bool, rotates: bool, task_status: trio.TaskStatus[Node]) -> None:
        config = directory / "config.toml"
        config.write_text(
            f"[journal]\nurl = '{self._url}'\n[secrets]\nmaster_key_file = '{directory / 'master.key'}'\n"
        )
        server = Server(url=parse(self._url), times=PATIENT, node_name=directory.name, takes_part=is_node)
        async with open_store(server, clock=CLOCK, ids=IDS) as store, trio.open_nursery() as nursery:
            await nursery.start(store.run)
            rotator = await unlock(store, load_config(config, {}), {})
            rotator.rows_a_step = 5
            nursery.start_soon(rotator.look)
            if rotates:
                nursery.start_soon(rotator.run)
            task_status.started(Node(directory, store, rotator, nursery.cancel_scope.cancel))


@asynccontextmanager
async def cluster(url: str, directory: Path) -> AsyncIterator[Cluster]:
    with trio.fail_after(4 * PATIENCE_SECONDS):  # noqa: ASYNC100 - a nursery is a checkpoint
        async with trio.open_nursery() as nursery:
            yield Cluster(url, directory, nursery)
            nursery.cancel_scope.cancel()


def stage(*nodes: Node) -> Secret[bytes]:
    """Put a new key next to the master key of each node, as the operator does."""
    first, *others = [node.directory / "master.key.new" for node in nodes]
    key = create_master_key(first.with_name("made.key"))
    first.with_name("made.key").rename(first)
    for path in others:
        shutil.copy(first, path)
    return key


async def begin(node: Node, new: Secret[bytes] | None = None) -> None:
    """Begin a rotation as soon as every node has said that it has the new key."""
    while True:
        try:
            await node.rotator.begin(new)
        except Rejected as refused:
            if refused.code is not ErrorCode.CONFLICT:
                raise
            await trio.sleep(OFTEN_SECONDS)
        else:
            return


def sealed_under(database: Database) -> set[str]:
    """Return the ids of the keys with which anything is sealed."""
    found: Any = database.execute_sql(  # type: ignore[no-untyped-call]  # peewee's stub
        "SELECT substr(sealed, 2, 8) FROM secrets UNION SELECT substr(sealed, 2, 8) FROM idempotency "
        "UNION SELECT substr(sealed, 2, 8) FROM sessions "
        "UNION SELECT substr(value, 2, 8) FROM meta WHERE name LIKE 'master_key%%'"
    )
    return {bytes(row[0]).hex() for row in found.fetchall()}


def open_everything(database: Database, vault: Vault) -> int:
    """Open every secret, answer and session; return the number of endpoints."""
    known = endpoints.all(database)
    for endpoint in known:
        opened = endpoints.credentials(database, vault, endpoint.pk, CLOCK.now())
        assert opened is not None
        assert opened.secret.reveal().startswith("whsec_")
    found: Any = database.execute_sql("SELECT key FROM idempotency")  # type: ignore[no-untyped-call]  # as above
    for (name,) in found.fetchall():
        answer = idempotency.find(database, "local", "POST /api/keys", name, CLOCK.now())
        assert answer is not None
        assert idempotency.unseal(vault, answer) == ANSWER
        row = sessions.find(database, name.encode(), LIMITS.idle_seconds)
        stored = sessions.opened(vault, name.encode(), row)
        assert stored is not None
        assert stored.content == ANSWER
    return len(known)


async def test_every_node_must_have_the_new_key_first(empty_database: str, tmp_path: Path) -> None:
    """Until then the rotation is refused and changes nothing; then each node seals with it, and installs it."""
    async with cluster(empty_database, tmp_path) as nodes:
        one, other = await nodes.two()
        for node in (one, other):
            await node.seal(0)
        old = load_master_key(one.file)
        with pytest.raises(Rejected, match=r"put one new key next to the master key of each, as master\.key\.new"):
            await one.rotator.begin(None)
        new = stage(one)
        with pytest.raises(Rejected, match=f"{key_id(new).hex()} is not in the files of other$") as refused:
            await one.rotator.begin(None)
        assert refused.value.code is ErrorCode.CONFLICT
        assert await one.store.transactions.read(sealed_under) == {key_id(old).hex()}
        shutil.copy(one.directory / "master.key.new", other.directory)
        await begin(other)
        await until(lambda: one.is_settled and other.is_settled)
        for node in (one, other):
            assert load_master_key(node.file) == new
            assert not (node.directory / "master.key.new").exists()
            assert node.rotator.progress().key_id == key_id(new).hex()
            assert node.rotator.progress().resealed == 6, "of secrets, answers and sessions, whichever node leads"
        assert await one.store.transactions.read(sealed_under) == {key_id(new).hex()}
        assert await other.store.transactions.read(open_everything, Vault(new)) == 2
        with pytest.raises(MasterKeyError):
            await one.store.master_key.adopt(old)


async def test_nothing_is_sealed_with_the_previous_key_while_both_nodes_seal(
    empty_database: str, tmp_path: Path
) -> None:
    """Both store secrets, answers and sessions during two rotations; afterwards the last key alone opens all."""
    async with cluster(empty_database, tmp_path) as nodes:
        pair = await nodes.two()
        sealed = dict.fromkeys(pair, 0)
        is_over = False

        async def seal_on(node: Node) -> None:
            while not is_over:
                await node.seal(sealed[node])
                sealed[node] += 1

        async with trio.open_nursery() as load:
            for node in pair:
                load.start_soon(seal_on, node)
            for number in range(2):
                before = dict(sealed)
                new = stage(*pair)
                await begin(pair[number % 2])
                await until(lambda before=before: all(sealed[node] > before[node] + 2 for node in pair))  # type: ignore[misc]
                await until(lambda: all(node.is_settled for node in pair))
                assert key_id(load_master_key(pair[0].file)) == key_id(new)
            is_over = True
        count = sum(sealed.values())
        assert await pair[0].store.transactions.read(sealed_under) == {key_id(new).hex()}
        assert await pair[0].store.transactions.read(open_everything, Vault(new)) == count


def test_a_change_waits_for_what_is_being_sealed(journal_database: str) -> None:
    """It commits after every transaction that holds the check value, and each later one of these finds the new key."""
    other = new_master_key()
    with (
        connected(journal_database) as sealing,
        connected(journal_database) as changing,
        connected(journal_database) as watching,
    ):
        for database in (sealing, changing):  # however slow the machine is
            rows(database, "SET lock_timeout = 0")
            rows(database, "SET statement_timeout = 0")
            rows(database, "SET idle_in_transaction_session_timeout = 0")
        keys = adopt_master_key(sealing, MASTER_KEY)

        def change() -> None:
            with changing.atomic():
                begin_change(changing, keys, other)

        thread = Thread(target=change)
        with sealing.atomic():
            hold_master_key(sealing, VAULT)
            thread.start()
            wait_until(lambda: not thread.is_alive() or value(watching, WAITING) == 1)
            assert thread.is_alive()
        thread.join()
        with pytest.raises(StaleKeyError):
            hold_master_key(sealing, VAULT)
        hold_master_key(sealing, Vault(other))


async def test_a_node_that_has_not_heard_of_the_change_seals_with_the_new_key(
    empty_database: str, tmp_path: Path
) -> None:
    """Even if all was resealed before: its transaction finds the other key, follows, and is begun again."""
    async with cluster(empty_database, tmp_path) as nodes:
        one, deaf = await nodes.two()
        new = stage(one, deaf)
        await until(lambda: deaf.rotator._staged == new)
        async with trio.open_nursery() as sealing, deaf.store.holding_changes():
            await begin(one)
            await until(lambda: one.is_settled)
            assert deaf.rotator.vault.key_id != one.rotator.vault.key_id
            sealing.start_soon(deaf.seal, 0)
            await until(lambda: deaf.store._writer._writing)
        await until(lambda: deaf.is_settled)
        assert await one.store.transactions.read(sealed_under) == {key_id(new).hex()}
        assert await one.store.transactions.read(open_everything, Vault(new)) == 1


async def test_a_node_without_the_new_key_seals_nothing_and_ends(empty_database: str, tmp_path: Path) -> None:
    """One that nobody knew of when the key was changed: what it would seal is refused, and it says what is missing."""
    async with cluster(empty_database, tmp_path) as nodes:
        one = await nodes.start("one")
        lost = await nodes.start("lost", copies=one, is_node=False)
        await until(lambda: one.store.ownership.is_leader)
        new = stage(one)
        await begin(one)
        with pytest.raises(Rejected, match="doesn't have the master key") as refused:
            await lost.seal(0)
        assert refused.value.code is ErrorCode.SHUTTING_DOWN
        with pytest.raises(MasterKeyError, match=f"changed to {key_id(new).hex()} at another node, and neither"):
            await lost.rotator.end_without_key()
        await until(lambda: one.is_settled)
        assert await one.store.transactions.read(open_everything, Vault(new)) == 0


async def test_the_next_leader_goes_on_with_the_resealing(empty_database: str, tmp_path: Path) -> None:
    """A leader that leaves in the middle leaves values of both keys; another node takes over from the start."""
    async with cluster(empty_database, tmp_path) as nodes:
        one = await nodes.start("one", rotates=False)
        await until(lambda: one.store.ownership.is_leader)
        other = await nodes.start("other", copies=one)
        for number in range(4):
            await one.seal(number)
        new = stage(one, other)
        await begin(other, new)
        await until(lambda: one.rotator.progress().stage is Stage.CHANGING)
        assert await one.rotator.step()
        assert len(await one.store.transactions.read(sealed_under)) == 2
        assert other.rotator.progress().stage is Stage.CHANGING
        with pytest.raises(Rejected, match="being changed"):
            await other.rotator.begin(None)
        one.stop()
        await until(lambda: other.is_settled)
        assert await other.store.transactions.read(sealed_under) == {key_id(new).hex()}
        assert await other.store.transactions.read(open_everything, Vault(new)) == 4


async def test_a_node_starts_with_either_file(empty_database: str, tmp_path: Path) -> None:
    """With the new key next to its own it starts, goes on, and installs it; without, it says which key it needs."""
    async with cluster(empty_database, tmp_path) as nodes:
        one = await nodes.start("one", rotates=False)
        await until(lambda: one.store.ownership.is_leader)
        await one.seal(0)
        old_file = tmp_path / "old.key"
        shutil.copy(one.file, old_file)
        new = stage(one)
        new_file = tmp_path / "new.key"
        shutil.copy(one.directory / "master.key.new", new_file)
        await begin(one)
        late = tmp_path / "late"
        late.mkdir()
        shutil.copy(old_file, late / "master.key")
        config = late / "config.toml"
        config.write_text(
            f"[journal]\nurl = '{empty_database}'\n[secrets]\nmaster_key_file = '{late / 'master.key'}'\n"
        )
        with pytest.raises(MasterKeyError, match="isn't the one this journal was made with"):
            await unlock(one.store, load_config(config, {}), {})
        shutil.copy(new_file, late / "master.key.new")
        both = await unlock(one.store, load_config(config, {}), {})
        assert both.progress().stage is Stage.CHANGING
        assert await one.store.transactions.read(open_everything, both.vault) == 1, "what the previous key has sealed"
        while await both.step():
            pass
        assert load_master_key(late / "master.key") == new
        assert both.progress().stage is Stage.SETTLED
        shutil.copy(new_file, late / "master.key")
        assert (await unlock(one.store, load_config(config, {}), {})).progress().stage is Stage.SETTLED


async def test_a_credential_has_the_new_key_next_to_it(empty_database: str, tmp_path: Path) -> None:
    """Where the service manager provides the key it must provide the new one, too, before the rotation begins."""
    async with cluster(empty_database, tmp_path) as nodes:
        one = await nodes.start("one", rotates=False)
        await until(lambda: one.store.ownership.is_leader)
        await one.seal(0)
        credential = tmp_path / "credentials" / "webhookd-master-key"
        credential.parent.mkdir()
        shutil.copy(one.file, credential)
        config = tmp_path / "config.toml"
        config.write_text(f"[journal]\nurl = '{empty_database}'\n")
        rotator = await unlock(one.store, load_config(config, {}), {CREDENTIALS_DIRECTORY: str(credential.parent)})
        new = create_master_key(tmp_path / "new.key")
        with pytest.raises(Rejected, match=r"provide the new key as .*webhookd-master-key\.new first") as refused:
            await rotator.begin(new)
        assert refused.value.code is ErrorCode.VALIDATION_ERROR
        shutil.copy(tmp_path / "new.key", credential.with_name("webhookd-master-key.new"))
        assert (await rotator.begin(None)).stage is Stage.CHANGING
        while await rotator.step():
            pass
        told = rotator.progress()
        assert (told.stage, told.key_id) == (Stage.TO_BE_INSTALLED, key_id(new).hex())
        assert "webhookd-master-key.new, in its place" in str(told.instruction)
        assert await one.store.transactions.read(sealed_under) == {key_id(new).hex()}


async def test_what_the_operator_installs_is_noticed(empty_database: str, tmp_path: Path) -> None:
    """Where webhookd can't replace the key, it says so until the new key is in its place; no start is needed."""
    async with cluster(empty_database, tmp_path) as nodes:
        one, other = await nodes.two()
        new = stage(one, other)
        await until(lambda: other.rotator._staged == new)
        key = other.file
        key.rename(other.directory / "aside")
        key.mkdir()  # a rename over it fails
        await begin(one)
        await until(lambda: other.rotator.progress().stage is Stage.TO_BE_INSTALLED)
        assert "master.key.new: move it there by hand" in str(other.rotator.progress().instruction)
        key.rmdir()
        (other.directory / "master.key.new").rename(key)
        await until(lambda: other.is_settled)
        assert load_master_key(key) == new
