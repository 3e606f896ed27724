"""Secrets in the journal's file: unreadable, bound to their place, overwritten when deleted, and resealed."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from peewee import Database

from tests.journal.harness import CLOCK, MASTER_KEY, VAULT, add_endpoint, new_endpoint, running
from tests.patience import PATIENCE_SECONDS
from webhookd.base.errors import MasterKeyError
from webhookd.base.secret import Secret
from webhookd.crypto.vault import Vault, new_master_key
from webhookd.delivery.signing import generate_secret
from webhookd.journal import EndpointChanges, KeptAnswer, MasterKeys, Position, Store
from webhookd.journal.queries import endpoints, idempotency, sealing
from webhookd.journal.queries.master_key import adopt_master_key, begin_change, forget_master_key, holds_secrets, reseal

HEADER_VALUE = "hunter2-is-not-a-password"
Cell = tuple[str, tuple[object, ...]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def query(database: Database, sql: str, *values: object) -> list[tuple[Any, ...]]:
    return list(database.execute_sql(sql, values).fetchall())  # type: ignore[no-untyped-call]  # peewee's stub


def kept(**fields: object) -> KeptAnswer:
    values: dict[str, object] = {
        "caller": "key_1",
        "route": "POST /api/keys",
        "key": "a",
        "body_hash": bytes(32),
        "status": 201,
        "sealed": b"",
        "created_at": CLOCK.now(),
    }
    return KeptAnswer(**values | fields)  # type: ignore[arg-type]  # a test's own fields


async def fill(journal: Store) -> MasterKeys:
    """Put at least two sealed values of every kind into a journal, in the middle of a rotation of its key."""
    keys = await journal.transactions.write(adopt_master_key, MASTER_KEY)
    for _ in range(2):
        endpoint = await add_endpoint(
            journal,
            ed25519_secret=Secret("whsk_private"),
            headers=(("X-Token", Secret(HEADER_VALUE)),),
        )
        secret = Secret(generate_secret())
        await journal.transactions.write(endpoints.rotate, VAULT, endpoint.id, secret, "hint", 3600.0, CLOCK.now())
    for answer in (
        kept(),
        kept(key="b"),
        kept(caller="key_2"),
        kept(route="POST /api/webhooks"),
        kept(route="POST /api/keys:a", key="c"),
        kept(route="POST /api/keys", key="a:c"),
    ):
        await journal.transactions.write(idempotency.keep, VAULT, answer, b"an answer that shows whsec_secret")
    return await journal.transactions.write(begin_change, keys, new_master_key())


def cells(database: Database) -> list[Cell]:
    """Return the statement that replaces each sealed value, and the key of its row."""
    found: list[Cell] = []
    for table, column, *key in (
        ("secrets", "sealed", "endpoint_pk", "kind"),
        ("idempotency", "sealed", "caller", "route", "key"),
        ("meta", "value", "name"),
    ):
        where = " AND ".join(f"{name} = ?" for name in key)
        sql = f"UPDATE {table} SET {column} = ? WHERE {where}"  # noqa: S608 - names of the test's own
        found += [(sql, row) for row in query(database, f"SELECT {', '.join(key)} FROM {table}")]  # noqa: S608
    return found


def value_of(database: Database, cell: Cell) -> bytes:
    sql, key = cell
    select = sql.replace("UPDATE", "SELECT sealed FROM").replace(" SET sealed = ?", "")
    if "meta" in sql:
        select = "SELECT value FROM meta WHERE name = ?"
    return bytes(query(database, select, *key)[0][0])


def open_all(database: Database, vault: Vault, keys: MasterKeys) -> None:
    """Open every sealed value as the server does; raises MasterKeyError for one that doesn't open."""
    assert adopt_master_key(database, keys.installed) == keys
    for endpoint in endpoints.all(database):
        opened = endpoints.credentials(database, vault, endpoint.pk, CLOCK.now())
        assert opened is not None
        assert opened.secret.reveal().startswith("whsec_")
        assert opened.headers == (("X-Token", Secret(HEADER_VALUE)),)
    for caller, route, key in query(database, "SELECT caller, route, key FROM idempotency"):
        answer = idempotency.find(database, caller, route, key, CLOCK.now())
        assert answer is not None
        assert b"whsec_secret" in idempotency.unseal(vault, answer)


def opens(database: Database, keys: MasterKeys) -> bool:
    try:
        open_all(database, VAULT, keys)
    except MasterKeyError:
        return False
    except Exception:  # noqa: BLE001 - it opened, and then made no sense where it was
        return True
    return True


