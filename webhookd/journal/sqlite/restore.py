"""Restore: a backup replaces the journal in one step, and the old journal is kept under another name.

    1. copy     The backup is copied next to the journal; the copy is verified and opened with the master key.
    2. fold     What a killed server left in the journal's write-ahead log is written into the journal's file, so that
                the file alone is the journal.
    3. keep     The journal's file gets a second name.
    4. replace  The copy gets the first name by one atomic rename. No log of the old file is next to it.

If the command is killed before the last step, the journal is unchanged; after it, the journal is the backup. A journal
that is too damaged for step 2 is kept together with its log, and does not exist between steps 3 and 4: a log must never
be next to a file that isn't its own.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import apsw
from msgspec import Struct
from playhouse.apsw_ext import APSWDatabase

from webhookd.base.errors import CommandError, MasterKeyError
from webhookd.base.files import sync_directory
from webhookd.base.secret import Secret
from webhookd.journal.audit_entries import AuditEntry
from webhookd.journal.queries import audit
from webhookd.journal.rows import Contents
from webhookd.journal.sqlite.copies import UnfinishedFile
from webhookd.journal.sqlite.database import exclusive_lock, refuse_foreign, translated
from webhookd.journal.sqlite.inspection import inspect_copy, verified


class Restored(Struct, frozen=True, kw_only=True):
    """The contents of the restored journal, and the path of the old one; None if there was none."""

    contents: Contents
    kept: Path | None


def restore(
    file: Path, journal: Path, *, load_key: Callable[[], Secret[bytes]], kept_name: str, entry: AuditEntry
) -> Restored:
    """Replace the journal by the backup `file`, under the journal's lock; blocks.

    Raises CommandError if the journal is in use or a file can't be written, JournalError for a backup that can't be
    trusted, and MasterKeyError if the installed key doesn't open it. On an error the journal is unchanged.
    """
    with exclusive_lock(journal):
        _check(file, journal)
        _remove_unfinished(journal)
        status = (journal if journal.exists() else journal.parent).stat()
        target = UnfinishedFile(journal, owner=(status.st_uid, status.st_gid))
        try:
            target.fill(file)
            contents = verified(target.unfinished, called=file)
            has_log = _try_key(target.unfinished, file, contents, load_key)
            if has_log:
                _note(target.unfinished, file, entry)
            target.sync()
            kept = _put_aside(journal, journal.with_name(kept_name))
            target.finish(replace=True)
        finally:
            target.discard()
    return Restored(contents=contents, kept=kept)


def _check(file: Path, journal: Path) -> None:
    if not file.is_file():
        raise CommandError(f"there is no file {file}")
    if journal.exists() and file.samefile(journal):
        raise CommandError(f"{file} is the journal that is in place")
    log = file.with_name(file.name + "-wal")
    if log.exists() and log.stat().st_size > 0:
        raise CommandError(
            f"{file} is no whole backup: a part of it is in {log}, which a program that had it open left"
        )
    try:
        refuse_foreign(file)  # before it is copied, which takes time and room
    except OSError as error:
        raise CommandError(f"can't read {file}: {error.strerror}") from error


def _remove_unfinished(journal: Path) -> None:
    """Remove the copies of a log that a killed restore has left; the name of each has the time of its restore."""
    try:
        for path in journal.parent.iterdir():
            if path.name.startswith(f".{journal.name}.") and path.name.endswith("-wal.unfinished"):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise CommandError(f"can't remove what a killed restore left in {journal.parent}: {error.strerror}") from error


def _try_key(copy: Path, file: Path, contents: Contents, load_key: Callable[[], Secret[bytes]]) -> bool:
    """Check the master key if there are secrets; return whether there is an audit log."""
    with inspect_copy(copy, called=file) as found:
        if found.holds_secrets():
            try:
                found.check_master_key(load_key())
            except MasterKeyError as error:
                needed = "" if contents.key_id is None else f" It needs the master key {contents.key_id}."
                raise MasterKeyError(f"nothing was restored from {file}.{needed} {error}") from error
        return found.has_audit_log()


def _note(copy: Path, file: Path, entry: AuditEntry) -> None:
    """Append to the backup's own audit log that it was restored."""
    database = APSWDatabase(str(copy), pragmas={"synchronous": "FULL"}, lock_type="IMMEDIATE", thread_safe=False)
    with translated(file):
        database.connect()
        try:
            with database.atomic():
                audit.append(database, entry, str(file), None)
        finally:
            database.close()


def _put_aside(journal: Path, kept: Path) -> Path | None:
    """Give the installed journal a second name, and leave no log next to the first."""
    log, index = (journal.with_name(journal.name + end) for end in ("-wal", "-shm"))
    if not journal.exists():
        for left in (log, index):
            left.unlink(missing_ok=True)
        return None
    kept_log = kept.with_name(kept.name + "-wal")
    try:
        has_log = log.exists() and log.stat().st_size > 0
        if has_log:
            # SQLite may delete a log that it can't use.
            _copy(log, kept_log)
        is_folded = not has_log or _fold(journal, log)
        if is_folded:
            kept_log.unlink(missing_ok=True)
        os.link(journal, kept)
        sync_directory(journal.parent)
        if not is_folded:
            journal.unlink()
        for left in (log, index):
            left.unlink(missing_ok=True)
        sync_directory(journal.parent)
    except OSError as error:
        raise CommandError(f"can't keep the journal as {kept}: {error.strerror}") from error
    except CommandError:
        kept_log.unlink(missing_ok=True)
        raise
    return kept


def _copy(file: Path, to: Path) -> None:
    status = file.stat()
    target = UnfinishedFile(to, owner=(status.st_uid, status.st_gid))
    try:
        target.fill(file)
        target.finish(replace=False)
    finally:
        target.discard()


def _fold(journal: Path, log: Path) -> bool:
    """Copy a log into its journal; return False if they are too damaged for that."""
    with suppress(apsw.Error):
        connection = apsw.Connection(str(journal))
        try:
            # SQLite finds only on a read that a file is no database.
            connection.execute("SELECT count(*) FROM sqlite_schema; PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            connection.close()
        if log.exists() and log.stat().st_size:
            raise CommandError(f"another program has {journal} open: stop it first")
        return True
    return False
