"""What is left of files when the process dies: of a first start, an upgrade, a backup and a restore."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import trio

from tests.crashpoints.site import BrokenError, Site, expect, verify
from tests.e2e.harness import CONFIG
from tests.journal.harness import MASTER_KEY
from tests.journal.old import ask, make_old, tables_of
from webhookd.base.errors import WebhookdError
from webhookd.crypto.key_file import format_master_key
from webhookd.journal import Contents, copy_before_upgrade
from webhookd.journal.sqlite.inspection import verified
from webhookd.journal.sqlite.migrations import CURRENT_VERSION

_BIG, _TEXT = 10, "x" * 100_000
_BEFORE, _LATER = "before", "later"
_NAMES = "SELECT id FROM events ORDER BY pk"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstStart:
    """A check of a first start: the next one goes on, and the first admin key `is_key_shown` by it or never."""

    is_key_shown: bool

    async def __call__(self, site: Site) -> None:
        """Play it."""
        expect(not await site.die("serve"), "a key was shown")
        await site.serve()
        expect(bool(site.first_key) == self.is_key_shown, f"the admin key is {'' if site.first_key else 'not '}shown")
        if not self.is_key_shown:
            keys = (await site.get("/api/keys"))["data"]
            expect(len(keys) == 1, f"{len(keys)} keys instead of the one that was not shown")
            await site.change("POST", "/api/keys", {"role": "admin"})
            await site.change("DELETE", f"/api/keys/{keys[0]['id']}")
        receiver = await site.receiver()
        webhook = await site.webhook(receiver.url)
        await site.submit("e")
        await site.quiet(webhook)
        verify(receiver.requests, webhook["secret"])
        expect(len(receiver.requests) == 1, "it was not delivered once")
        await site.stop()
        await site.serve()
        site.check_journal()


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrated:
    """A check of an upgrade from the first version: the file is of that or of this one, and the copy is whole."""

    is_done: bool

    async def __call__(self, site: Site) -> None:
        """Play it."""
        make_old(site.journal, 1)
        # Its events are of 2023, and are to be kept.
        site.config_file.write_text(CONFIG.replace("[delivery]", "retention_days = 36500\n[delivery]"))
        key = site.directory / "master.key"
        key.touch(mode=0o600)
        key.write_text(format_master_key(MASTER_KEY))
        before = tables_of(site.journal)
        copy = copy_before_upgrade(site.journal)
        await site.die("serve")
        version = site.look("PRAGMA user_version")[0][0]
        expect(version == (CURRENT_VERSION if self.is_done else 1), f"killed, it has version {version}")
        expect(copy.exists(), "the copy is not there")
        if not self.is_done:
            tables = site.look("SELECT count(*) FROM sqlite_schema WHERE name NOT LIKE 'sqlite%'")
            expect(tables == [(len(before),)], "tables of another version are there")
        await site.serve()
        expect(site.look("PRAGMA user_version") == [(CURRENT_VERSION,)], "it was not upgraded")
        expect(_whole(copy).version == 1, "the copy isn't of the version before")
        expect(tables_of(copy) == before, "the copy has other tables")
        left = list(site.directory.glob(".webhookd.db*"))
        expect(not left, f"left over: {left}")
        expect(await site.submit("e1", "new") == [True, False], "an event of before the upgrade is not known any more")
        site.check_journal()


@dataclass(frozen=True, slots=True, kw_only=True)
class BackedUp:
    """A check of a backup: what is under its name is whole, or nothing is; the next one removes what was left.

    `by_command`: made by `backup` while no server runs.
    """

    is_there: bool
    by_command: bool = False

    async def __call__(self, site: Site) -> None:
        """Play it."""
        file = site.directory / "copy.db"
        await site.serve(is_doomed=not self.by_command)
        await site.webhook("http://127.0.0.1:10001/", isActive=False)
        await site.submit(*(f"e{number}" for number in range(_BIG)), text=_TEXT)
        if self.by_command:
            await site.stop()
            await site.die("backup", file)
        else:
            await site.ask_and_die("POST", "/api/backup", {"file": str(file)})
        expect(file.exists() == self.is_there, f"the file is {'' if file.exists() else 'not '}there")
        if self.is_there:
            expect(_whole(file).events == _BIG, "the backup isn't whole")
        await site.serve()
        await site.submit("more")
        status = await site.call("backup", "--force", file)
        expect(status == 0, f"the next backup ended with status {status}")
        expect(_whole(file).events == _BIG + 1, "the next backup isn't whole")
        left = list(site.directory.glob(".copy.db*"))
        expect(not left, f"left over: {left}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A check of a restore: the journal is as it was, or it is the backup and all of the previous one is kept."""

    is_done: bool

    async def __call__(self, site: Site) -> None:
        """Play it."""
        file = site.directory / "copy.db"
        await site.serve()
        receiver = await site.receiver()
        webhook = await site.webhook(receiver.url, isActive=False)
        await site.submit(_BEFORE)
        expect(await site.call("backup", file) == 0, "the backup failed")
        await site.submit(_LATER)
        await site.kill()
        await site.die("restore", file)
        names = [name for (name,) in site.look(_NAMES)]
        expect(names == ([_BEFORE] if self.is_done else [_BEFORE, _LATER]), f"the journal has {names}")
        if self.is_done:
            kept = [path for path in site.directory.glob("webhookd.db.replaced-*") if not path.name.endswith("-wal")]
            expect(len(kept) == 1, "the journal from before is not kept")
            expect(ask(kept[0], _NAMES) == [(_BEFORE,), (_LATER,)], "what is kept isn't all of it")
        await site.serve()
        await site.change("PATCH", f"/api/webhooks/{webhook['id']}", {"isActive": True})
        await site.quiet(webhook)
        verify(receiver.requests, webhook["secret"])
        sent = [request.headers["webhook-id"] for request in receiver.requests]
        expect(sent == names, f"sent: {sent}")
        await site.stop()
        if not self.is_done:
            # What is kept is named by the second.
            while [*site.directory.glob(f"*.replaced-{datetime.now(UTC):%Y%m%dT%H%M%SZ}*")]:
                await trio.sleep(0.05)
            status = await site.call("restore", file)
            expect(status == 0, f"the next restore ended with status {status}")
            expect(site.look(_NAMES) == [(_BEFORE,)], "the next restore didn't restore")
        left = list(site.directory.glob(".webhookd.db*"))
        expect(self.is_done or not left, f"left over: {left}")


def _whole(file: Path) -> Contents:
    try:
        return verified(file, called=file)
    except (WebhookdError, OSError) as error:
        raise BrokenError(f"{file.name} isn't whole: {error}") from error
