"""A file that can't be used ends `serve` with one line that names the path, the user and the remedy."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import CONFIG
from tests.long import long

# Root without its capabilities has the permissions of an ordinary user.
if os.geteuid() == 0:
    PLAIN = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    pytestmark = pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
else:
    PLAIN = []


def serve(directory: Path, *, status: int, **settings: Path | str) -> str:
    """Run `serve` with settings that can't work; return its message, which is one line."""
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
    """Return a directory that is not writable, with a lock file that is."""
    place = tmp_path / "closed"
    place.mkdir()
    (place / "locked.db.lock").touch()
    place.chmod(0o555)
    return place


@pytest.mark.parametrize(
    "name", long(["locked.db", "new/webhookd.db", "webhookd.db"], lambda name: name != "locked.db")
)
def test_a_directory_that_is_not_writable(tmp_path: Path, closed: Path, name: str) -> None:
    """If a directory, the lock or the journal can't be created, the message has the path, the user and two remedies."""
    message = serve(tmp_path, status=1, JOURNAL__PATH=closed / name)
    assert message.startswith(f"webhookd: can't write {closed}/")
    assert f"(uid {os.geteuid()})" in message
    assert f"chown -R {os.geteuid()} {closed}" in message
    assert "set journal.path to another place" in message


@pytest.mark.parametrize(
    "name", long(["webhookd.db-wal", "webhookd.db", "webhookd.db.reserve"], lambda name: name != "webhookd.db-wal")
)
def test_a_file_that_is_not_writable(tmp_path: Path, name: str) -> None:
    """A journal, WAL or reserve without write permission is named, and not reported as damaged."""
    (tmp_path / "webhookd.db").touch()
    refused = tmp_path / name
    refused.touch()
    refused.chmod(0o400)
    message = serve(tmp_path, status=1)
    assert message.startswith(f"webhookd: can't write {refused}: Permission denied. webhookd runs as ")


def test_a_directory_or_file_in_the_wrong_place(tmp_path: Path) -> None:
    """A directory in the place of the journal, and a file in the place of its directory, are named."""
    (tmp_path / "journal").mkdir()
    message = serve(tmp_path, status=1, JOURNAL__PATH=tmp_path / "journal")
    assert "it is a directory, not a file: set journal.path to another place" in message
    (tmp_path / "file").touch()
    message = serve(tmp_path, status=1, JOURNAL__PATH=tmp_path / "file" / "webhookd.db")
    assert f"{tmp_path / 'file'} is a file, not a directory: move it away, or set journal.path" in message


def test_a_pipe_in_the_place_of_a_file(tmp_path: Path) -> None:
    """A pipe in the place of the journal or of the keys of tokens is named, and `serve` does not wait for its data."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    message = serve(tmp_path, status=1, JOURNAL__PATH=pipe)
    assert message == f"webhookd: can't write {pipe}: it is a pipe, a socket or a device, not a file"
    tokens = {"JWT__ISSUER": "https://issuer.example", "JWT__AUDIENCE": "webhookd"}
    message = serve(tmp_path, status=2, JWT__JWKS_FILE=pipe, **tokens)
    assert message == f"webhookd: jwt.jwks_file: can't read {pipe}: it is a pipe, a socket or a device, not a file"


def test_a_socket_that_cannot_be_created(tmp_path: Path, closed: Path) -> None:
    """A socket that can't be created is named with its path, the user and the configuration key."""
    message = serve(tmp_path, status=1, INGEST__SOCKET=closed / "ingest.sock")
    assert message.startswith(
        f"webhookd: can't listen on {closed / 'ingest.sock'}: Permission denied. webhookd runs as "
    )
    assert "set ingest.socket to another place" in message


def test_send_fails_at_once_without_a_usable_socket(tmp_path: Path) -> None:
    """Without a socket, or with a file in its place, `send` fails without waiting; the message names --config."""
    from tests.cli.conftest import refusal  # noqa: PLC0415 - its fixtures are for the commands' own tests

    event = ("send", "--type", "user.created", "--data", "{}", "--timeout", "3600")
    message = refusal(*event, "--socket", tmp_path / "none.sock")
    assert message == (
        f"there is no socket {tmp_path / 'none.sock'}: start webhookd serve, "
        "or name its configuration with --config FILE"
    )
    (tmp_path / "file").touch()
    assert "is not a socket" in refusal(*event, "--socket", tmp_path / "file")
