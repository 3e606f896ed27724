"""Run a server process for a test, call its API over the control socket, and send events to it."""

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
    """Send events over one connection to the ingest socket; return the decoded results.

    Unlike the client, this never retries, so that the caller sees each refusal.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(path))
        connection.sendall(b"".join(json.dumps(event).encode() + b"\n" for event in events))
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answers:
            return [json.loads(line) for line in answers]


class Server:
    """`webhookd serve` in `directory`; it can be started, stopped and killed any number of times."""

    starts_python = False  # whether to start a new interpreter instead of a fork, which takes much longer

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
        """Start the server and wait until it is ready; `program` is the command that runs webhookd.

        Its log goes to the file `log`, or to the descriptor `stderr`.
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
        """Send SIGKILL and wait for the end."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        await self.ended()

    async def end(self) -> None:
        """Kill the server if it still runs, also when the caller has been cancelled."""
        with trio.CancelScope(shield=True):
            if self.process is not None:
                await self.kill()

    async def stop(self, *, times: int = 1) -> int:
        """Send SIGTERM `times` times; return the exit status."""
        assert self.process is not None
        with trio.fail_after(PATIENCE_SECONDS):
            for number in range(times):
                while number and "server.draining" not in self.log():
                    await trio.sleep(0.01)  # two signals at the same time would count as one
                self.process.send_signal(signal.SIGTERM)
            return await self.ended()

    async def ended(self) -> int:
        """Wait until the server has ended; return its exit status. The caller sets the deadline."""
        assert self.process is not None
        assert self.process.stdout is not None
        status = await self.process.wait()
        await self.process.stdout.aclose()
        self.process = None
        return status

    async def get(self, target: str) -> Any:
        """Send a GET request to the API over the control socket; return the decoded body."""
        return await trio.to_thread.run_sync(partial(self.control.get, target, dict[str, Any]))

    async def post(self, target: str, body: Mapping[str, object]) -> Any:
        """Send a POST request to the API over the control socket; return the decoded body."""
        return await trio.to_thread.run_sync(partial(self.control.post, target, body, dict[str, Any]))

    async def webhook(self, url: str, **settings: object) -> dict[str, Any]:
        """Create a webhook, for all events unless `settings` has others."""
        created: dict[str, Any] = await self.post("/api/webhooks", {"url": url, "events": ["*"], **settings})
        return created

    async def enable(self, webhook_id: str) -> None:
        """Enable a webhook."""
        path, body = f"/api/webhooks/{webhook_id}", {"isActive": True}
        await trio.to_thread.run_sync(partial(self.control.patch, path, body, dict[str, Any]))

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
        """Wait until the webhook has no delivery queued, parked or in flight."""
        with trio.fail_after(seconds):
            while True:
                health = (await self.get(f"/api/webhooks/{webhook_id}"))["health"]
                if not (health["queued"] or health["parked"] or health["sending"]):
                    return
                await trio.sleep(0.05)

    def log(self) -> str:
        """Return the log up to now."""
        return (self.directory / "log").read_text()


@asynccontextmanager
async def running(
    directory: Path,
    config: str = CONFIG,
    environ: Mapping[str, str] | None = None,
    *,
    program: Sequence[str] = PROGRAM,
) -> AsyncIterator[Server]:
    """Run a server during the block, with `environ` added to this process's environment; kill it if it still runs."""
    server = Server(directory, config, environ)
    try:
        await server.start(program)
        yield server
    finally:
        await server.end()  # noqa: ASYNC102 - it shields what it waits for
