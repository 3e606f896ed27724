"""Run the programs of a recipe, and kill each at the end of its test."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from tests.patience import PATIENCE_SECONDS

BIN = Path(sys.executable).parent


@asynccontextmanager
async def program(
    command: Sequence[str], directory: Path, environ: Mapping[str, str], *, log: Path
) -> AsyncIterator[trio.Process]:
    """Run a program in a directory during the block; append its output to `log`."""
    with log.open("ab") as output:
        process = await trio.lowlevel.open_process(
            list(command),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ
            | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
            | dict(environ),
            start_new_session=True,
        )
    try:
        yield process
    finally:
        # Hypercorn serves in a child process, which would continue.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()


async def listening(port: int, process: trio.Process, log: Path) -> None:
    """Wait until a program listens on the port; fail with the log if it has ended."""
    with trio.fail_after(PATIENCE_SECONDS):
        while True:
            try:
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
            except OSError:
                assert process.poll() is None, log.read_text()
                await trio.sleep(0.02)
            else:
                return
