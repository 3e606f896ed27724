"""A rotation of the master key, interrupted after each step: the key in its place opens everything, and it ends."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from peewee import Database

from tests.journal.harness import CLOCK, add_endpoint, running
from tests.patience import PATIENCE_SECONDS
from webhookd.base.errors import ErrorCode, MasterKeyError, Rejected
from webhookd.base.secret import Secret
from webhookd.config import Config, load_config
from webhookd.crypto.key_file import CREDENTIALS_DIRECTORY, create_master_key, format_master_key, load_master_key
from webhookd.crypto.vault import Vault, key_id, new_master_key
from webhookd.jobs.key_rotation import Rotator, Stage, unlock
from webhookd.journal import KeptAnswer, Store
from webhookd.journal.queries import endpoints, idempotency

STEP = 10
ENDPOINTS = STEP + 2
ANSWERS = STEP + 2
ANSWER = b"an answer with a secret"


def config_in(directory: Path) -> Config:
    file = directory / "config.toml"
    file.write_text("[journal]\npath = 'journal.db'\n")
    return load_config(file, {})


@asynccontextmanager
async def home(directory: Path, credentials: Path | None = None) -> AsyncIterator[tuple[Store, Rotator]]:
    """Open the journal in a directory with its key, as the server does."""
    environ = {} if credentials is None else {CREDENTIALS_DIRECTORY: str(credentials)}
    async with running(directory / "journal.db") as journal:
        rotator = await unlock(journal, config_in(directory), environ)
        rotator.rows_a_step = STEP
        yield journal, rotator


def kept(number: int) -> KeptAnswer:
    return KeptAnswer(
        caller="local",
        route="POST /api/keys",
        key=f"k{number:04}",
        body_hash=bytes(32),
        status=201,
        sealed=b"",
        created_at=CLOCK.now(),
    )


async def fill(
    journal: Store,
    vault: Vault,
) -> None:
    def insert(database: Database) -> None:
        for number in range(ANSWERS):
            idempotency.keep(database, vault, kept(number), ANSWER)

    for _ in range(ENDPOINTS):
        new = await add_endpoint(journal)
    await journal.transactions.write(endpoints.rotate, vault, new.id, Secret("whsec_next"), "hint", 600.0, CLOCK.now())
    await journal.transactions.write(insert)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A directory with its key and a journal full of values that are sealed with it, those of the harness too."""
    directory = tmp_path / "home"
    directory.mkdir()
    (directory / "master.key").write_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n")
    (directory / "master.key").chmod(0o600)

    async def make() -> None:
        async with home(directory) as (journal, rotator):
            await fill(journal, rotator.vault)

    trio.run(make)
    return directory


def names_of_keys(database: Database) -> set[bytes]:
    """Return the ids of the keys with which values in the file are sealed."""
    found: Any = database.execute_sql(  # type: ignore[no-untyped-call]  # peewee's stub
        "SELECT substr(sealed, 2, 8) FROM secrets UNION SELECT substr(sealed, 2, 8) FROM idempotency "
        "UNION SELECT substr(value, 2, 8) FROM meta"
    )
    return {bytes(row[0]) for row in found.fetchall()}


def open_everything(database: Database, vault: Vault) -> tuple[int, int]:
    """Open every secret and every answer; return the number of endpoints and of answers."""
    known = endpoints.all(database)
    for endpoint in known:
        opened = endpoints.credentials(database, vault, endpoint.pk, CLOCK.now())
        assert opened is not None
        assert opened.secret.reveal().startswith("whsec_")
    last = endpoints.credentials(database, vault, known[-1].pk, CLOCK.now())
    assert last is not None
    assert last.previous_secret is not None
    answers = 0
    while (answer := idempotency.find(database, "local", "POST /api/keys", f"k{answers:04}", CLOCK.now())) is not None:
        assert idempotency.unseal(vault, answer) == ANSWER
        answers += 1
    return len(known), answers


