"""`webhookd backup` and `webhookd restore` with real processes: under load, without a server, killed, and refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.e2e.harness import CONFIG, Server, running
from tests.e2e.test_master_key import command
from tests.journal.harness import MASTER_KEY
from tests.journal.old import VERSIONS, ask, make_old, version_of
from tests.launcher import program as planted
from tests.patience import PATIENCE_SECONDS
from tests.receiver import Receiver
from webhookd.base.errors import CommandError, WebhookdError
from webhookd.cli import program
from webhookd.client import Client
from webhookd.crypto.key_file import create_master_key, format_master_key
from webhookd.journal.sqlite.database import exclusive_lock

Change = Callable[[Path], object]
EVENTS = "SELECT id FROM events ORDER BY pk"


def names(path: Path) -> list[str]:
    return [str(name) for (name,) in ask(path, EVENTS)]


async def test_a_backup_under_load_holds_all_that_was_acknowledged(tmp_path: Path) -> None:
    """A backup under load has every event that was acknowledged before it, and a server can start from it."""
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    file = tmp_path / "copy.db"
    acknowledged: list[str] = []
    stopped = False

    def produce(server: Server) -> None:
        with Client(server.socket) as producer:
            while not stopped:
                name = f"e{len(acknowledged)}"
                producer.send("user.created", {"text": "x" * 2000}, id=name)
                acknowledged.append(name)

    async with running(home) as server, trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver().run)
        await server.webhook(receiver.url)
        await server.webhook(receiver.url, isActive=False)
        nursery.start_soon(trio.to_thread.run_sync, produce, server)
        with trio.fail_after(PATIENCE_SECONDS):
            while len(acknowledged) < 500:
                await trio.sleep(0.01)
        before = len(acknowledged)
        status, output, error = await command(home, "backup", file)
        after = len(acknowledged)
        stopped = True
        assert (status, error) == (0, "")
        assert output.startswith(f"{file}: ")
        copied = names(file)
        assert copied == [f"e{number}" for number in range(len(copied))]
        assert before <= len(copied) <= after + 1
        assert after > before, "no event was accepted during the backup"
        assert file.stat().st_mode & 0o777 == 0o600
        progress = await server.get("/api/backup")
        assert (progress["stage"], progress["contents"]["events"]) == ("done", len(copied))
        assert progress["contents"]["keyId"] in output
        actions = ask(file, "SELECT action, object, actor_kind, fields FROM audit ORDER BY sequence DESC LIMIT 1")
        assert actions == [("journal.backup", str(file), "control", '["file"]')]
        assert (await server.stop()) == 0
        shutil.copy(file, other / "webhookd.db")
        shutil.copy(home / "master.key", other / "master.key")
        async with running(other) as second:
            feed = await second.get("/api/events?limit=1")
            assert feed["data"][0]["id"] in copied
            await second.stop()
        nursery.cancel_scope.cancel()


async def test_a_running_server_refuses_to_overwrite_a_file(tmp_path: Path) -> None:
    """Without --force an existing file is kept and the status is 1; the journal's own files are always refused."""
    file = tmp_path / "copy.db"
    file.write_text("precious")
    async with running(tmp_path) as server:
        status, _, error = await command(tmp_path, "backup", file)
        assert (status, file.read_text()) == (1, "precious")
        assert error == f"webhookd: {file} is there already: take another name, or --force to replace it\n"
        status, _, error = await command(tmp_path, "backup", "--force", tmp_path / "webhookd.db")
        assert (status, "is the journal's own" in error) == (1, True)
        status, output, _ = await command(tmp_path, "backup", "--force", file)
        assert (status, output.split(": ")[0]) == (0, str(file))
        assert (await server.get("/api/audit"))["data"][0]["fields"] == ["file", "force"]


def call(tmp_path: Path, *arguments: object) -> None:
    """Run a command in this process."""
    program.main([*map(str, arguments), "--config", str(tmp_path / "config.toml")], standalone_mode=False)


