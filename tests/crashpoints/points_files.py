"""The crash points of what makes and replaces files: first start, migration, backup and restore."""

from tests.crashpoints.files import BackedUp, Migrated, Restored
from tests.crashpoints.point import after, before
from tests.crashpoints.steps import FirstStart
from webhookd.journal.sqlite.migrations import CURRENT_VERSION

_SQL = "playhouse.apsw_ext:APSWDatabase.execute_sql"
_COPIES, _RESTORING = "webhookd.journal.sqlite.copies", "webhookd.journal.sqlite.restore"

START = (
    after(
        "start.tables",
        "webhookd.journal.store:open_writer",
        "The first start has made the journal's tables and no key: the next one makes master key and admin key.",
        FirstStart(is_key_shown=True),
    ),
    after(
        "start.key-file",
        "webhookd.crypto.key_file:KeyPlace.create",
        "The master key's file is there, the journal hasn't taken it: the next start takes it.",
        FirstStart(is_key_shown=True),
    ),
    before(
        "start.key-taken",
        "webhookd.server:ensure_admin_key",
        "The journal has its master key and no admin key: the next start makes and shows one.",
        FirstStart(is_key_shown=True),
    ),
    after(
        "start.admin-key",
        "webhookd.server:ensure_admin_key",
        "The first admin key is stored and nobody saw it: another is made over the control socket.",
        FirstStart(is_key_shown=False),
    ),
)

MIGRATION = (
    before(
        "migration.begun",
        "webhookd.journal.sqlite.database:copy_aside",
        "Nothing is done: the journal has its version, the next start copies and upgrades it.",
        Migrated(is_done=False, is_copied=False),
    ),
    before(
        "migration.copying",
        f"{_COPIES}:UnfinishedFile.finish",
        "The copy has no name yet: the next start throws it away, and copies and upgrades.",
        Migrated(is_done=False, is_copied=False),
    ),
    after(
        "migration.copied",
        "webhookd.journal.sqlite.database:copy_aside",
        "The copy is whole and there, the journal of its version: the next start upgrades it.",
        Migrated(is_done=False),
    ),
    before(
        "migration.half",
        _SQL,
        "A step is half done: the journal is as it was before the first.",
        Migrated(is_done=False),
        about="ALTER TABLE api_keys",
    ),
    after(
        "migration.between",
        _SQL,
        "One step is done, another to come: the journal is as it was before the first.",
        Migrated(is_done=False),
        about="PRAGMA user_version = 2",
    ),
    after(
        "migration.uncommitted",
        _SQL,
        "All steps are done and not committed: the journal is as it was before the first.",
        Migrated(is_done=False),
        about=f"PRAGMA user_version = {CURRENT_VERSION}",
    ),
    after(
        "migration.committed",
        "webhookd.journal.sqlite.database:migrate",
        "The journal has the new version and the copy is of the old one.",
        Migrated(is_done=True),
    ),
)

BACKUP = (
    after(
        "backup.copying",
        f"{_COPIES}:Pages.step",
        "Some pages are copied: nothing has the backup's name; the next one takes away what is left.",
        BackedUp(is_there=False),
    ),
    before(
        "backup.verified",
        f"{_COPIES}:UnfinishedFile.finish",
        "The copy is verified and unsynced: nothing has the backup's name; the next one takes away what is left.",
        BackedUp(is_there=False),
    ),
    before(
        "backup.named",
        f"{_COPIES}:UnfinishedFile.discard",
        "The copy has its name and its unfinished one: the backup is whole; the next one takes away what is left.",
        BackedUp(is_there=True),
    ),
    before(
        "backup.unlisted",
        f"{_COPIES}:sync_directory",
        "The copy has its name, its directory isn't synced: the backup is whole.",
        BackedUp(is_there=True),
    ),
    after(
        "backup.command",
        f"{_COPIES}:Pages.step",
        "The same without a server: nothing has the backup's name, and the journal is free for the next start.",
        BackedUp(is_there=False, by_command=True),
    ),
)

RESTORE = (
    after(
        "restore.filled",
        f"{_COPIES}:UnfinishedFile.fill",
        "The backup is copied beside the journal, which is as it was.",
        Restored(is_done=False),
    ),
    before(
        "restore.verified",
        f"{_RESTORING}:_put_aside",
        "The backup is verified and its entry made: the journal is as it was.",
        Restored(is_done=False),
    ),
    after(
        "restore.log-kept",
        f"{_RESTORING}:_copy",
        "The journal's log is copied: journal and log are as they were.",
        Restored(is_done=False),
    ),
    after(
        "restore.folded",
        f"{_RESTORING}:_fold",
        "The journal's log is in its file: the journal is as it was.",
        Restored(is_done=False),
    ),
    after(
        "restore.kept",
        f"{_RESTORING}:_put_aside",
        "The journal has a second name and still its first.",
        Restored(is_done=False),
    ),
    before(
        "restore.unlisted",
        f"{_COPIES}:sync_directory",
        "The backup is in the journal's place, the directory not synced; the journal from before is kept, all of it.",
        Restored(is_done=True),
        nth=2,
    ),
    after(
        "restore.replaced",
        f"{_COPIES}:UnfinishedFile.finish",
        "The backup is in the journal's place; the journal from before is kept, all of it.",
        Restored(is_done=True),
        nth=2,
    ),
)
