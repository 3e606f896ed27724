"""Runs a server as a child process for `demo`, and always ends it."""

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from webhookd.base.errors import CommandError
from webhookd.base.program import own_command

# A build machine may be busy, and the first start compiles every module.
_READY_SECONDS = 60.0
_STOP_SECONDS = 30.0
_LOG_LINES_SHOWN = 20


@contextmanager
def serving(config_file: Path) -> Iterator[str]:
    """Run `webhookd serve` with a configuration while the block runs; yield its ready line.

    Raises CommandError if it doesn't become ready or ends with a status other than 0, and prints its last log lines.
    """
    log = config_file.with_name("log")
    # The child must not use the configuration of this machine's server.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WEBHOOKD_")}
    with (
        log.open("wb") as standard_error,
        subprocess.Popen(  # noqa: S603 - this program itself
            [*own_command(), "serve", "--config", str(config_file)],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=standard_error,
        ) as process,
    ):
        try:
            try:
                yield _ready_line(process)
            finally:
                _stop(process)
            _check_end(process)
        except CommandError:
            for line in log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:]:
                click.echo(line, err=True)
            raise


def _ready_line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    descriptor = process.stdout.fileno()
    deadline = time.monotonic() + _READY_SECONDS
    text = b""
    while b" ready: " not in text or not text.endswith(b"\n"):
        readable, _, _ = select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))
        if not readable:
            raise CommandError(f"the server was not ready within {_READY_SECONDS:.0f} s")
        chunk = os.read(descriptor, 65_536)
        if not chunk:
            raise CommandError("the server ended before it was ready")
        text += chunk
    return text.decode().splitlines()[-1]


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _check_end(process: subprocess.Popen[bytes]) -> None:
    if process.returncode != 0:
        raise CommandError(f"the server ended with status {process.returncode}")