def test_without_a_server_the_command_makes_the_backup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a server, `backup` takes the lock and makes the copy with its audit entry, or says why it can't."""
    file = tmp_path / "copy.db"
    (tmp_path / "config.toml").write_text(CONFIG)
    with pytest.raises(CommandError, match="there is no journal"):
        call(tmp_path, "backup", file)
    assert not (tmp_path / "webhookd.db").exists()
    make_old(tmp_path / "webhookd.db", VERSIONS[-1])
    call(tmp_path, "backup", file)
    summary = f"{file}: {file.stat().st_size / 2**20:.1f} MiB, version {VERSIONS[-1]}; 2 events, the last of 2023-11"
    assert summary in capsys.readouterr().out
    assert ask(file, "SELECT actor_kind FROM audit WHERE action = 'journal.backup'") == [("command",)]
    with pytest.raises(CommandError, match="is there already"):
        call(tmp_path, "backup", file)
    with pytest.raises(CommandError, match="is no directory"):
        call(tmp_path, "backup", tmp_path / "none" / "copy.db")
    with exclusive_lock(tmp_path / "webhookd.db"), pytest.raises(CommandError, match="in use by another webhookd"):
        call(tmp_path, "backup", "--force", file)
    with exclusive_lock(tmp_path / "webhookd.db"), pytest.raises(CommandError, match="in use by another webhookd"):
        call(tmp_path, "restore", file)


async def test_after_a_kill_in_a_backup_the_next_one_is_complete(tmp_path: Path) -> None:
    """A kill during a backup leaves no file under the final name, and the next backup removes the unfinished one."""
    file = tmp_path / "copy.db"
    async with running(tmp_path) as server:
        await server.stop()
        await server.start(planted("hangs in a copy"))
        await server.webhook("http://127.0.0.1:10001/", isActive=False)
        with Client(server.socket) as producer:
            for number in range(40):
                producer.send("user.created", {"text": "x" * 20_000}, id=f"e{number}")
        await server.post("/api/backup", {"file": str(file)})
        with trio.fail_after(PATIENCE_SECONDS):
            while not (progress := await server.get("/api/backup"))["copiedPages"]:
                await trio.sleep(0.01)
        assert progress["stage"] == "copying"
        await server.kill()
        assert (tmp_path / ".copy.db.unfinished").exists()
        assert not file.exists()
        await server.start()
        status, _, _ = await command(tmp_path, "backup", file)
        assert status == 0
        assert len(names(file)) == 40
        assert not list(tmp_path.glob(".copy.db*"))


async def test_a_restore_sends_the_pending_deliveries_again(tmp_path: Path) -> None:
    """After a restore, deliveries that were pending in the backup are sent again, and the old journal is kept."""
    file = tmp_path / "copy.db"
    async with running(tmp_path) as server, trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver().run)
        webhook = await server.webhook(receiver.url, isActive=False)
        with Client(server.socket) as producer:
            producer.send("user.created", {}, id="waits")
        assert (await command(tmp_path, "backup", file))[0] == 0
        with Client(server.socket) as producer:
            producer.send("user.created", {}, id="later")
        await server.enable(webhook["id"])
        await receiver.wait_for(2)
        status, _, error = await command(tmp_path, "restore", file)
        assert (status, error) == (1, "webhookd: a server is running: stop it first\n")
        await server.settled(webhook["id"])
        await server.kill()  # its last commits are only in the write-ahead log
        assert (tmp_path / "webhookd.db-wal").stat().st_size > 0
        status, output, _ = await command(tmp_path, "restore", file)
        assert status == 0
        [kept] = tmp_path.glob("webhookd.db.replaced-*")
        assert f"the previous journal is kept as {kept}\n" in output
        assert "the next start sends its 1 pending deliveries\n" in output
        assert names(tmp_path / "webhookd.db") == ["waits"]
        assert names(kept) == ["waits", "later"]
        assert ask(kept, "SELECT count(*) FROM deliveries WHERE status = 'succeeded'") == [(2,)]
        assert {path.stat().st_mode & 0o777 for path in (kept, tmp_path / "webhookd.db")} == {0o600}
        restored = ask(tmp_path / "webhookd.db", "SELECT object FROM audit WHERE action = 'journal.restore'")
        assert restored == [(str(file),)]
        await server.start()
        await server.enable(webhook["id"])
        await receiver.wait_for(3)
        assert [request.headers["webhook-id"] for request in receiver.requests] == ["waits", "later", "waits"]
        await server.stop()
        assert (await command(tmp_path, "doctor"))[0] == 0
        nursery.cancel_scope.cancel()