async def check_crash(directory: Path, copy: Path, credentials: Path | None = None) -> Stage:
    """Open a copy of the files, as after a kill: all values can be opened, and the rotation continues to its end.

    Returns how far the change was.
    """
    shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("*-shm", "*.lock"))
    async with home(copy, credentials) as (journal, rotator):
        stage = rotator.progress().stage
        assert await journal.transactions.read(open_everything, rotator.vault) == (ENDPOINTS, ANSWERS)
        while await rotator.step():
            pass
        assert await journal.transactions.read(open_everything, rotator.vault) == (ENDPOINTS, ANSWERS)
        if credentials is None:
            rotator.vault.forget_others()
            assert await journal.transactions.read(open_everything, rotator.vault) == (ENDPOINTS, ANSWERS)
            assert rotator.progress().stage is Stage.SETTLED
            assert await journal.transactions.read(names_of_keys) == {rotator.vault.key_id}
            assert key_id(load_master_key(copy / "master.key")) == rotator.vault.key_id
            assert not (copy / "master.key.new").exists()
    shutil.rmtree(copy)
    return stage


async def test_cut_off_after_any_step_it_opens_and_goes_on(filled: Path, tmp_path: Path) -> None:
    """After each step a copy of the files opens with the key file in them, and the next start ends the rotation."""
    old = load_master_key(filled / "master.key")
    stages, n = [], 0
    async with home(filled) as (journal, rotator):
        assert await check_crash(filled, tmp_path / "before") is Stage.SETTLED
        assert (await rotator.begin(None)).stage is Stage.CHANGING
        going_on = True
        while going_on:
            # In the middle: values of both keys, and what comes in meanwhile is sealed with the new one.
            stages.append(await check_crash(filled, tmp_path / f"crash{n}"))
            n += 1
            going_on = await rotator.step()
        stages.append(await check_crash(filled, tmp_path / "after"))
        assert stages == [Stage.CHANGING] * 6 + [Stage.SETTLED]
        assert await journal.transactions.read(names_of_keys) == {rotator.vault.key_id}
        assert rotator.progress().resealed == ENDPOINTS + 1 + ANSWERS
        assert load_master_key(filled / "master.key") != old
        with pytest.raises(MasterKeyError, match="isn't the one"):
            await journal.master_key.adopt(old)


async def test_a_crash_before_anything_is_committed_changes_nothing(filled: Path) -> None:
    """A new key that was only written next to the old one changes nothing and is in no one's way."""
    create_master_key(filled / "master.key.new")
    async with home(filled) as (journal, rotator):
        assert rotator.progress().stage is Stage.SETTLED
        await rotator.begin(None)
        while await rotator.step():
            pass
        assert await journal.transactions.read(names_of_keys) == {rotator.vault.key_id}
    assert not (filled / "master.key.new").exists()


async def test_what_comes_in_meanwhile_is_sealed_with_the_new_key(filled: Path) -> None:
    """New webhooks and answers are written between the steps, and no value stays sealed with the old key."""
    async with home(filled) as (journal, rotator), trio.open_nursery() as nursery:
        before = rotator.vault.key_id
        nursery.start_soon(rotator.run)

        async def write() -> None:
            for number in range(ANSWERS, ANSWERS + 100):
                await journal.transactions.write(idempotency.keep, rotator.vault, kept(number), ANSWER)
                is_written.set()

        for _ in range(3):
            is_written = trio.Event()
            async with trio.open_nursery() as writing:
                writing.start_soon(write)
                await is_written.wait()
                await rotator.begin(None)
                with pytest.raises(Rejected, match="being changed"):
                    await rotator.begin(None)
                with trio.fail_after(PATIENCE_SECONDS):
                    while rotator.progress().stage is not Stage.SETTLED:
                        await journal.transactions.read(open_everything, rotator.vault)
            assert await journal.transactions.read(names_of_keys) == {rotator.vault.key_id}
            assert rotator.vault.key_id != before
        assert await journal.transactions.read(open_everything, rotator.vault) == (ENDPOINTS, ANSWERS + 100)
        nursery.cancel_scope.cancel()


