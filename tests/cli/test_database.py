"""Commands with a journal in a PostgreSQL database: what works without a server, and what says what to do instead."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.cli.conftest import invoke, refusal
from tests.cli.test_commands import run as process
from tests.postgres_server import PostgresServer
from webhookd.base.database_url import parse
from webhookd.base.version import VERSION
from webhookd.cli import database_checks as checks
from webhookd.cli.checks import Finding, Level
from webhookd.journal import CONNECTIONS_A_NODE, Pooler, ServerFacts

SOUND = ServerFacts(
    version="17.2",
    synchronous_commit="on",
    synchronous_standbys="ANY 1 (a, b)",
    standbys=2,
    is_encrypted=True,
    connections=97,
    foreign_connections=3,
    vacuums=True,
    unvacuumed=(),
    sees_all=True,
    oldest_seconds=1.5,
    oldest_prepared_seconds=None,
    is_standby=False,
    used_connections=21,
    idle_transactions=0,
    unread_slots=(),
    missing_rights=(),
    dead_rows={"deliveries": 40, "sequences": 2},
    nodes=2,
    free_slots=0,
    programs=(VERSION,),
    clock_seconds=0.02,
    days_ahead=7,
)


@pytest.fixture
def config(tmp_path: Path, journal_database: str) -> Path:
    """The configuration of a server whose journal is in a database with tables, and that has never been started."""
    path = tmp_path / "config.toml"
    path.write_text(
        f'[server]\ncontrol_socket = "control.sock"\n[ingest]\nsocket = "ingest.sock"\n[journal]\n'
        f'url = "{journal_database}"\n[secrets]\nmaster_key_file = "master.key"\n'
    )
    return path


@pytest.fixture
def run(config: Path) -> Callable[..., Any]:
    """Return a function that runs a command with the configuration and returns its JSON."""

    def run(*arguments: object, **settings: Any) -> Any:
        return json.loads(invoke(*arguments, "--json", "--config", config, **settings).stdout)

    return run


def test_init_makes_what_a_first_start_needs(config: Path, run: Callable[..., Any]) -> None:
    """It creates the master key and one admin key; called again it changes nothing."""
    made = run("init")
    assert made["journal"].startswith("test_")
    assert made["masterKey"] == str(config.with_name("master.key"))
    assert made["adminKey"].startswith("whd_admin_")
    key = config.with_name("master.key").read_bytes()
    assert run("init")["adminKey"] is None
    assert config.with_name("master.key").read_bytes() == key
    [row] = run("keys", "list")["data"]
    assert row["name"] == "first admin key"


def test_a_second_node_needs_the_key_of_the_first(config: Path, run: Callable[..., Any]) -> None:
    """Without the master key it makes no other one, and with another one it doesn't start, though nothing is sealed."""
    run("init")
    key = config.with_name("master.key")
    kept = key.rename(key.with_name("kept.key"))
    assert "is missing, and the journal" in (said := refusal("init", "--config", config, status=2))
    assert "has the key " in said
    assert "copy it from the node that created it" in said
    assert not key.exists()
    key.write_text("A" * 43 + "=\n")
    key.chmod(0o600)
    assert "isn't the one this journal was made with" in refusal("init", "--config", config, status=2)
    kept.rename(key)
    run("init")


def test_the_master_key_must_be_named(config: Path) -> None:
    """Next to no file there is no default place for it: a key that is created where nobody looks would be lost."""
    config.write_text(config.read_text().partition("[secrets]")[0])
    said = refusal("init", "--config", config, status=2)
    assert "set secrets.master_key_file" in said
    assert list(config.parent.iterdir()) == [config]


def test_keys_are_created_listed_and_revoked_without_a_server(
    run: Callable[..., Any], postgres_server: PostgresServer, journal_database: str
) -> None:
    """The commands change the database, with their entries in the audit log, and drive no webhook meanwhile."""
    run("init")
    made = run("keys", "create", "--role", "viewer", "--name", "one")
    assert [row["name"] for row in run("keys", "list")["data"]] == ["one", "first admin key"]
    run("keys", "revoke", made["id"])
    assert [row["name"] for row in run("keys", "list")["data"]] == ["first admin key"]
    report = run("doctor")
    with postgres_server.administer(parse(journal_database).database) as connection:
        assert connection.execute("SELECT sum(generation) FROM slots").fetchall() == [(0,)]
    assert any(re.match(r"3 entries, the chain is intact", check["detail"]) for check in report["checks"])


def test_lists_are_read_from_the_database_without_a_server(config: Path, run: Callable[..., Any]) -> None:
    """A note says where they come from."""
    assert run("webhooks", "list") == {"data": [], "nextCursor": None}
    said = invoke("events", "list", "--config", config)
    assert f"no server listens on {config.with_name('control.sock')}: read from the journal test_" in said.stderr


