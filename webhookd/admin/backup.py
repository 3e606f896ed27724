"""Backups of the journal by the running server, for the machine's administrator only."""

from http import HTTPStatus
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from webhookd.admin.auth import Permission
from webhookd.admin.operations import Answer, Call, NoBody, given, operation
from webhookd.admin.schemas import Input, NoQuery, Output
from webhookd.admin.views import shown
from webhookd.base.errors import ErrorCode, JournalError
from webhookd.base.event_format import invalid
from webhookd.jobs.backup import CopyProgress, CopyStage
from webhookd.journal import Action, Contents

PATH = "/api/backup"


class NewBackup(Input, frozen=True, kw_only=True):
    """The file of the backup, an absolute path on the server's machine; `force` overwrites an existing file."""

    file: Annotated[str, Meta(min_length=1, max_length=4096)]
    force: bool = False


class ContentsView(Output, frozen=True, kw_only=True):
    """The contents of a backup; `pending` counts the pending deliveries, `keyId` names the master key that it needs."""

    version: int
    bytes: int
    events: int
    deliveries: int
    pending: int
    last_event_at: str | None
    key_id: str | None


class BackupView(Output, frozen=True, kw_only=True):
    """The current backup, or the last one since the server's start; `problem` says why it failed."""

    stage: CopyStage
    file: str | None
    copied_pages: int
    pages: int
    contents: ContentsView | None
    problem: str | None
    is_damaged: bool


async def get_backup(call: Call[NoQuery, NoBody]) -> Answer[BackupView]:
    """Read the progress of the current backup, or the result of the last one; control socket only."""
    return Answer(value=_view(call.services.backup_job.progress()))


async def make_backup(call: Call[NoQuery, NewBackup]) -> Answer[BackupView]:
    """Start a backup of the journal to a file; control socket only."""
    file = Path(call.body.file)
    if not file.is_absolute() or "\0" in call.body.file:
        raise invalid((("/file", "an absolute path"),))
    entry = call.audit_entry(Action.JOURNAL_BACKUP, given(call.body))
    progress = await call.services.backup_job.begin(file, entry, replace=call.body.force)
    return Answer(value=_view(progress), status=HTTPStatus.ACCEPTED, headers={"Location": PATH})


def contents_view(contents: Contents) -> ContentsView:
    """Return the contents of a backup as the API shows them."""
    return shown(ContentsView, contents)


def _view(progress: CopyProgress) -> BackupView:
    return shown(
        BackupView,
        progress,
        file=None if progress.file is None else str(progress.file),
        contents=None if progress.contents is None else contents_view(progress.contents),
        problem=None if progress.failure is None else str(progress.failure),
        is_damaged=isinstance(progress.failure, JournalError),
    )


OPERATIONS = (
    operation(get_backup, f"GET {PATH}", Permission.ADMINISTER_HERE),
    operation(
        make_backup,
        f"POST {PATH}",
        Permission.ADMINISTER_HERE,
        status=HTTPStatus.ACCEPTED,
        refuses=(ErrorCode.CONFLICT, ErrorCode.JOURNAL_FULL),
    ),
)
