"""A server process of its own, with a control socket to ask it and a client to send events."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import trio

from tests.forked import TrioProcess, can_fork
from tests.patience import PATIENCE_SECONDS
from webhookd.cli.control import Control

PROGRAM = (sys.executable, "-m", "webhookd")
CONFIG = """
[server]
port = 0
control_socket = "control.sock"
[ingest]
socket = "ingest.sock"
[journal]
path = "webhookd.db"
[delivery]
retry_delays = [0.05]
breaker_threshold = 1000
drain_seconds = 10
[egress]
allow_http = true
ports = []
allow_networks = ["127.0.0.0/8"]
"""


def submit(path: Path, events: Sequence[Mapping[str, object]]) -> list[dict[str, Any]]:
    """Send events over one connection to the ingest socket and return the lines that answer them.

    Unlike the client this sends nothing again, so a refusal is seen as it was said.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(path))
        connection.sendall(b"".join(json.dumps(event).encode() + b"\n" for event in events))
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answers:
            return [json.loads(line) for line in answers]


class Server:
    """`webhookd serve` in `directory`; start and kill it as often as you like."""

    starts_python = False  # and imports the server each time, which takes longer than all the rest

    def __init__(self, directory: Path, config: str = CONFIG, environ: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.environ = os.environ | dict(environ or {})
        self.config_file = directory / "config.toml"
        self.config_file.write_text(config)
        self.control = Control(directory / "control.sock")
        self.socket = directory / "ingest.sock"
        self.url = ""
        self.first_key = ""
        self.process: trio.Process | TrioProcess | None = None

    async def start(
        self,
        program: Sequence[str] = PROGRAM,
        environ: Mapping[str, str] | None = None,
        *,
        stderr: int | None = None,
    ) -> None:
        """Return once the server says that it is ready; `program` is what runs webhookd.

        Its log goes into the file `log` unless `stderr` is another descriptor.
        """
        with (self.directory / "log").open("ab") as log:
            process = await self._open(
                [*program, "serve", "--config", str(self.config_file)], log if stderr is None else stderr, environ or {}
            )
        self.process = process
        assert process.stdout is not None
        text = ""
        with trio.fail_after(PATIENCE_SECONDS):
            while " ready: " not in text or not text.endswith("\n"):
                chunk = await process.stdout.receive_some()
                assert chunk, f"the server ended: {self.log()[-3000:]}"
                text += chunk.decode()
        *before, ready = text.splitlines()
        self.url = ready.split("API ")[1].split(",")[0]
        if before:
            self.first_key = before[-1].split(": ")[1]

    async def _open(
        self, command: Sequence[str], stderr: int | IO[bytes], environ: Mapping[str, str]
    ) -> trio.Process | TrioProcess:
        env = self.environ | dict(environ)
        if self.starts_python or not can_fork(command, env):
            return await trio.lowlevel.open_process(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, env=env
            )
        return TrioProcess(command, stdout=subprocess.PIPE, stderr=stderr, env=env)

    async def kill(self) -> None:
        """Kill it where it stands."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        await self._reap()

    async def stop(self, *, times: int = 1) -> int:
        """Ask it to stop, `times` times; return its exit status."""
        assert self.process is not None
        with trio.fail_after(PATIENCE_SECONDS):
            for number in range(times):
                while number and "server.draining" not in self.log():
                    await trio.sleep(0.01)  # it would take two signals that come together for one
                self.process.send_signal(signal.SIGTERM)
            return await self._reap()

    async def ended(self) -> int:
        """Return the exit status once it has ended by itself; the caller sets the deadline."""
        return await self._reap()

    async def _reap(self) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        status = await self.process.wait()
        await self.process.stdout.aclose()
        self.process = None
        return status

    async def get(self, target: str) -> Any:
        """Ask the API over the control socket."""
        return await trio.to_thread.run_sync(partial(self.control.get, target, dict[str, Any]))

    async def post(self, target: str, body: Mapping[str, object]) -> Any:
        """Ask the API over the control socket."""
        return await trio.to_thread.run_sync(partial(self.control.post, target, body, dict[str, Any]))

    async def webhook(self, url: str, **settings: object) -> dict[str, Any]:
        """Create a webhook for every event."""
        made: dict[str, Any] = await self.post("/api/webhooks", {"url": url, "events": ["*"], **settings})
        return made

    async def deliveries(self, webhook_id: str) -> list[dict[str, Any]]:
        """Return all deliveries of a webhook, oldest first."""
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = await self.get(f"/api/webhooks/{webhook_id}/deliveries?limit=100{cursor}")
            found += page["data"]
            if page["nextCursor"] is None:
                return found[::-1]
            cursor = f"&cursor={page['nextCursor']}"

    async def settled(self, webhook_id: str, *, seconds: float = 60) -> None:
        """Return once the webhook has nothing queued and nothing in flight."""
        with trio.fail_after(seconds):
            while True:
                health = (await self.get(f"/api/webhooks/{webhook_id}"))["health"]
                if not (health["queued"] or health["parked"] or health["sending"]):
                    return
                await trio.sleep(0.05)

    def log(self) -> str:
        """Return what it has logged so far."""
        return (self.directory / "log").read_text()


@asynccontextmanager
async def running(
    directory: Path,
    config: str = CONFIG,
    environ: Mapping[str, str] | None = None,
    *,
    program: Sequence[str] = PROGRAM,
) -> AsyncIterator[Server]:
    """Run a server for a test, with `environ` beside this process's own; killed at its end if it still runs."""
    server = Server(directory, config, environ)
    try:
        await server.start(program)
        yield server
    finally:
        with trio.CancelScope(shield=True):
            if server.process is not None:
                await server.kill()
