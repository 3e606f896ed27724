"""`webhookd doctor` on an intact installation, one with problems, and a damaged journal."""

import json
import os
import re
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from msgspec import structs
from playhouse.apsw_ext import APSWDatabase

from tests.cli.test_commands import run, running
from tests.e2e.harness import CONFIG
from webhookd.admin.schemas import StallView
from webhookd.base.interpreter import Optimization
from webhookd.cli import program
from webhookd.cli.checks import Level, interpreter, of_stall, sqlite
from webhookd.cli.control import Control
from webhookd.journal.sqlite import migrations
from webhookd.journal.sqlite.migrations import CURRENT_VERSION


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """An intact installation: a journal with three keys and their entries in the audit log."""
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    call("init", "--config", path)
    for role in ("viewer", "operator"):
        call("keys", "create", "--role", role, "--config", path)
    return path


def call(*arguments: object) -> int:
    """Run a command in this process, and return its status."""
    status = program.main([str(argument) for argument in arguments], standalone_mode=False)
    return int(status or 0)


@pytest.fixture
def doctor(config: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, list[str]]]:
    """Return a function that runs the checks, checks the status, and returns the problems and damages by name."""

    def look(status: int = 0) -> dict[str, list[str]]:
        capsys.readouterr()
        assert call("doctor", "--json", "--config", config) == status
        report = json.loads(capsys.readouterr().out)
        assert report["status"] == {0: "ok", 1: "problem", 70: "damaged"}[status]
        found: dict[str, list[str]] = {}
        for check in report["checks"]:
            if check["status"] not in {"ok", "note"}:
                found.setdefault(check["name"], []).append(check["detail"])
        return found

    return look


def test_a_sound_installation_is_told_so(config: Path) -> None:
    """Every check has a finding, the exit status is 0, and nothing is changed or left behind."""
    journal = config.with_name("webhookd.db")
    before = (journal.read_bytes(), journal.stat().st_mtime_ns, sorted(config.parent.iterdir()))
    said = run("doctor", "--config", config).stdout
    of_the_machine = ("configuration", "server", "sockets", "files", "master key", "disk", "sqlite")
    assert re.search(r"^(ok|note) +interpreter +CPython 3\.", said, re.MULTILINE)
    for name in (*of_the_machine, "tables", "pages", "references", "audit log", "headers"):
        assert f"ok       {name}" in said
    assert "3 entries, the chain is intact; last hash " in said
    assert said.endswith("no problem found\n")
    assert (journal.read_bytes(), journal.stat().st_mtime_ns, sorted(config.parent.iterdir())) == before


def test_it_looks_beside_a_running_server(config: Path) -> None:
    """While a server runs, its state is a finding too, and its last commit is seen."""
    with running("serve", "--config", config, until=" ready: "):
        Control(config.with_name("control.sock")).post("/api/keys", {"role": "viewer"}, dict[str, Any])
        said = run("doctor", "--config", config).stdout
        assert "running, ok" in said
        assert "server         the event loop" in said
        assert "4 entries, the chain is intact" in said
        assert "mode 0660" in said
        config.with_name("ingest.sock").chmod(0o666)
        assert "has mode 0666 instead of 0660: chmod 660" in run("doctor", "--config", config, status=1).stdout


def test_a_loop_that_worked_too_long_is_to_be_mended() -> None:
    """The longest stall is printed with its task; it is a problem if it took a second of CPU time."""
    assert "never blocked" in of_stall(None).detail
    stall = StallView(ended_at="2026-01-15T11:58:20.114Z", seconds=1.5, cpu_seconds=0.2, task=None)
    waited = of_stall(stall)
    assert waited.level is Level.OK
    assert (
        "ended at 2026-01-15T11:58:20.114Z: 1500 ms, 200 ms of them on a processor, in no single task" in waited.detail
    )
    worked = of_stall(structs.replace(stall, cpu_seconds=1.4, task="actor wh_1"))
    assert worked.level is Level.PROBLEM
    assert "in actor wh_1; please report" in worked.detail


def test_a_killed_servers_log_is_read_and_left(config: Path) -> None:
    """What a killed server left in its write-ahead log is seen, and stays for the next start."""
    journal = config.with_name("webhookd.db")
    with running("serve", "--config", config, until=" ready: ") as server:
        Control(config.with_name("control.sock")).post("/api/keys", {"role": "viewer"}, dict[str, Any])
        server.kill()
        server.wait(30)
    log = journal.with_name("webhookd.db-wal")
    before = (journal.read_bytes(), log.read_bytes())
    assert "4 entries, the chain is intact" in run("doctor", "--config", config).stdout
    assert (journal.read_bytes(), log.read_bytes()) == before


def sql(config: Path, *statements: str) -> None:
    """Change the journal without webhookd."""
    connection = apsw.Connection(str(config.with_name("webhookd.db")))
    for statement in statements:
        connection.execute(statement)
    connection.close()


