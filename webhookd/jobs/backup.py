"""Backups of a running server, one at a time, by a task of their own: the API starts one and reports its progress."""

from enum import StrEnum
from pathlib import Path

import trio
from msgspec import Struct, structs

from webhookd.base.errors import CommandError, ErrorCode, Rejected, WebhookdError
from webhookd.journal import NO_COPY, AuditEntry, Contents, Store, check_place
from webhookd.observe.logs import get_logger

_log = get_logger("backup")


class CopyStage(StrEnum):
    """How far a backup is."""

    NONE = "none"  # since the start
    COPYING = "copying"
    VERIFYING = "verifying"
    DONE = "done"
    FAILED = "failed"


class CopyProgress(Struct, frozen=True, kw_only=True):
    """The current or the last backup; `contents` when it is done, `failure` if it failed."""

    stage: CopyStage = CopyStage.NONE
    file: Path | None = None
    copied_pages: int = 0
    pages: int = 0
    contents: Contents | None = None
    failure: WebhookdError | None = None


class BackupJob:
    """Makes backups of a journal; `run` it under a supervisor."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._progress = CopyProgress()
        self._is_taken = False
        self._replaces = False
        self._asked = trio.Event()

    def progress(self) -> CopyProgress:
        """Return the progress of the current or the last backup."""
        return self._progress

    async def begin(self, file: Path, entry: AuditEntry, *, replace: bool) -> CopyProgress:
        """Start a backup; its entry in the audit log is in the backup too.

        Raises Rejected: CONFLICT while another one is being made or if the journal is in a database, VALIDATION_ERROR
        if it can't be put there.
        """
        journal = self._store.path
        if journal is None:
            raise Rejected(ErrorCode.CONFLICT, NO_COPY)
        if self._is_taken:
            raise Rejected(ErrorCode.CONFLICT, "a backup is being made; wait until it is done")
        self._is_taken = True
        try:
            await trio.to_thread.run_sync(lambda: check_place(file, journal, replace=replace))
            await self._store.audit.append(entry, str(file), None)
        except CommandError as error:
            self._is_taken = False
            raise Rejected(ErrorCode.VALIDATION_ERROR, str(error), errors=(("/file", str(error)),)) from error
        except BaseException:
            self._is_taken = False
            raise
        self._replaces = replace
        self._progress = CopyProgress(stage=CopyStage.COPYING, file=file)
        self._asked.set()
        return self._progress

    async def run(self) -> None:
        """Make backups until canceled."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            await self._make()

    async def _make(self) -> None:
        file = self._progress.file
        assert file is not None  # noqa: S101 - `begin` has set it
        failure = CommandError("it was cut off")
        _log.info("backup.begun", file=str(file))
        try:
            contents = await self._store.back_up(file, replace=self._replaces, report=self._report)
            self._progress = structs.replace(self._progress, stage=CopyStage.DONE, contents=contents)
            _log.info("backup.done", file=str(file), events=contents.events, pending=contents.pending)
        except WebhookdError as error:
            self._progress = structs.replace(self._progress, stage=CopyStage.FAILED, failure=error)
            _log.error("backup.failed", file=str(file), reason=str(error))
        finally:
            if self._progress.stage not in {CopyStage.DONE, CopyStage.FAILED}:
                self._progress = structs.replace(self._progress, stage=CopyStage.FAILED, failure=failure)
            self._is_taken = False

    def _report(self, copied: int, pages: int) -> None:
        stage = CopyStage.COPYING if copied < pages else CopyStage.VERIFYING
        self._progress = structs.replace(self._progress, stage=stage, copied_pages=copied, pages=pages)
