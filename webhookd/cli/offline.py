"""Commands on the journal while no server runs here; each takes the journal's lock, if it is a file.

Every change has an entry in the audit log with the uid of the user who runs the command. Run async functions with
`trio.run`.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from webhookd.admin.auth import new_key
from webhookd.admin.operations import given
from webhookd.admin.schemas import NewKey
from webhookd.base.clock import SystemClock
from webhookd.base.errors import CommandError, ConfigError
from webhookd.base.ids import IdFactory
from webhookd.base.secret import Secret
from webhookd.config import Config
from webhookd.crypto.key_file import find_key_place
from webhookd.jobs.key_rotation import RotationProgress, unlock
from webhookd.journal import (
    NO_COPY,
    Action,
    Contents,
    KeyRow,
    Moved,
    Restored,
    Server,
    Store,
    check_place,
    move_journal,
    place_of,
    restore_journal,
)
from webhookd.server import command_entry, ensure_admin_key, unwrapped, writing

_CLOCK = SystemClock()
_IDS = IdFactory(_CLOCK.now)


@asynccontextmanager
async def _journal(config: Config) -> AsyncIterator[Store]:
    """Open the journal; what was submitted in the block is on disk at its end."""
    with unwrapped():
        async with writing(config, _CLOCK, _IDS, drives=False) as store:
            yield store


async def initialize(config: Config) -> Secret[str] | None:
    """Create journal, master key and first admin key if they are missing; return the new admin key's text, or None."""
    async with _journal(config) as store:
        await unlock(store, config, os.environ)
        return await ensure_admin_key(store, _IDS, _CLOCK)


async def create_key(config: Config, new: NewKey, expires_at: float | None) -> tuple[KeyRow, Secret[str]]:
    """Create an API key; return it and its text, which is not stored. Rejected QUOTA_EXCEEDED."""
    row, text = new_key(
        new.role, _IDS, _CLOCK.now(), name=new.name, organization_id=new.organization_id, expires_at=expires_at
    )
    entry = command_entry(Action.KEY_CREATE, _CLOCK, given(new))
    async with _journal(config) as store:
        await store.keys.create(row, most=config.organizations.max_keys, entry=entry)
    return row, text


async def list_keys(config: Config) -> list[KeyRow]:
    """Return every API key."""
    async with _journal(config) as store:
        return await store.keys.all()


async def revoke_key(config: Config, key_id: str) -> None:
    """Revoke an API key; Rejected NOT_FOUND."""
    async with _journal(config) as store:
        await store.keys.revoke(key_id, None, command_entry(Action.KEY_REVOKE, _CLOCK))


async def rotate_master_key(config: Config, new: Secret[bytes] | None) -> RotationProgress:
    """Rotate the master key to `new`, or to a new random key (None), as far as this host allows.

    An interrupted rotation is completed first. Raises MasterKeyError, Rejected, and CommandError for a journal in a
    database: servers elsewhere may use it.
    """
    if config.journal.url is not None:
        raise CommandError(
            "the journal is in a database, which servers elsewhere may use: start one here, and call this while it runs"
        )
    async with _journal(config) as store:
        rotator = await unlock(store, config, os.environ)
        while await rotator.step():
            pass
        await rotator.begin(new, command_entry(Action.MASTER_KEY_ROTATE, _CLOCK))
        while await rotator.step():
            pass
        return rotator.progress()


def check_is_file(config: Config) -> None:
    """Raise ConfigError if the journal is no file that can be copied."""
    if config.journal.url is not None:
        raise ConfigError(NO_COPY)


async def back_up(config: Config, file: Path, *, replace: bool, report: Callable[[int, int], None]) -> Contents:
    """Copy the journal to a file and return the copy's contents; CommandError, or JournalError if it is damaged."""
    path = config.journal.path
    if not path.exists():
        raise CommandError(f"there is no journal {path} yet")
    check_place(file, path, replace=replace)
    async with _journal(config) as store:
        entry = command_entry(Action.JOURNAL_BACKUP, _CLOCK, ("file", *(("force",) if replace else ())))
        await store.audit.append(entry, str(file), None)
        return await store.back_up(file, replace=replace, report=report)


def restore(config: Config, file: Path) -> Restored:
    """Replace the journal with a backup; CommandError, JournalError, MasterKeyError. Blocks, without `trio`."""
    path = config.journal.path
    entry = command_entry(Action.JOURNAL_RESTORE, _CLOCK, ("file",))
    moment = datetime.fromtimestamp(_CLOCK.now(), UTC).strftime("%Y%m%dT%H%M%SZ")
    place = find_key_place(config, os.environ)
    return restore_journal(file, path, load_key=place.load, kept_name=f"{path.name}.replaced-{moment}", entry=entry)


def migrate(
    config: Config,
    target: Path | Server,
    *,
    is_trial: bool,
    replaces_nul: bool,
    report: Callable[[str, int, int], None],
) -> Moved:
    """Move the journal to another engine; CommandError, JournalError, MasterKeyError. Blocks, without `trio`."""
    return move_journal(
        place_of(config.journal),
        target,
        load_key=lambda: find_key_place(config, os.environ).load(),
        now=_CLOCK.now(),
        is_trial=is_trial,
        replaces_nul=replaces_nul,
        report=report,
    )