Doctor = Callable[..., dict[str, list[str]]]


def test_a_header_that_is_not_sent_is_told(config: Path, doctor: Doctor) -> None:
    """A custom header whose name was reserved after it was saved is reported, with its webhook."""
    with running("serve", "--config", config, until=" ready: "):
        made = Control(config.with_name("control.sock")).post(
            "/api/webhooks",
            {"url": "http://127.0.0.1:10001/", "events": ["*"], "headers": {"X-A": "1"}},
            dict[str, Any],
        )
    assert doctor() == {}
    sql(config, """UPDATE endpoints SET header_names = '["X-A", "Proxy"]'""")
    [told] = doctor(1)["headers"]
    assert told.startswith(f"{made['id']} has the header Proxy, which is reserved and isn't sent")


def test_a_tampered_audit_log_is_damage(config: Path, doctor: Doctor) -> None:
    """A changed entry is reported, and so is its dropped trigger, also if it was recreated differently."""
    sql(config, "DROP TRIGGER audit_stays", "UPDATE audit SET actor = 'eve' WHERE sequence = 2")
    trigger, chain = doctor(70)["audit log"]
    assert trigger.startswith("the trigger audit_stays is missing")
    assert chain.startswith("the chain breaks after entry 1: entry 2 (key.create of key_")
    shown = run("doctor", "--config", config, status=70).stdout
    assert f"damaged  audit log      {chain}" in shown
    assert shown.endswith("the journal can't be trusted\n")


def test_entries_taken_off_the_end_are_missed(config: Path, doctor: Doctor) -> None:
    """Removed entries at the end are found too."""
    sql(config, "DROP TRIGGER audit_keeps", "DELETE FROM audit WHERE sequence > 1")
    assert doctor(70)["audit log"][-1] == (
        "the chain breaks after entry 1: entry 2 is missing: 2 at the end were taken out"
    )


def test_rows_that_refer_to_nothing_are_damage(config: Path, doctor: Doctor) -> None:
    """An attempt without its delivery shows that another program has changed the file."""
    sql(
        config,
        "INSERT INTO attempts (delivery_pk, number, id, trigger, started_at, duration_seconds, response_headers, "
        "response_body, truncated, detail) VALUES (7, 1, 'att_x', 'auto', 0, 0, '[]', x'', 0, '')",
    )
    assert doctor(70) == {"references": ["1 attempts without their delivery: another program has changed the file"]}


def test_a_damaged_page_is_found(config: Path, doctor: Doctor) -> None:
    """A damaged page is reported by the checks that read it, and the other checks run."""
    sql(config, "PRAGMA wal_checkpoint(TRUNCATE)")
    journal = config.with_name("webhookd.db")
    content = bytearray(journal.read_bytes())
    content[4096 * 3 : 4096 * 4] = b"\xa5" * 4096
    journal.write_bytes(content)
    found = doctor(70)
    assert "pages" in found
    assert set(found) <= {"pages", "references", "audit log", "master key", "tables"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"not a database at all, but long enough for a header" * 4, "it is no SQLite file"),
        (b"short", "it is no SQLite file"),
        (None, "has other tables than a journal of webhookd"),
    ],
)
def test_a_file_that_is_no_journal_is_damage(config: Path, doctor: Doctor, content: bytes | None, says: str) -> None:
    """Another file in the place of the journal is status 70; an empty file is a journal to be created."""
    journal = config.with_name("webhookd.db")
    journal.unlink()
    if content is None:
        sql(config, "PRAGMA user_version = 1", "CREATE TABLE other (a)")
        journal.chmod(0o600)
    else:
        journal.write_bytes(content)
        journal.chmod(0o600)
    found = doctor(70)
    assert any(says in detail for details in found.values() for detail in details), found
    journal.write_bytes(b"")
    assert "is empty: the next start makes its tables" in doctor(1)["journal"][0]


def test_a_newer_journal_is_not_touched(config: Path, doctor: Doctor) -> None:
    """Tables of a newer version need a newer program."""
    sql(config, "PRAGMA user_version = 99")
    assert doctor(70)["tables"] == [f"version 99, and this webhookd supports {CURRENT_VERSION}: run the newer one"]


def test_a_journal_from_before_the_audit_log_is_fine(config: Path, doctor: Doctor) -> None:
    """Tables of the first version are fine: the next start upgrades them, and the audit log begins."""
    journal = config.with_name("webhookd.db")
    journal.unlink()
    database: Any = APSWDatabase(str(journal), pragmas={"journal_mode": "WAL"})
    with database, database.atomic():
        migrations._first(database, 0.0)
        database.execute_sql("PRAGMA user_version = 1")
    database.close()
    journal.chmod(0o600)
    assert doctor() == {}
    assert call("keys", "create", "--role", "viewer", "--config", config) == 0
    assert doctor() == {}
    assert "1 entries, the chain is intact" in run("doctor", "--config", config).stdout