async def test_no_value_opens_in_the_place_of_another(path: Path) -> None:
    """A sealed value that is written over another one in the file doesn't open there."""
    async with running(path) as journal:
        keys = await fill(journal)

        def try_all(database: Database) -> tuple[int, list[Cell]]:
            """Return how many were tried, and the places where another's value opened."""
            open_all(database, VAULT, keys)
            places = cells(database)
            values = [value_of(database, cell) for cell in places]
            tried, opened = 0, []
            for (sql, key), own in zip(places, values, strict=True):
                for other in values:
                    if other == own:
                        continue
                    query(database, sql, other, *key)
                    tried += 1
                    if opens(database, keys):
                        opened.append((sql, key))
                query(database, sql, own, *key)
            open_all(database, VAULT, keys)
            return tried, opened

        # Two endpoints with four secrets each, six answers, and three facts of the master key.
        assert await journal.transactions.write(try_all) == (17 * 16, [])


async def test_an_answer_opens_for_its_own_request_alone(path: Path) -> None:
    """Caller, route, key, body and status of a kept answer can't be changed in the file."""
    async with running(path) as journal:
        await journal.transactions.write(idempotency.keep, VAULT, kept(), b"answer")
        stored = await journal.transactions.read(idempotency.find, "key_1", "POST /api/keys", "a", CLOCK.now())
        assert stored is not None
        assert idempotency.unseal(VAULT, stored) == b"answer"
        for name, value in {
            "caller": "key_2",
            "route": "POST /api/events",
            "key": "b",
            "body_hash": bytes(31) + b"\x01",
            "status": 200,
        }.items():
            with pytest.raises(MasterKeyError):
                idempotency.unseal(VAULT, msgspec.structs.replace(stored, **{name: value}))


async def test_no_secret_is_readable_in_the_file(path: Path) -> None:
    """Secrets, private keys, header values and kept answers are nowhere in the file or its log."""
    async with running(path) as journal:
        new = new_endpoint(headers=(("X-Token", Secret(HEADER_VALUE)),), ed25519_secret=Secret("whsk_private"))
        endpoint = await journal.transactions.write(endpoints.insert, VAULT, new)
        await journal.transactions.write(idempotency.keep, VAULT, kept(), HEADER_VALUE.encode())
        opened = await journal.transactions.read(endpoints.credentials, VAULT, endpoint.pk, CLOCK.now())
        assert opened is not None
        assert (opened.secret, opened.headers) == (new.secret, new.headers)
        assert endpoint.header_names == ("X-Token",)
        written = b"".join(file.read_bytes() for file in path.parent.iterdir())
        assert b"X-Token" in written
        for secret in (new.secret.reveal(), HEADER_VALUE, "whsk_private"):
            assert secret.encode() not in written
            assert secret.removeprefix("whsec_").encode() not in written


async def test_only_the_right_master_key_opens_it(path: Path) -> None:
    """Another master key is refused; a journal without secrets takes a new one, and deletes what that can't open."""
    async with running(path) as journal:
        first = await journal.transactions.write(adopt_master_key, MASTER_KEY)
        assert await journal.transactions.write(adopt_master_key, MASTER_KEY) == first
        other = new_master_key()
        with pytest.raises(MasterKeyError, match="isn't the one this journal was made with"):
            await journal.transactions.write(adopt_master_key, other)
        await journal.transactions.write(idempotency.keep, VAULT, kept(), b"answer")
        assert not await journal.transactions.read(holds_secrets)
        await journal.transactions.write(forget_master_key)
        assert await journal.transactions.read(idempotency.find, "key_1", "POST /api/keys", "a", CLOCK.now()) is None
        assert (await journal.transactions.write(adopt_master_key, other)).sealing == other
        await add_endpoint(journal)
        assert await journal.transactions.read(holds_secrets)


def add_many(database: Database, count: int) -> None:
    for _ in range(count):
        endpoints.insert(database, VAULT, new_endpoint())


async def everywhere(path: Path, journal: Store) -> bytes:
    """Return all bytes of the journal's files once overwritten pages have left its log."""
    journal.cut_log()
    wal = path.with_name(path.name + "-wal")
    with trio.fail_after(PATIENCE_SECONDS):
        while wal.stat().st_size:
            await trio.sleep(0.01)
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


