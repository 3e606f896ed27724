"""Lines for systemd's journal: it is detected by the stream, and each line has its priority."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from webhookd.config import LogConfig
from webhookd.observe import journald, logs
from webhookd.observe.output import BufferedOutput


def stream_of(file: int) -> str:
    found = os.fstat(file)
    return f"{found.st_dev}:{found.st_ino}"


def test_the_variable_must_name_the_stream() -> None:
    """JOURNAL_STREAM may be inherited by a process with other streams, and may have any value."""
    with tempfile.TemporaryFile() as file:
        number = file.fileno()
        found = os.fstat(number)
        assert journald.reads(number, {"JOURNAL_STREAM": stream_of(number)})
        for other in ("", ":", f"{found.st_dev}:{found.st_ino + 1}", f"{found.st_ino}:{found.st_dev}", "1:2:3", "x"):
            assert not journald.reads(number, {"JOURNAL_STREAM": other})
        assert not journald.reads(number, {})
    assert not journald.reads(-1, {"JOURNAL_STREAM": "1:2"})


def test_each_line_of_a_record_has_the_priority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line of a traceback has the same priority; the line for dropped lines is a warning."""
    with (tmp_path / "log").open("wb") as file:
        monkeypatch.setenv("JOURNAL_STREAM", stream_of(file.fileno()))
        output = BufferedOutput(file.fileno(), report_dropped=logs.dropped_line)
        logs.configure(LogConfig(format="console", level="debug"), output)
        log = logs.get_logger("x")
        log.debug("one")
        log.info("two")
        log.warning("three")
        try:
            Path("/nowhere/at/all").read_bytes()
        except OSError:
            log.exception("four")
        output.write(b"x" * 5_000_000)
        assert output.flush(30)
    marks = [line[:3] for line in (tmp_path / "log").read_text().splitlines()]
    assert marks[:3] == ["<7>", "<6>", "<4>"]
    assert len(marks) > 6
    assert set(marks[3:-1]) == {"<3>"}
    assert marks[-1] == "<4>"


def test_a_command_that_fails_under_the_journal_says_so_as_an_error(tmp_path: Path) -> None:
    """The error line of a command that can't start has a priority there, and none elsewhere."""
    for is_journal in (True, False):
        with (tmp_path / "log").open("wb") as file:
            environ = os.environ | ({"JOURNAL_STREAM": stream_of(file.fileno())} if is_journal else {})
            command = [sys.executable, "-m", "webhookd", "serve", "--config", str(tmp_path / "none.toml")]
            assert subprocess.run(command, stderr=file, env=environ, check=False).returncode == 2
        said = (tmp_path / "log").read_text()
        assert said.startswith("<3>webhookd: can't read" if is_journal else "webhookd: can't read")