@pytest.mark.parametrize(
    ("change", "name", "says"),
    [
        (lambda place: (place / "webhookd.db").chmod(0o644), "files", "has mode 0644, and others can read it"),
        (lambda place: (place / "webhookd.db.lock").chmod(0o660), "files", "has mode 0660"),
        (lambda place: (place / "master.key").chmod(0o640), "master key", "has mode 0640"),
        (lambda place: (place / "master.key").unlink(), "master key", "can't read the master key"),
        (lambda place: (place / "control.sock").write_text(""), "sockets", "is not a socket: remove it"),
        (lambda place: place.chmod(0o777), "files", "every user can write to"),
        (
            lambda place: (place / "config.toml").write_text(
                CONFIG + '[jwt]\nissuer = "i"\naudience = "a"\njwks_file = "none"\n'
            ),
            "configuration",
            "jwt.jwks_file: can't read",
        ),
    ],
)
def test_what_is_to_be_mended_is_status_1(
    config: Path, doctor: Doctor, change: Callable[[Path], object], name: str, says: str
) -> None:
    """A mode, a missing key, a file in the place of a socket: each is a problem with a remedy, and no damage."""
    change(config.parent)
    assert says in " ".join(doctor(1)[name])


def test_an_old_socket_with_another_mode_is_told(config: Path, doctor: Doctor) -> None:
    """A socket that other users can open is reported also if no server runs."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(config.with_name("ingest.sock")))
        config.with_name("ingest.sock").chmod(0o666)
        assert "has mode 0666 instead of 0660" in " ".join(doctor(1)["sockets"])


def test_nothing_there_yet_is_told(tmp_path: Path) -> None:
    """If nothing was set up, the first step is named; an invalid configuration is status 2 as everywhere."""
    config = tmp_path / "config.toml"
    config.write_text(CONFIG)
    assert "`webhookd init` or `webhookd serve` creates it" in run("doctor", "--config", config, status=1).stdout
    assert list(tmp_path.iterdir()) == [config]
    config.write_text("[server]\nprot = 1\n")
    assert "there is no key server.prot" in run("doctor", "--config", config, status=2).stderr


def test_a_sqlite_with_the_reset_bug_is_told() -> None:
    """3.51.3 is the first accepted release."""
    for version, level in (
        ("3.51.3", Level.OK),
        ("4.0.0", Level.OK),
        ("3.51.2", Level.PROBLEM),
        ("3.40.1", Level.PROBLEM),
    ):
        assert [found.level for found in sqlite(version)] == [level]


@pytest.mark.parametrize(
    ("lacks", "level", "says"),
    [
        ((), Level.OK, "built with PGO and LTO"),
        (None, Level.OK, "isn't known"),
        ((Optimization.PGO,), Level.NOTE, "built without PGO (configure --enable-optimizations)"),
        (tuple(Optimization), Level.NOTE, "built without PGO and LTO (configure --enable-optimizations --with-lto)"),
    ],
)
def test_what_the_interpreter_was_built_without_is_a_note(
    lacks: tuple[Optimization, ...] | None, level: Level, says: str
) -> None:
    """A slower build is named with the options that it lacks; where nothing is recorded, nothing is asked for."""
    [finding] = interpreter(lacks)
    assert finding.level is level
    assert says in finding.detail


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("--enable-optimizations --with-lto", "ok       interpreter    {name}, built with PGO and LTO"),
        ("--with-lto", "note     interpreter    {name}, built without PGO (configure --enable-optimizations)"),
    ],
)
def test_a_note_is_no_problem(config: Path, tmp_path: Path, options: str, line: str) -> None:
    """What an interpreter's record says is printed, and a slower build changes neither the status nor the summary."""
    linked = subprocess.run(["ldd", sys.executable], capture_output=True, text=True, check=True).stdout
    is_shared = "libpython3" in linked
    flags = dict.fromkeys(("PY_CFLAGS", "PY_CFLAGS_NODIST", "PY_LDFLAGS", "PY_LDFLAGS_NODIST"), "-O3")
    recorded = sysconfig.get_config_vars() | flags | {"CONFIG_ARGS": options, "Py_ENABLE_SHARED": int(is_shared)}
    (tmp_path / "planted_record.py").write_text(f"build_time_vars = {recorded!r}\n")
    environ = os.environ | {"PYTHONPATH": str(tmp_path), "_PYTHON_SYSCONFIGDATA_NAME": "planted_record"}
    command = [sys.executable, "-m", "webhookd", "doctor", "--config", str(config)]
    for extra in ([], ["--json"]):
        ended = subprocess.run([*command, *extra], env=environ, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        if extra:
            assert json.loads(ended.stdout)["status"] == "ok"
        else:
            assert line.format(name=f"CPython {sys.version.split()[0]}") + "\n" in ended.stdout
            assert ended.stdout.endswith("no problem found\n")
