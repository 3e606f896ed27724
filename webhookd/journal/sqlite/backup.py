"""Backups: a copy of a journal in use, made between its commits, verified, synced, and only then renamed to its name.

The copy takes the writer's thread for some 5 ms at a time, and then pauses as long. The copy is verified and synced in
a thread of its own.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import apsw
import trio
from peewee import Database

from webhookd.base.errors import CommandError, JournalError
from webhookd.base.files import refusal
from webhookd.journal.rows import Contents, CopyReport
from webhookd.journal.runners import Runner
from webhookd.journal.sqlite.copies import Pages, UnfinishedFile, already_there
from webhookd.journal.sqlite.inspection import verified

SYNC_BYTES = 8 * 1024 * 1024
_LEAST_PAUSE_SECONDS = 0.001


def check_place(file: Path, journal: Path, *, replace: bool) -> None:
    """Raise CommandError if a backup can't be written to `file`.

    That is so if the file exists, has no directory, or is one of the journal's own. A device, a pipe or a socket is
    never replaced: if root did that, all other users of the machine would lose it.
    """
    own = [journal, *(journal.with_name(journal.name + end) for end in ("-wal", "-shm", ".lock", ".reserve"))]
    try:
        if not file.parent.is_dir():
            raise CommandError(f"{file.parent} is no directory")
        if any(
            os.path.realpath(file) == os.path.realpath(each)
            or (file.exists() and each.exists() and file.samefile(each))
            for each in own
        ):
            raise CommandError(f"{file} is the journal's own: take another name")
        if file.is_dir():
            raise CommandError(f"{file} is a directory: name a file in it")
        if file.exists() and not file.is_file():
            raise CommandError(f"{file} is a device, a pipe or a socket: take another name")
        is_taken = os.path.lexists(file)
    except OSError as error:  # such as a name that is too long
        raise CommandError(f"can't write {file}: {refusal(error, file, 'name another file')}") from error
    if is_taken and not replace:
        raise already_there(file)


async def back_up(source: Database, runner: Runner, file: Path, *, replace: bool, report: CopyReport) -> Contents:
    """Copy the journal that `source` has open, whose calls `runner` makes one at a time; return what the copy contains.

    Raises CommandError if the file can't be written, and JournalError if the copy is damaged. On an error or when
    canceled, no file is left behind, and an existing file is unchanged.
    """
    threads = trio.CapacityLimiter(1)
    target = await trio.to_thread.run_sync(UnfinishedFile, file, limiter=threads)
    try:
        counters = await _copy(source, runner, target, threads, report)
        # It only reads, so a server that stops needn't wait for it.
        contents = await trio.to_thread.run_sync(
            partial(verified, target.unfinished, called=file), limiter=threads, abandon_on_cancel=True
        )
        if list(contents.counters) != counters:
            raise CommandError(f"{file} isn't what was to be copied: {contents.counters} instead of {counters}")
        await trio.to_thread.run_sync(partial(target.finish, replace=replace), limiter=threads)
        return contents
    finally:
        with trio.CancelScope(shield=True):
            # With its own limit: an abandoned verification may still occupy the thread.
            await trio.to_thread.run_sync(target.discard, limiter=trio.CapacityLimiter(1))


async def _copy(
    source: Database, runner: Runner, target: UnfinishedFile, threads: trio.CapacityLimiter, report: CopyReport
) -> list[tuple[object, ...]]:
    with _translated(target.path):
        pages = await runner.run(partial(Pages, source.connection(), target.unfinished))
        synced = 0
        try:
            while not await runner.run(pages.step):
                report(pages.copied, max(pages.total, pages.copied + 1))
                if abs(pages.copied - synced) * pages.page_bytes > SYNC_BYTES:
                    # The journal's own sync would have to wait for a large amount of unsynced data.
                    await trio.to_thread.run_sync(target.sync, limiter=threads)
                    synced = pages.copied
                await trio.sleep(max(pages.last_seconds, _LEAST_PAUSE_SECONDS))
        finally:
            with trio.CancelScope(shield=True):
                await runner.run(pages.close)
    report(pages.total, pages.total)
    return pages.counters


_REASONS = (
    (apsw.CantOpenError, "it can't be opened; look at its directory and who may write there"),
    (apsw.ReadOnlyError, "it may only be read"),
    (apsw.BusyError, "another program is using it"),
    (apsw.IOError, "its disk fails"),
)


@contextmanager
def _translated(file: Path) -> Iterator[None]:
    try:
        yield
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise JournalError(f"the journal can't be copied to {file}: it is damaged") from error
    except apsw.FullError as error:
        raise CommandError(f"no room for {file}") from error
    except apsw.Error as error:
        why = next((words for kind, words in _REASONS if isinstance(error, kind)), "SQLite doesn't take it")
        raise CommandError(f"can't write {file}: {why}") from error