@pytest.mark.parametrize("way", ["rotated", "headers", "deleted", "expired", "resealed"])
async def test_what_goes_is_overwritten(path: Path, way: str) -> None:
    """A sealed value that is replaced or deleted is in none of the files any more."""
    async with running(path) as journal:
        endpoint = await add_endpoint(journal, headers=(("X-Token", Secret(HEADER_VALUE)),))
        await journal.transactions.write(add_many, 200)
        sql = "SELECT sealed FROM secrets WHERE endpoint_pk = ?"
        before = [bytes(row[0]) for row in await journal.transactions.read(query, sql, endpoint.pk)]
        now = CLOCK.now()
        match way:
            case "rotated":
                await journal.transactions.write(
                    endpoints.rotate, VAULT, endpoint.id, Secret(generate_secret()), "", 0.0, now
                )
                before = before[:1]
            case "headers":
                wanted = EndpointChanges(headers=(("X-Token", Secret("short")),))
                await journal.transactions.write(endpoints.update, VAULT, endpoint.id, wanted, now)
                before = before[1:]
            case "deleted":
                await journal.transactions.write(endpoints.delete, endpoint.id, now)
            case "expired":
                await journal.transactions.write(
                    endpoints.rotate, VAULT, endpoint.id, Secret(generate_secret()), "", 60.0, now - 90
                )
                kind = "SELECT sealed FROM secrets WHERE endpoint_pk = ? AND kind = 'previous'"
                before = [bytes(row[0]) for row in await journal.transactions.read(query, kind, endpoint.pk)]
                assert await journal.transactions.read(sealing.expired, now) == [endpoint.pk]
                assert await journal.transactions.write(sealing.delete_expired, [endpoint.pk], now) == 1
            case _:
                await journal.transactions.write(
                    reseal, Vault(MASTER_KEY), Position(), 1000
                )  # seals nothing anew: the same key
                written = await everywhere(path, journal)
                assert all(value in written for value in before)
                vault = Vault(MASTER_KEY)
                vault.seal_with(new_master_key())
                _, count = await journal.transactions.write(reseal, vault, Position(), 1000)
                assert count == 202
        assert before
        written = await everywhere(path, journal)
        assert not any(value in written for value in before)


async def test_retention_forgets_the_secrets_of_before_whose_overlap_has_ended(path: Path) -> None:
    """The hourly retention deletes them for good, and keeps those that still sign."""
    async with running(path) as journal, trio.open_nursery() as nursery:
        ended, overlapping = await add_endpoint(journal), await add_endpoint(journal)
        now = CLOCK.now()
        for endpoint, ago in ((ended, 61.0), (overlapping, 0.0)):
            secret = Secret(generate_secret())
            await journal.transactions.write(endpoints.rotate, VAULT, endpoint.id, secret, "", 60.0, now - ago)
        nursery.start_soon(journal.retention.run, 30, CLOCK.now)
        sql = "SELECT endpoint_pk FROM secrets WHERE kind = 'previous' ORDER BY endpoint_pk"
        with trio.fail_after(PATIENCE_SECONDS):
            while await journal.transactions.read(query, sql) != [(overlapping.pk,)]:
                await trio.sleep(0.01)
        opened = await journal.transactions.read(endpoints.credentials, VAULT, overlapping.pk, now)
        assert opened is not None
        assert opened.previous_secret is not None
        opened = await journal.transactions.read(endpoints.credentials, VAULT, ended.pk, now)
        assert opened is not None
        assert opened.previous_secret is None
        nursery.cancel_scope.cancel()


async def test_a_secret_given_anew_meanwhile_is_not_taken_for_expired(path: Path) -> None:
    """A webhook that is rotated again between the query and the deletion keeps its new overlap."""
    async with running(path) as journal:
        endpoint = await add_endpoint(journal)
        now = CLOCK.now()
        for ago in (90.0, 0.0):
            secret = Secret(generate_secret())
            await journal.transactions.write(endpoints.rotate, VAULT, endpoint.id, secret, "", 60.0, now - ago)
        assert await journal.transactions.write(sealing.delete_expired, [endpoint.pk], now) == 0


async def test_what_does_not_open_keeps_nothing_else_from_being_sealed_anew(path: Path) -> None:
    """A value that was tampered with is unchanged and still doesn't open, and all others are resealed."""
    async with running(path) as journal:
        good, bad = await add_endpoint(journal), await add_endpoint(journal)
        await journal.transactions.write(query, "UPDATE secrets SET sealed = x'00' WHERE endpoint_pk = ?", bad.pk)
        vault = Vault(MASTER_KEY)
        vault.seal_with(new_master_key())
        assert await journal.transactions.write(reseal, vault, Position(), 10) == (Position(is_in_answers=True), 1)
        vault.forget_others()
        await journal.transactions.read(endpoints.credentials, vault, good.pk, CLOCK.now())
        with pytest.raises(MasterKeyError):
            await journal.transactions.read(endpoints.credentials, vault, bad.pk, CLOCK.now())
