"""The measured server: the real process on a new journal, with its memory and CPU time from the kernel.

Its log goes to a file at level warning; otherwise it has the default settings and may send to loopback.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from webhookd.cli.control import Control

CONFIG = """
[server]
port = 0
control_socket = "control.sock"
[ingest]
socket = "ingest.sock"
[journal]
{journal}
[egress]
allow_http = true
ports = []
allow_networks = ["127.0.0.0/8"]
[log]
level = "warning"
"""
IN_A_FILE = 'path = "webhookd.db"'
READY_SECONDS = 120.0
STOP_SECONDS = 60.0
SETTLE_SECONDS = 60.0
POLL_SECONDS = 0.01


class BrokenCaseError(Exception):
    """A case could not be measured: a request was refused, a process ended, or a delivery never arrived."""


class SkippedCaseError(Exception):
    """A case can't be measured on this machine: a program that it needs is missing, or may not be used."""


class Health(msgspec.Struct, frozen=True):
    """The used fields of a webhook's health."""

    queued: int
    parked: int


class Webhook(msgspec.Struct, frozen=True):
    """The used fields of a webhook."""

    id: str
    health: Health


class WebhookPage(msgspec.Struct, frozen=True, rename="camel"):
    """A page of the list of webhooks."""

    data: list[Webhook]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class CpuTime:
    """CPU time, user and system, of all threads of the server, and of the event loop's thread alone."""

    all_threads: float
    loop: float

    def microseconds_each(self, since: "CpuTime", count: int) -> "CpuTime":
        """Return the microseconds since an earlier reading in seconds, divided by a number of deliveries or events."""
        scale = 1e6 / max(count, 1)
        return CpuTime((self.all_threads - since.all_threads) * scale, (self.loop - since.loop) * scale)


class Server:
    """A running `webhookd serve`."""

    def __init__(self, pid: int, directory: Path, ready: str, *, started_at: float) -> None:
        self.pid = pid
        self.directory = directory
        self.control = Control(directory / "control.sock")
        self.socket = directory / "ingest.sock"
        self.started_at = started_at  # of the machine's monotonic clock
        self.ready_seconds = time.monotonic() - started_at
        *before, last = ready.splitlines()
        self.api_port = int(last.split("API ")[1].split(",")[0].rpartition(":")[2])
        self.admin_key = before[-1].split(": ")[1] if before else ""

    def cpu_seconds(self) -> CpuTime:
        """Return the CPU time since the start, which the kernel counts in hundredths of a second."""
        return cpu_seconds(self.pid)

    def resident_mebibytes(self) -> float:
        """Return the current resident memory."""
        return self._status("VmRSS")

    def peak_mebibytes(self) -> float:
        """Return the peak of the resident memory."""
        return self._status("VmHWM")

    def add_webhooks(self, url: str, count: int, *, in_organizations: bool = True, **settings: object) -> None:
        """Create webhooks for every event, one for each of the organizations `o0`, `o1`, …, or of no organization."""
        for number in range(count):
            organization = f"o{number}" if in_organizations else None
            body = {"url": url, "events": ["*"], "organizationId": organization, **settings}
            self.control.post("/api/webhooks", body, dict[str, Any])

    def unfinished(self) -> int:
        """Return how many deliveries are pending or parked, by the health of each webhook."""
        total, cursor = 0, ""
        while True:
            page = self.control.get(f"/api/webhooks?limit=100{cursor}", WebhookPage)
            total += sum(webhook.health.queued + webhook.health.parked for webhook in page.data)
            if page.next_cursor is None:
                return total
            cursor = f"&cursor={page.next_cursor}"

    def settle(self) -> None:
        """Wait until every delivery has ended and is recorded; BrokenCaseError after SETTLE_SECONDS."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while left := self.unfinished():
            if time.monotonic() > deadline:
                raise BrokenCaseError(f"{left} deliveries had not ended after {SETTLE_SECONDS:.0f} s")
            time.sleep(0.1)

    def _status(self, name: str) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split(f"{name}:")[1].split()[0]) / 1024


def cpu_seconds(pid: int) -> CpuTime:
    """Return the CPU time of a process; the event loop runs in its main thread, whose id is the process's."""
    return CpuTime(_seconds(Path(f"/proc/{pid}/stat")), _seconds(Path(f"/proc/{pid}/task/{pid}/stat")))


def _seconds(stat: Path) -> float:
    # The name of the program, in parentheses, may contain spaces.
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def write_config(directory: Path, journal: str = IN_A_FILE) -> Path:
    """Write the configuration of a server in a directory; return the file. `journal` is the section of that name."""
    config = directory / "config.toml"
    config.write_text(CONFIG.replace("{journal}", journal))
    return config


@contextmanager
def serving(
    directory: Path,
    *,
    journal: str = IN_A_FILE,
    environ: Mapping[str, str] | None = None,
    wrapper: Sequence[str] = (),
    abandon: bool = False,
) -> Iterator[Server]:
    """Run a server in a directory during the block, on the existing journal or a new one.

    `wrapper` is a command that replaces itself with the command after it. At the end the server must stop with status
    0, or BrokenCaseError is raised; with `abandon` it is killed instead.
    """
    config = write_config(directory, journal)
    log = directory / "log"
    # Settings of webhookd in this process's environment must not be inherited.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WEBHOOKD_")}
    command = [*wrapper, sys.executable, "-m", "webhookd", "serve", "--config", str(config)]
    began = time.monotonic()
    with (
        log.open("wb") as standard_error,
        subprocess.Popen(
            command,
            env=inherited | dict(environ or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=standard_error,
        ) as process,
    ):
        try:
            yield Server(process.pid, directory, _ready(process, log), started_at=began)
            process.send_signal(signal.SIGKILL if abandon else signal.SIGTERM)
            status = process.wait(STOP_SECONDS)
        finally:
            process.kill()
        if status != (-signal.SIGKILL if abandon else 0):
            raise BrokenCaseError(f"the server ended with status {status}: {_tail(log)}")


def _ready(process: "subprocess.Popen[bytes]", log: Path) -> str:
    assert process.stdout is not None
    text = b""
    deadline = time.monotonic() + READY_SECONDS
    while b" ready: " not in text or not text.endswith(b"\n"):
        readable, _, _ = select.select([process.stdout], [], [], max(deadline - time.monotonic(), 0))
        chunk = os.read(process.stdout.fileno(), 65_536) if readable else b""
        if not chunk:
            raise BrokenCaseError(f"the server did not become ready: {_tail(log)}")
        text += chunk
    return text.decode()


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]
