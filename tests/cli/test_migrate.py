"""`webhookd migrate`: what it prints, and what it refuses before it looks at a journal."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.cli.conftest import Scene, invoke, refusal
from tests.journal.furnished import furnish, opened
from tests.journal.postgres.moves import change, write_key
from webhookd.config import load_config

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a configuration with a [journal]."""

    def write(journal: str, *, key: str = "") -> Path:
        path = tmp_path / "config.toml"
        path.write_text(
            f'[server]\ncontrol_socket = "control.sock"\n[ingest]\nsocket = "ingest.sock"\n[journal]\n{journal}\n{key}'
        )
        return path

    return write


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A journal with something in every table, and its master key next to it."""
    path = tmp_path / "webhookd.db"

    async def fill() -> None:
        async with opened(path) as store:
            await furnish(store)

    trio.run(fill)
    write_key(tmp_path)
    return path


def config_in(said: str, path: Path) -> Path:
    """Write the settings that the command printed to a file."""
    path.write_text(said.partition("in place of the present [journal]:\n\n")[2].partition("\n\nand ")[0] + "\n")
    return path


def test_it_says_what_to_do_next(write: Write, file: Path, empty_database: str, tmp_path: Path) -> None:
    """The settings that it prints are a configuration as they are, with the master key where it was."""
    config = write('path = "webhookd.db"')
    done = invoke("migrate", "--to", empty_database, "--config", config)
    assert "moved and verified: 4 webhooks, " in done.stdout
    assert "not moved: sessions of the dashboard" in done.stdout
    assert f"put this into {config}, in place of the present [journal]:" in done.stdout
    assert f"and move {file} away before a server starts" in done.stdout
    assert "copied deliveries: " in done.stderr
    loaded = load_config(config_in(done.stdout, tmp_path / "next.toml"), {})
    assert loaded.journal.url == empty_database
    assert loaded.secrets.master_key_file == tmp_path / "master.key"
    back = invoke("migrate", "--to", tmp_path / "back.db", "--config", tmp_path / "next.toml").stdout
    assert "start no server on test_" in back
    assert "the feed of events is in the order of their numbers now" in back
    loaded = load_config(config_in(back, tmp_path / "last.toml"), {})
    assert loaded.journal.path == tmp_path / "back.db"


def test_a_dry_run_lists_tables_and_what_does_not_fit(write: Write, file: Path, empty_database: str) -> None:
    """Its status is 1 if something does not fit; nothing is written."""
    config = write('path = "webhookd.db"')
    tried = ["migrate", "--to", empty_database, "--dry-run", "--config", config]
    assert "nothing was written; all of it can be moved to test_" in invoke(*tried).stdout
    change(file, "UPDATE endpoints SET description = char(0) WHERE pk = 1")
    done = invoke(*tried, status=1)
    assert "does not fit: endpoints, pk 1: description holds a NUL character" in done.stdout
    assert "some values don't fit" in str(done.exception)
    invoke(*tried, "--replace-nul")
    found: Any = json.loads(invoke(*tried, "--replace-nul", "--json").stdout)
    assert (found["dryRun"], found["begunAgain"], found["unfit"]) == (True, False, [])
    assert found["tables"]["endpoints"] == {"rows": 4, "sha256": None}
    assert "--replace-nul stores U+FFFD" in refusal("migrate", "--to", empty_database, "--config", config)
    moved: Any = json.loads(
        invoke("migrate", "--to", empty_database, "--replace-nul", "--json", "--config", config).stdout
    )
    assert len(moved["tables"]["endpoints"]["sha256"]) == 64


def test_only_another_engine_is_a_place_to_move_to(write: Write, tmp_path: Path) -> None:
    """What copies within one is named, and no message has a password."""
    config = write('path = "webhookd.db"')
    for to, words in {
        tmp_path / "other.db": "`webhookd backup` copies a journal to another file",
        "postgresql://u:secret/word@h/d": "must be percent-encoded",
        "postgresql://u:secret@h": "names no database",
    }.items():
        said = refusal("migrate", "--to", to, "--config", config, status=2)
        assert words in said
        assert "secret" not in said
    said = refusal("migrate", "--to", "postgresql://u:p@h/d", "--password-file", "x", "--config", config, status=2)
    assert "can't be given together with a password" in said
    config = write('url = "postgresql://u@h/d"')
    assert "such as pg_dump" in refusal("migrate", "--to", "postgres://u@h/e", "--config", config, status=2)
    said = refusal("migrate", "--to", "x.db", "--password-file", "x", "--config", config, status=2)
    assert "journal.password_file is this one's" in said


def test_it_names_what_is_in_the_way(write: Write, file: Path, tmp_path: Path) -> None:
    """A journal or a database that isn't there, and a master key that can't be read."""
    nowhere = f"postgresql://u@/d?host={tmp_path}"
    said = refusal("migrate", "--to", nowhere, "--config", write('path = "webhookd.db"'))
    assert "can't connect to the database d on " in said
    said = refusal("migrate", "--to", nowhere, "--config", write('path = "other.db"'))
    assert f"there is no journal {tmp_path / 'other.db'}" in said


def test_the_master_key_is_needed(write: Write, file: Path, empty_database: str, tmp_path: Path) -> None:
    """Without it, or with another one, nothing is moved, with the status of a wrong key."""
    key = tmp_path / "master.key"
    config = write('path = "webhookd.db"')
    key.write_text("A" * 43 + "=\n")
    said = refusal("migrate", "--to", empty_database, "--config", config, status=2)
    assert "nothing was moved from" in said
    key.unlink()
    assert "can't read the master key" in refusal("migrate", "--to", empty_database, "--config", config, status=2)


def test_a_running_server_is_in_the_way(scene: Scene) -> None:
    """It is to be stopped first."""
    assert "a server is running: stop it first" in refusal(
        "migrate", "--to", "postgresql://u@/d?host=/nowhere", "--config", scene.config
    )
