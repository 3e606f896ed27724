"""A machine that refuses a file: one line with the path, the user and how to mend it, and status 1."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import CONFIG
from tests.long import long

# Root without its capabilities is refused what any other user is refused.
if os.geteuid() == 0:
    PLAIN = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    pytestmark = pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
else:
    PLAIN = []


def serve(directory: Path, *, status: int, **settings: Path | str) -> str:
    """Run `serve` where it can't start; return what it says, which is one line."""
    file = directory / "config.toml"
    file.write_text(CONFIG)
    environ = os.environ | {f"WEBHOOKD_{name}": str(value) for name, value in settings.items()}
    command = [*PLAIN, sys.executable, "-m", "webhookd", "serve", "--config", str(file)]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == status, ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert ended.stdout == ""
    return line


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A directory that may be read and not written, with a lock that may."""
    place = tmp_path / "closed"
    place.mkdir()
    (place / "locked.db.lock").touch()
    place.chmod(0o555)
    return place


@pytest.mark.parametrize(
    "name", long(["locked.db", "new/webhookd.db", "webhookd.db"], lambda name: name != "locked.db")
)
def test_a_directory_that_may_not_be_written(tmp_path: Path, closed: Path, name: str) -> None:
    """Whether a directory, the lock or the journal can't be made there: the path, the user, and two ways to mend it."""
    said = serve(tmp_path, status=1, JOURNAL__PATH=closed / name)
    assert said.startswith(f"webhookd: can't write {closed}/")
    assert f"(uid {os.geteuid()})" in said
    assert f"chown -R {os.geteuid()} {closed}" in said
    assert "set journal.path to another place" in said


@pytest.mark.parametrize(
    "name", long(["webhookd.db-wal", "webhookd.db", "webhookd.db.reserve"], lambda name: name != "webhookd.db-wal")
)
def test_a_file_that_may_not_be_written(tmp_path: Path, name: str) -> None:
    """The journal, its log or its reserve belongs to another: it is named, and not called damaged."""
    (tmp_path / "webhookd.db").touch()
    refused = tmp_path / name
    refused.touch()
    refused.chmod(0o400)
    said = serve(tmp_path, status=1)
    assert said.startswith(f"webhookd: can't write {refused}: Permission denied. webhookd runs as ")


def test_a_place_of_another_kind(tmp_path: Path) -> None:
    """A directory for the journal's file, a file for its directory, and a socket where nothing may be made."""
    (tmp_path / "journal").mkdir()
    said = serve(tmp_path, status=1, JOURNAL__PATH=tmp_path / "journal")
    assert "it is a directory, not a file: set journal.path to another place" in said
    (tmp_path / "file").touch()
    said = serve(tmp_path, status=1, JOURNAL__PATH=tmp_path / "file" / "webhookd.db")
    assert f"{tmp_path / 'file'} is a file, not a directory: move it away, or set journal.path" in said


def test_a_pipe_in_the_place_of_a_file(tmp_path: Path) -> None:
    """A pipe that nobody writes to is named, for the journal and for the keys of tokens, and not waited for."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    said = serve(tmp_path, status=1, JOURNAL__PATH=pipe)
    assert said == f"webhookd: can't write {pipe}: it is a pipe, a socket or a device, not a file"
    tokens = {"JWT__ISSUER": "https://issuer.example", "JWT__AUDIENCE": "webhookd"}
    said = serve(tmp_path, status=2, JWT__JWKS_FILE=pipe, **tokens)
    assert said == f"webhookd: jwt.jwks_file: can't read {pipe}: it is a pipe, a socket or a device, not a file"


def test_a_socket_that_may_not_be_made(tmp_path: Path, closed: Path) -> None:
    """The same words for a socket, with the key of the configuration that names it."""
    said = serve(tmp_path, status=1, INGEST__SOCKET=closed / "ingest.sock")
    assert said.startswith(f"webhookd: can't listen on {closed / 'ingest.sock'}: Permission denied. webhookd runs as ")
    assert "set ingest.socket to another place" in said


def test_send_fails_at_once_where_waiting_leads_nowhere(tmp_path: Path) -> None:
    """Without a socket, or with one that may not be opened, nothing is waited for, and --config is named."""
    from tests.cli.conftest import refusal  # noqa: PLC0415 - its fixtures are for the commands' own tests

    event = ("send", "--type", "user.created", "--data", "{}", "--timeout", "3600")
    said = refusal(*event, "--socket", tmp_path / "none.sock")
    assert said == (
        f"there is no socket {tmp_path / 'none.sock'}: start webhookd serve, "
        "or name its configuration with --config FILE"
    )
    (tmp_path / "file").touch()
    assert "is not a socket" in refusal(*event, "--socket", tmp_path / "file")
