"""What the fuzzer watches during an attack: stalls of the server's event loop, and deliveries that have to go on."""

import http.client
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from tests.e2e.harness import Server
from tests.fuzz_cases import Case
from tests.launcher import LongStep
from tests.patience import PATIENCE_SECONDS
from tests.receiver import Receiver
from webhookd.client import Client, ServerUnavailable

HANG_SECONDS = 20.0
MOST_LAG_SECONDS = PATIENCE_SECONDS
STEADY = "/steady"
PROBE_SECONDS = 0.02
MOST_STILL_SECONDS = 2.0  # of the loop's CPU time without an answer to /healthz: many times what all others need
_PACE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of the server, and the case that showed it."""

    what: str
    case: Case | None = None

    def __str__(self) -> str:
        sent = "" if self.case is None else f" with case {self.case.number}: {b''.join(self.case.pieces)[:600]!r}"
        return self.what + sent


class LoopWatch:
    """Finds stalls of the event loop: from the answers of `/healthz`, and from the file of the loop's long steps.

    `under_way` are the cases that are being sent, by number.
    """

    def __init__(self, server: Server, steps: Path, under_way: Mapping[int, Case]) -> None:
        self._server = server
        self._steps = steps
        self._under_way = under_way
        self._read = steps.stat().st_size if steps.exists() else 0  # the start's own are no fault
        self.probes = 0
        self.worst_probe_seconds = 0.0
        self.findings: list[Finding] = []
        self._has_ended = False

    async def run(self) -> None:
        """Ask until canceled, in a thread, since the fuzzer's own loop may stall too."""
        try:
            await trio.to_thread.run_sync(self._probe, abandon_on_cancel=True)
        finally:
            self._has_ended = True

    def _probe(self) -> None:
        host = self._server.url.removeprefix("http://")
        while not self._has_ended:
            began, cpu = time.monotonic(), self._cpu_seconds()
            # Each probe has a connection of its own, like a new client.
            client = http.client.HTTPConnection(host, timeout=HANG_SECONDS)
            try:
                client.request("GET", "/healthz")
                status = client.getresponse().status
            except (OSError, http.client.HTTPException) as error:
                if not self._has_ended:
                    self.findings.append(Finding(f"/healthz isn't answered: {error!r}"))
                return
            finally:
                client.close()
            seconds, busy = time.monotonic() - began, self._cpu_seconds() - cpu
            self.probes += 1
            self.worst_probe_seconds = max(self.worst_probe_seconds, seconds)
            if status != 200:
                self.findings.append(Finding(f"/healthz answers {status}"))
            if busy > MOST_STILL_SECONDS:
                what = f"/healthz came after {seconds:.1f} s, of which the loop used {busy:.1f} s of CPU"
                self.findings.append(Finding(what))
            self.look()
            time.sleep(max(PROBE_SECONDS - seconds, 0.0))

    def look(self) -> None:
        """Note the long steps since the last call."""
        text = self._steps.read_bytes() if self._steps.exists() else b""
        for line in text[self._read :].splitlines():
            step = msgspec.json.decode(line, type=LongStep)
            took = f"{step.seconds * 1000:.0f} ms, {step.cpu_seconds * 1000:.0f} of them CPU"
            numbers = sorted(self._under_way)
            what = f"a step of {step.task} kept the loop for {took}; cases under way: {numbers}"
            self.findings.append(Finding(what))
        self._read = len(text)

    def _cpu_seconds(self) -> float:
        """Return the CPU time of the process's first thread, which runs the loop."""
        process = self._server.process
        if process is None or process.returncode is not None:
            return 0.0
        path = Path(f"/proc/{process.pid}/task/{process.pid}/schedstat")
        return int(path.read_text().split()[0]) / 1e9 if path.exists() else 0.0


class Traffic:
    """Sends events during the attack, and notes when they are delivered."""

    def __init__(self, server: Server, receiver: Receiver) -> None:
        self._server = server
        self._receiver = receiver
        self._read = 0
        self.accepted: dict[str, float] = {}
        self._arrived: dict[str, float] = {}
        self.delivered = 0
        self.worst_lag_seconds = 0.0

    async def run(self) -> None:
        """Send one event after the other until canceled."""
        try:
            while True:
                await trio.to_thread.run_sync(self._send_some)
        except ServerUnavailable:
            return  # the fuzzer reports that the server is gone

    def look(self) -> None:
        """Note the events that have arrived."""
        requests = self._receiver.requests
        while self._read < len(requests):
            request = requests[self._read]
            self._read += 1
            if request.path == STEADY:
                self._arrived.setdefault(request.headers["webhook-id"], request.at)
        # An event may arrive before its producer has read that it was accepted.
        for name in self.accepted.keys() & self._arrived.keys():
            self.delivered += 1
            lag_seconds = self._arrived[name] - self.accepted.pop(name)
            self.worst_lag_seconds = max(self.worst_lag_seconds, lag_seconds)

    def overdue(self) -> list[str]:
        """Return the events that should have arrived by now."""
        self.look()
        return [name for name, at in self.accepted.items() if time.time() - at > MOST_LAG_SECONDS]

    def _send_some(self) -> None:
        with Client(self._server.socket) as producer:
            for _ in range(10):
                result = producer.send("user.created", {"at": time.time()})
                self.accepted[result.id] = time.time()
                time.sleep(_PACE_SECONDS)