def test_a_database_without_tables_is_named(config: Path, empty_database: str) -> None:
    """Lists and checks make no tables: they say what does."""
    config.write_text(re.sub(r'url = ".*"', f'url = "{empty_database}"', config.read_text()))
    assert "start `webhookd serve` to upgrade it" in refusal("webhooks", "list", "--config", config)
    report = json.loads(invoke("doctor", "--json", "--config", config, status=1).stdout)
    assert [each["name"] for each in report["checks"] if "creates them" in each["detail"]] == ["tables"]


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_copies_are_postgresqls(config: Path, tmp_path: Path, command: str) -> None:
    """`backup` and `restore` name PostgreSQL's own tools, with the status of a configuration that can't do it."""
    said = refusal(command, tmp_path / "copy.db", "--config", config, status=2)
    assert "PostgreSQL's own tools, such as pg_dump" in said


def test_a_master_key_is_changed_by_a_server_alone(config: Path, run: Callable[..., Any]) -> None:
    """Servers elsewhere may use the database, and would go on to seal with the previous key."""
    run("init")
    assert "start one here" in refusal("rotate-master-key", "--config", config)


def test_a_database_that_cannot_be_reached_is_named(config: Path, tmp_path: Path) -> None:
    """A command says which database it can't reach and why, without a traceback; the service manager tries again."""
    config.write_text(re.sub(r"host=[^&]*", f"host={tmp_path}", config.read_text()))
    words = r"can't connect to the database test_\d+ on .*: No such file or directory"
    for command in (("init",), ("keys", "list"), ("webhooks", "list")):
        assert re.match(words, refusal(*command, "--config", config))
    assert re.match(f"webhookd: {words}", process("serve", "--config", config, status=1).stderr)
    report = json.loads(invoke("doctor", "--json", "--config", config, status=1).stdout)
    found = {check["name"]: check for check in report["checks"]}
    assert found["database"]["status"] == "problem"
    assert "can't connect" in found["database"]["detail"]
    assert "sockets" in found


@pytest.mark.parametrize("command", [("init",), ("check-config",), ("webhooks", "list"), ("doctor",)])
def test_the_extra_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """Without the driver each command that needs it names the extra; the service manager doesn't try again."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    config = tmp_path / "config.toml"
    config.write_text('[journal]\nurl = "postgresql://u@/d?host=/nowhere"\n')
    wanted = "journal.url needs the driver of PostgreSQL, which isn't installed: pip install 'webhookd[postgresql]'"
    if command == ("doctor",):
        assert wanted in invoke(*command, "--config", config, status=1).output
    else:
        assert wanted in refusal(*command, "--config", config, status=2)


def test_a_unit_needs_no_place_for_a_database(config: Path) -> None:
    """It may write only to the sockets' directory, and the password of the database stays root's."""
    config.write_text(config.read_text().replace("[secrets]", 'password_file = "database.password"\n[secrets]'))
    said = invoke("systemd-unit", "--config", config, "--executable", "/usr/bin/true").stdout
    assert re.findall(r"^(?:State|Runtime)Directory=.*|^ReadWritePaths=.*", said, re.MULTILINE) == [
        f"ReadWritePaths={config.parent}"
    ]
    assert f"LoadCredential=webhookd-database-password:{config.parent / 'database.password'}\n" in said
    assert "Environment=WEBHOOKD_JOURNAL__PASSWORD_FILE=%d/webhookd-database-password\n" in said


def test_doctor_looks_at_a_real_server(
    config: Path, run: Callable[..., Any], postgres_server: PostgresServer, journal_database: str
) -> None:
    """Every check has a finding; what an administrator has set up badly is a problem."""
    run("init")
    report = run("doctor")
    names = ["database", "configuration", "server", "sockets", "master key", "interpreter", "rights", "nodes"]
    names += ["replication", "connections", "vacuum", "partitions", "clock", "transactions", "tables", "audit log"]
    names += ["headers"]
    assert list(dict.fromkeys(check["name"] for check in report["checks"])) == names
    assert report["status"] == "ok"
    said = {check["name"]: check["detail"] for check in report["checks"]}
    assert f"PostgreSQL {postgres_server.version}" in said["database"]
    assert said["master key"].endswith("the journal holds no secret yet")
    name = parse(journal_database).database
    with postgres_server.administer(name) as connection:
        connection.execute("ALTER TABLE deliveries SET (autovacuum_enabled = off)")
        connection.execute("DROP TRIGGER audit_keeps ON audit")
        connection.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 7")
        connection.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    report = json.loads(invoke("doctor", "--json", "--config", config, status=70).stdout)
    bad = {check["name"]: check["detail"] for check in report["checks"] if check["status"] in {"problem", "damaged"}}
    assert bad.keys() == {"rights", "connections", "vacuum", "audit log"}
    assert bad["rights"] == "the user of journal.url lacks EXECUTE on pg_catalog.pg_control_system(): GRANT it"
    assert bad["vacuum"].startswith("autovacuum is off for deliveries")
    assert "the trigger audit_keeps is missing" in bad["audit log"]


def levels(found: Iterator[Finding]) -> list[Level]:
    return [finding.level for finding in found]


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        (SOUND, Level.OK),
        (replace(SOUND, synchronous_commit="off"), Level.PROBLEM),
        (replace(SOUND, synchronous_commit="local"), Level.PROBLEM),
        (replace(SOUND, synchronous_standbys=""), Level.PROBLEM),
        (replace(SOUND, synchronous_standbys="", standbys=0), Level.NOTE),
    ],
)
def test_a_failover_that_may_lose_events_is_a_problem(facts: ServerFacts, level: Level) -> None:
    """Asynchronous replication loses acknowledged events; without a standby nothing can take over."""
    assert levels(checks.replication(facts)) == [level]


def test_connections_must_suffice_for_every_node() -> None:
    """What other programs have is not left for the nodes."""
    assert levels(checks.connections(SOUND)) == [Level.OK]
    many = replace(SOUND, connections=2 * CONNECTIONS_A_NODE + 3)
    assert levels(checks.connections(many)) == [Level.OK]
    assert levels(checks.connections(replace(many, foreign_connections=4))) == [Level.PROBLEM]
    assert levels(checks.connections(replace(many, nodes=3))) == [Level.PROBLEM]
    assert levels(checks.connections(replace(many, nodes=0))) == [Level.OK]


def test_clocks_may_differ_by_a_second() -> None:
    """In both directions."""
    for seconds, level in ((0.9, Level.OK), (-0.9, Level.OK), (1.1, Level.PROBLEM), (-1.1, Level.PROBLEM)):
        assert levels(checks.clock(replace(SOUND, clock_seconds=seconds))) == [level]


def test_old_transactions_are_problems() -> None:
    """A prepared one too; what can't be seen is a note."""
    assert levels(checks.transactions(SOUND)) == [Level.OK]
    assert levels(checks.transactions(replace(SOUND, oldest_seconds=601.0))) == [Level.PROBLEM]
    assert levels(checks.transactions(replace(SOUND, oldest_prepared_seconds=601.0))) == [Level.PROBLEM]
    unseen = replace(SOUND, sees_all=False, oldest_seconds=None)
    assert levels(checks.transactions(unseen)) == [Level.NOTE, Level.OK]


