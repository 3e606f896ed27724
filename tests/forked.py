"""Start `python -m MODULE` as a fork of a process that has already imported everything.

Importing the server takes longer than most of what a test does with it. Otherwise the program is the one that
`python -m` runs: a process of its own with its own arguments, environment, directory, standard streams, signals and
exit status. Tests of the start itself use a new interpreter (tests/cli/test_terminals.py, the tour, kills under load,
the units and files of docs/deploy). `multiprocessing`'s fork server makes the forks; each test process has one.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache, partial
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from pkgutil import iter_modules
from types import TracebackType
from typing import IO, Any, Self

import trio

import webhookd.cli
from tests.patience import PATIENCE_SECONDS
from tests.program import Program

ROOT = Path(__file__).resolve().parents[1]
_COMMANDS = [f"webhookd.cli.{module.name}" for module in iter_modules(webhookd.cli.__path__)]

Stream = int | IO[Any] | None


def can_fork(command: Sequence[str], env: Mapping[str, str] | None = None) -> bool:
    """Whether a command can run as a fork: `python -m` with this Python, and no change of its PYTHON… variables."""
    return tuple(command[:2]) == (sys.executable, "-m") and (env is None or _of_python(env) == _of_python(os.environ))


def _of_python(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that Python reads at its start, such as PYTHONPATH."""
    return {name: value for name, value in env.items() if name.startswith("PYTHON")}


class _Forked:
    """A program that runs as a fork; it is killed at the end of the tests if it still runs."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = None,
        stderr: Stream = None,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
    ) -> None:
        assert can_fork(command, env), command
        self._reading, writing = os.pipe() if stdout == subprocess.PIPE else (-1, -1)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            special = {subprocess.PIPE: writing, subprocess.DEVNULL: null}
            streams = [
                special.get(stream, stream) if isinstance(stream, int) else own if stream is None else stream.fileno()
                for own, stream in enumerate((stdin, stdout, stderr))
            ]
            arguments = (list(command[2:]), dict(os.environ if env is None else env), str(cwd))
            self._process: ForkServerProcess = _context().Process(target=Program(streams), args=arguments, daemon=True)
            self._process.start()
        finally:
            os.close(null)
            if writing >= 0:
                os.close(writing)
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()


class Process(_Forked):
    """The part of `subprocess.Popen` that tests use; with `stdout=PIPE`, `stdout` is a text file."""

    def __init__(self, command: Sequence[str], **settings: Any) -> None:
        super().__init__(command, **settings)
        self.stdout: IO[str] | None = None
        if self._reading >= 0:
            self.stdout = os.fdopen(self._reading, encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        self.wait()
        if self.stdout is not None:
            self.stdout.close()

    def wait(self, timeout: float = PATIENCE_SECONDS) -> int:
        """Wait for the end and return the exit status; raise subprocess.TimeoutExpired after `timeout` seconds."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return self._process.exitcode


class TrioProcess(_Forked):
    """The part of `trio.Process` that tests use; with `stdout=PIPE`, `stdout` is a stream."""

    def __init__(self, command: Sequence[str], **settings: Any) -> None:
        super().__init__(command, **settings)
        self.stdout = trio.lowlevel.FdStream(self._reading) if self._reading >= 0 else None

    async def wait(self) -> int:
        """Wait for the end and return the exit status."""
        await trio.lowlevel.wait_readable(self._process.sentinel)
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode


def run(
    command: Sequence[str], *, stdin: str = "", env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; return its status and output."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin.encode())
        given.seek(0)
        with Process(command, stdin=given, stdout=out, stderr=err, env=env, cwd=cwd) as process:
            status = process.wait()
        stdout, stderr = (os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode() for file in (out, err))
    return subprocess.CompletedProcess(list(command), status, stdout, stderr)


async def run_soon(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command as `run` does, without blocking the event loop."""
    return await trio.to_thread.run_sync(partial(run, command, env=env))


@cache
def _context() -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.program", "webhookd.server", *_COMMANDS])
    return context
