"""A move of a journal that is killed at each of its stages, and begun again by the same command."""

import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.crashpoints.launcher import program
from tests.forked import run
from tests.journal.postgres.connections import connected
from tests.journal.postgres.moves import move, tables_of, url_of, write_key
from tests.long import long
from tests.postgres_server import PostgresServer
from tests.stages import at_stage
from webhookd.base.database_url import parse
from webhookd.base.errors import CommandError
from webhookd.journal import Server
from webhookd.journal.moved_tables import MOVED_TABLES
from webhookd.journal.postgres.migrations import read_mark, read_version

BEGUN, COPIED_ONE = "move.begun", "move.table_copied"
COPIED, VERIFIED, FINISHED = "move.copied", "move.verified", "move.finished"
HALF = ",".join([COPIED_ONE] * (len(MOVED_TABLES) // 2))
FILLED, NAMED = "copy.filled", "copy.named"
COMPLETE = {FINISHED, NAMED}
SECTIONS = '[server]\ncontrol_socket = "control.sock"\n[ingest]\nsocket = "ingest.sock"\n'


def config_of(directory: Path, journal: str) -> Path:
    write_key(directory)
    path = directory / "config.toml"
    path.write_text(f'{SECTIONS}[journal]\n{journal}\n[secrets]\nmaster_key_file = "master.key"\n')
    return path


def migrate(config: Path, to: object, *, die_at: str | None = None) -> tuple[int, Any]:
    """Run the command in a process, which kills itself at the end of a path of stages; return its status and JSON."""
    armed = config.with_name("armed")
    armed.touch()
    launched = program(die_at=die_at.split(",") if die_at else (), armed=armed, plant=None)
    done = run([*launched, "migrate", "--to", str(to), "--json", "--config", str(config)])
    return done.returncode, msgspec.json.decode(done.stdout) if done.returncode == 0 else done.stderr


@pytest.mark.parametrize(
    "stage", long([BEGUN, HALF, COPIED, VERIFIED, FINISHED], is_long=lambda stage: stage not in {HALF, FINISHED})
)
def test_killed_on_its_way_to_postgresql(file: Path, server: Server, stage: str) -> None:
    """The file is unchanged, there is no journal before the last stage, and the same command begins it again."""
    before = file.read_bytes()
    config = config_of(file.parent, f'path = "{file.name}"')
    status, _ = migrate(config, url_of(server), die_at=stage)
    assert status == -signal.SIGKILL
    assert file.read_bytes() == before
    with connected(url_of(server)) as database:
        assert (read_version(database) > 0) == (stage in COMPLETE)
        assert (read_mark(database) is None) == (stage in COMPLETE)
    status, done = migrate(config, url_of(server))
    if stage in COMPLETE:
        assert (status, "has a journal of version" in done) == (1, True)
    else:
        assert (status, done["begunAgain"]) == (0, True)
    move(server, file.with_name("back.db"))
    assert tables_of(file.with_name("back.db")) == tables_of(file)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "stage", long([BEGUN, HALF, COPIED, VERIFIED, FILLED, NAMED, FINISHED], is_long=lambda stage: stage != FILLED)
)
def test_killed_on_its_way_to_a_file(file: Path, server: Server, stage: str) -> None:
    """There is no file under the name before it is complete, and the same command begins it again."""
    move(file, server)
    back = file.with_name("back.db")
    config = config_of(file.parent, f'url = "{url_of(server)}"')
    status, _ = migrate(config, back, die_at=stage)
    assert status == -signal.SIGKILL
    assert back.exists() == (stage in COMPLETE)
    status, done = migrate(config, back)
    if stage in COMPLETE:
        assert (status, "is there already" in done) == (1, True)
    else:
        assert (status, done["begunAgain"]) == (0, True)
    assert tables_of(back) == tables_of(file)


def test_a_database_that_stops_meanwhile_holds_no_journal(file: Path, own_server: PostgresServer) -> None:
    """The command says that the connection is lost; when the database is back, the same move begins again."""
    with own_server.database() as name:
        server = Server(url=parse(own_server.url(name)))
        with (
            at_stage("move.table_copied", own_server.kill),
            pytest.raises(CommandError, match=r"the connection to .* is lost"),
        ):
            move(file, server)
        with pytest.raises(CommandError, match="can't connect to the database"):
            move(file, server)
        own_server.start()
        assert move(file, server).begun_again