def test_a_connection_that_others_can_read_is_a_problem() -> None:
    """Unless it doesn't leave the machine."""
    far = parse("postgresql://u@db.example.com/d?sslmode=require")
    assert levels(checks.connection(far, SOUND)) == [Level.OK, Level.PROBLEM]
    assert levels(checks.connection(parse("postgresql://u@db.example.com/d"), SOUND)) == [Level.OK]
    local = parse("postgresql://u@/d?host=/run/postgresql&sslmode=disable")
    assert levels(checks.connection(local, replace(SOUND, is_encrypted=False))) == [Level.OK]


def test_partitions_must_be_made_ahead() -> None:
    """Nodes that run make them; without one the next start does. Without tables there are none."""
    for days, level in ((7, Level.OK), (3, Level.OK), (2, Level.PROBLEM), (-1, Level.PROBLEM)):
        assert levels(checks.partitions(replace(SOUND, days_ahead=days))) == [level]
    assert levels(checks.partitions(replace(SOUND, days_ahead=2, nodes=0))) == [Level.NOTE]
    assert levels(checks.partitions(replace(SOUND, days_ahead=None))) == []


def test_autovacuum_must_be_on() -> None:
    """For the server and for each table."""
    assert levels(checks.vacuum(SOUND)) == [Level.OK]
    assert levels(checks.vacuum(replace(SOUND, vacuums=False))) == [Level.PROBLEM]
    assert levels(checks.vacuum(replace(SOUND, unvacuumed=("events",)))) == [Level.PROBLEM]


def test_a_pooler_must_leave_a_session_its_connection() -> None:
    """One that hands it out for each transaction is a problem; a standby takes no changes."""
    local = parse("postgresql://u@/d?host=/run/postgresql")
    assert levels(checks.connection(local, replace(SOUND, pooler=Pooler.SESSION))) == [Level.OK, Level.OK]
    assert levels(checks.connection(local, replace(SOUND, pooler=Pooler.TRANSACTION))) == [Level.OK, Level.PROBLEM]
    assert levels(checks.connection(local, replace(SOUND, is_standby=True))) == [Level.OK, Level.PROBLEM]


def test_nodes_should_have_one_version_and_every_slot_a_node() -> None:
    """Other versions are a note, as during an upgrade; a slot without a node is a problem."""
    assert levels(checks.nodes(replace(SOUND, nodes=0, programs=()))) == [Level.OK]
    assert levels(checks.nodes(SOUND)) == [Level.OK]
    assert levels(checks.nodes(replace(SOUND, programs=("0.0.9", VERSION)))) == [Level.NOTE]
    assert levels(checks.nodes(replace(SOUND, free_slots=1))) == [Level.OK, Level.PROBLEM]


def test_what_keeps_the_past_is_a_problem() -> None:
    """A session that stands in a transaction, and a replication slot that nobody reads."""
    assert levels(checks.transactions(replace(SOUND, idle_transactions=1))) == [Level.PROBLEM, Level.OK]
    assert levels(checks.vacuum(replace(SOUND, unread_slots=("old",)))) == [Level.PROBLEM, Level.OK]