async def test_a_new_key_may_be_given(filled: Path) -> None:
    """A given key replaces the current one; the current one is refused as a new key."""
    async with home(filled) as (_, rotator):
        in_force, given = load_master_key(filled / "master.key"), new_master_key()
        with pytest.raises(Rejected, match="the one in force") as refused:
            await rotator.begin(in_force)
        assert refused.value.code is ErrorCode.CONFLICT
        await rotator.begin(given)
        while await rotator.step():
            pass
        assert load_master_key(filled / "master.key") == given
        assert rotator.progress().key_id == key_id(given).hex()


async def test_a_credential_is_for_the_operator_to_replace(filled: Path, tmp_path: Path) -> None:
    """Without a given key nothing is done; with one, the old credential and the new one open the journal."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    credential = credentials / "webhookd-master-key"
    (filled / "master.key").rename(credential)
    credential.chmod(0o400)
    old, new = load_master_key(credential), new_master_key()
    async with home(filled, credentials) as (_, rotator):
        with pytest.raises(Rejected, match="--new-key-file") as refused:
            await rotator.begin(None)
        assert refused.value.code is ErrorCode.VALIDATION_ERROR
        assert rotator.progress().stage is Stage.SETTLED
        await rotator.begin(new)
        while await rotator.step():
            await check_crash(filled, tmp_path / "copy", credentials)
        told = rotator.progress()
        assert told.stage is Stage.TO_BE_INSTALLED
        assert told.instruction is not None
        assert str(credential) in told.instruction
        assert await rotator.begin(new) == told
    assert load_master_key(credential) == old
    async with home(filled, credentials) as (journal, rotator):
        assert rotator.progress().stage is Stage.TO_BE_INSTALLED
        assert not await rotator.step()
        assert await journal.transactions.read(open_everything, rotator.vault) == (ENDPOINTS, ANSWERS)
    credential.unlink()
    create_master_key(credential)
    with pytest.raises((MasterKeyError, BaseExceptionGroup)):
        async with home(filled, credentials):
            pass
    credential.write_text(format_master_key(new))
    async with home(filled, credentials) as (journal, rotator):
        while await rotator.step():
            pass
        assert rotator.progress().stage is Stage.SETTLED
        assert await journal.transactions.read(names_of_keys) == {key_id(new)}
        with pytest.raises(MasterKeyError):
            await journal.master_key.adopt(old)


async def test_a_second_change_may_follow_before_the_first_is_in_place(filled: Path, tmp_path: Path) -> None:
    """While a credential waits to be replaced another rotation can begin; the installed key still opens everything."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (filled / "master.key").rename(credentials / "webhookd-master-key")
    async with home(filled, credentials) as (_, rotator):
        for _ in range(2):
            await rotator.begin(new_master_key())
            await check_crash(filled, tmp_path / "copy", credentials)
            while await rotator.step():
                await check_crash(filled, tmp_path / "copy", credentials)


async def test_a_key_that_can_not_be_put_in_place_is_told(filled: Path) -> None:
    """If the rename fails at the end, everything still opens, and the instruction says where the new key is."""
    async with home(filled) as (journal, rotator):
        await rotator.begin(None)
        key = filled / "master.key"
        key.rename(filled / "aside")
        key.mkdir()
        while await rotator.step():
            pass
        told = rotator.progress()
        assert told.stage is Stage.TO_BE_INSTALLED
        assert "master.key.new: move it there by hand" in str(told.instruction)
        assert await journal.transactions.read(open_everything, rotator.vault) == (ENDPOINTS, ANSWERS)
    key.rmdir()
    (filled / "master.key.new").rename(key)
    async with home(filled) as (journal, rotator):
        while await rotator.step():
            pass
        assert await journal.transactions.read(names_of_keys) == {rotator.vault.key_id}


async def test_a_directory_that_takes_no_file_stops_it_before_it_begins(filled: Path) -> None:
    """If the new key can't be written next to the old one, nothing is changed."""
    (filled / "master.key.new").mkdir()
    async with home(filled) as (_, rotator):
        with pytest.raises(Rejected, match="nothing was changed"):
            await rotator.begin(None)
        assert rotator.progress().stage is Stage.SETTLED
        assert not await rotator.step()