def damaged(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[4096 * 3 : 4096 * 12] = b"\xa5" * 4096 * 9
    file.write_bytes(content)


def newer(file: Path) -> None:
    ask(file, "PRAGMA user_version = 99")


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8192])


def foreign(file: Path) -> None:
    file.unlink()
    ask(file, "CREATE TABLE other (a)")


def with_its_log(file: Path) -> None:
    file.with_name("copy.db-wal").write_bytes(b"a part of it")


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        (damaged, 70, "damaged"),
        (cut_off, 70, "damaged"),
        (newer, 70, "has version 99"),
        (foreign, 70, "not a journal of webhookd"),
        (lambda file: file.write_text("no database"), 70, "it is no SQLite file"),
        (lambda file: file.unlink(), 1, "there is no file"),
        (with_its_log, 1, "is no whole backup"),
        (lambda file: file.with_name("master.key").unlink(), 2, "It needs the master key "),
        (lambda file: replace_key(file.with_name("master.key")), 2, "It needs the master key "),
    ],
)
def test_a_refused_restore_changes_nothing(tmp_path: Path, change: Change, status: int, says: str) -> None:
    """A file that is no valid backup, and a wrong key, are refused with their exit status; the journal is unchanged."""
    file, journal, config = (tmp_path / name for name in ("copy.db", "webhookd.db", "config.toml"))
    config.write_text(CONFIG)
    write_key(tmp_path / "master.key")
    for path in (file, journal):
        make_old(path, VERSIONS[-1])
    change(file)
    before = journal.read_bytes()
    with pytest.raises(WebhookdError, match=says) as refused:
        call(tmp_path, "restore", file)
    assert refused.value.exit_status == status
    assert "\n" not in str(refused.value)
    assert journal.read_bytes() == before
    assert not [*tmp_path.glob("*replaced*"), *tmp_path.glob(".webhookd*")]


def write_key(path: Path) -> None:
    """Write the master key of the old journals."""
    path.touch(mode=0o600)
    path.write_text(format_master_key(MASTER_KEY))


def replace_key(path: Path) -> None:
    path.unlink()
    create_master_key(path)


async def test_the_copy_before_an_upgrade_can_be_restored(tmp_path: Path) -> None:
    """`doctor` announces the copy before an upgrade, and `restore` puts it back, to be upgraded again."""
    journal = tmp_path / "webhookd.db"
    make_old(journal, 1)
    write_key(tmp_path / "master.key")
    # All its data is old, and retention must not delete it.
    config = CONFIG.replace('path = "webhookd.db"', 'path = "webhookd.db"\nretention_days = 36500')
    Server(tmp_path, config)  # writes the configuration
    known = VERSIONS[-1]
    copy = f"webhookd.db.before-v{known}"
    assert (
        f"version 1; the next start upgrades it to {known}, after a copy, {copy}"
        in (await command(tmp_path, "doctor"))[1]
    )
    async with running(tmp_path, config) as server:
        assert len((await server.get("/api/events"))["data"]) == 2
        assert await server.stop() == 0
    assert f"tables         version {known}\n" in (await command(tmp_path, "doctor"))[1]
    status, output, _ = await command(tmp_path, "restore", tmp_path / copy)
    assert status == 0
    assert ", version 1; 2 events, the last of 2023-11-14T22:13:22.000Z; 2 deliveries, 1 of them pending\n" in output
    assert version_of(journal) == 1
    async with running(tmp_path, config) as server:
        assert len((await server.get("/api/events"))["data"]) == 2
        assert await server.stop() == 0
    assert version_of(journal) == known
