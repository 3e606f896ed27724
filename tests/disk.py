"""Run the real server on disks that fail and disks that are full: `python -m tests.disk`.

`errors` makes the kernel answer the server's syncs, writes or reads with EIO (strace injects it). The process must end
with status 70 and one line, acknowledge nothing more, and have every acknowledged event after the next start. `full`
runs the server on a small disk, a tmpfs, and fills it. Events are refused over HTTP and over the socket, attempts are
still recorded, also after a stop and a start on the full disk, and the server continues by itself when there is space
again. The seconds until the process ended, and until events were accepted again, are printed but not checked. Needs
root and strace.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import trio

from tests.e2e.harness import CONFIG, PROGRAM, Server, submit
from tests.journal.old import ask
from tests.launcher import program as planted
from tests.launcher import show_found
from tests.patience import PATIENCE_SECONDS
from tests.receiver import Receiver, Reply, always

FAULT_SECONDS = 10.0  # the wait for a server with a planted fault, shorter than for a correct one
DISK_BYTES = 16 * 1024 * 1024
CALLS = {"sync": "fsync,fdatasync", "write": "pwrite64", "read": "pread64"}
UNUSABLE = ("can't be read or written", "is damaged")
FAULTS = ("continues after a failed sync", "has no reserve", "never checks for space")


class NotPossibleError(Exception):
    """This machine can't run the check: no root, no strace or no mounts."""


# Errors


def check_strace() -> None:
    """Raise NotPossibleError if processes can't be traced on this machine."""
    if shutil.which("strace") is None:
        raise NotPossibleError("strace is not installed")
    tried = subprocess.run(["strace", "-qq", "-e", "trace=none", "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise NotPossibleError(f"strace can't trace here: {tried.stderr.strip()}")


@asynccontextmanager
async def injecting(pid: int, calls: str, log: Path) -> AsyncIterator[None]:
    """Make the kernel answer these calls of a process with EIO; `log` gets a line with the time of each."""
    command = ["strace", "-f", "-qq", "-ttt", "-o", str(log), "-e", f"inject={calls}:error=EIO", "-p", str(pid)]
    process = await trio.lowlevel.open_process([*command, "-e", f"trace={calls}"], stderr=subprocess.DEVNULL)
    try:
        with trio.fail_after(PATIENCE_SECONDS):
            while _tracer(pid) != process.pid:
                await trio.sleep(0.01)
        yield
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()


def _tracer(pid: int) -> int:
    status = Path(f"/proc/{pid}/status")
    return int(status.read_text().split("TracerPid:")[1].split()[0]) if status.exists() else 0


class Producer:
    """Sends one event after the other in a thread and keeps the acknowledged ids, until an answer is missing."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self.acknowledged: list[str] = []

    async def run(self) -> None:
        """Send until the server has ended."""
        await trio.to_thread.run_sync(self._send)

    def _send(self) -> None:
        with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as answers:
            connection.settimeout(PATIENCE_SECONDS)
            connection.connect(str(self._socket))
            while True:
                event = {"type": "user.created", "data": {"text": "x" * 5000}, "id": f"e{len(self.acknowledged)}"}
                try:
                    connection.sendall(json.dumps(event).encode() + b"\n")
                    answer = answers.readline()
                except OSError:
                    return
                if not answer or not json.loads(answer)["ok"]:
                    return
                self.acknowledged.append(str(event["id"]))


async def fail(
    directory: Path, what: str, program: Sequence[str] = PROGRAM, patience_seconds: float = PATIENCE_SECONDS
) -> tuple[float, list[str]]:
    """Let the disk fail under load; return how many seconds the process continued, and the broken promises."""
    server, broken = Server(directory), []
    await server.start(program)
    process = server.process
    assert process is not None
    producer = Producer(server.socket)
    trace = directory / "trace"
    async with trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver().run)
        await server.webhook(receiver.url)
        nursery.start_soon(producer.run)
        with trio.fail_after(PATIENCE_SECONDS):
            while len(producer.acknowledged) < 20:
                await trio.sleep(0.01)
        with trio.move_on_after(patience_seconds) as patience:
            async with injecting(process.pid, CALLS[what], trace):
                if what == "read":
                    # Recent events are cached in memory; a list has to be read from the disk.
                    async with await trio.open_unix_socket(directory / "control.sock") as stream:
                        await stream.send_all(b"GET /api/events?limit=100 HTTP/1.1\r\nhost: localhost\r\n\r\n")
                        await process.wait()
                await process.wait()
        ended_at = time.time()
        if patience.cancelled_caught:
            await server.kill()  # ends its producer
        nursery.cancel_scope.cancel()
    if patience.cancelled_caught:
        return inf, ["it did not end"]
    status = await server.ended()
    first = next((line for line in trace.read_text().splitlines() if "(INJECTED)" in line), "")
    seconds = ended_at - float(first.split()[1]) if first else float("nan")
    messages = [line for line in server.log().splitlines() if line.startswith("webhookd: ")]
    if status != 70:
        broken.append(f"the status was {status}: {server.log()[-1000:]}")
    if len(messages) != 1 or not any(words in messages[0] for words in UNUSABLE) or "task.crashed" in server.log():
        broken.append(f"it printed {messages}")
    await server.start()
    try:
        stored = {str(name) for (name,) in ask(directory / "webhookd.db", "SELECT id FROM events")}
    finally:
        await server.end()  # noqa: ASYNC102 - it shields what it waits for
    if lost := set(producer.acknowledged) - stored:
        broken.append(f"{len(lost)} acknowledged events are lost")
    return seconds, broken


# A full disk


@contextmanager
def small_disk(place: Path, size: int = DISK_BYTES) -> Iterator[Path]:
    """Mount a tmpfs of `size` bytes at `place`; raise NotPossibleError if that is not possible."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        raise NotPossibleError("only root may mount a small disk")
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        raise NotPossibleError(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk: Path, *, left: int = 0) -> Path:
    """Write a file that leaves `left` bytes free on the disk; return the file."""
    ballast = disk / "ballast"
    found = os.statvfs(disk)
    with ballast.open("wb") as file:
        file.write(bytes(found.f_bavail * found.f_frsize - left))
    return ballast


class FullDisk:
    """A server on a small disk, with a webhook whose receiver fails, so that attempts never stop."""

    def __init__(self, disk: Path, program: Sequence[str], patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._disk = disk
        self._program = program
        self._server = Server(disk, CONFIG.replace("retry_delays = [0.05]", "retry_delays = [0.02]"))
        self._acknowledged: set[str] = set()
        self._refused: set[str] = set()
        self._webhook = ""
        self.broken: list[str] = []

    async def run(self) -> float:
        """Fill the disk, then free space; return how many seconds later an event was accepted."""
        server = self._server
        async with trio.open_nursery() as nursery:
            receiver = await nursery.start(Receiver(always(Reply(status=500, body=b"x" * 2000))).run)
            try:
                seconds = await self._play(receiver)
            finally:
                await server.end()  # noqa: ASYNC102 - it shields what it waits for
                nursery.cancel_scope.cancel()
        stored = {str(name) for (name,) in ask(self._disk / "webhookd.db", "SELECT id FROM events")}
        if lost := self._acknowledged - stored:
            self.broken.append(f"{len(lost)} acknowledged events are lost")
        if kept := self._refused & stored:
            self.broken.append(f"{len(kept)} refused events are stored")
        return seconds

    async def _play(self, receiver: Receiver) -> float:
        server = self._server
        await server.start(self._program)
        webhook = await server.webhook(receiver.url, events=["user.deleted"])
        self._webhook = webhook["id"]
        await self._send("user.deleted", "failing", 2)
        ballast = fill(self._disk, left=100_000)
        await self._see_refusals()
        await self._see_attempts("while the disk is full")
        if self.broken:
            return inf
        await self._stop()
        await server.start(self._program)
        await self._see_refusals()
        await self._see_attempts("after a start on the full disk")
        ballast.unlink()
        seconds = await self._see_it_continue()
        if not self.broken:
            receiver.script = always()
            await server.settled(self._webhook)
            await self._stop()
        return seconds

    async def _stop(self) -> None:
        if await self._server.stop():
            self.broken.append(f"it stopped with an error: {self._server.log()[-1000:]}")

    async def _send(self, kind: str, name: str, size: int) -> str | None:
        """Send an event over the socket; return the error code, or None if it was accepted."""
        event = {"type": kind, "data": {"text": "x" * size}, "id": name}
        [answer] = await trio.to_thread.run_sync(submit, self._server.socket, [event])
        (self._acknowledged if answer["ok"] else self._refused).add(name)
        return None if answer["ok"] else str(answer["error"]["code"])

    async def _see_refusals(self) -> None:
        """Send events over the socket until one is refused, then check that one over HTTP is refused too."""
        for number in range(20):
            refusal = await self._send("user.created", f"large-{len(self._acknowledged)}-{number}", 50_000)
            if refusal is not None:
                break
        else:
            self.broken.append("no event was refused on a full disk")
            return
        if refusal != "JOURNAL_FULL":
            self.broken.append(f"the socket answered {refusal}")
        transport = httpx.AsyncHTTPTransport(uds=str(self._server.directory / "control.sock"))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", timeout=PATIENCE_SECONDS
        ) as client:
            name = f"http-{len(self._refused)}"
            body = {"type": "user.created", "data": {"text": "x" * 50_000}, "id": name}
            answer = await client.post("/api/events", json=body)
            self._refused.add(name)
            if (answer.status_code, answer.json().get("code")) != (503, "JOURNAL_FULL"):
                self.broken.append(f"HTTP answered {answer.status_code} {answer.text[:100]}")
            if "retry-after" not in answer.headers:
                self.broken.append("HTTP answered without Retry-After")
            ready = await client.get("/readyz")
            if ready.json()["status"] != "degraded":
                self.broken.append(f"/readyz answered {ready.text}")

    async def _see_attempts(self, when: str) -> None:
        """Wait until ten more attempts are recorded."""
        before = await self._attempts()
        with trio.move_on_after(self._patience_seconds):
            while await self._attempts() < before + 10:
                await trio.sleep(0.05)
            return
        self.broken.append(f"no attempt was recorded {when}")

    async def _attempts(self) -> int:
        page = await self._server.get(f"/api/webhooks/{self._webhook}/deliveries")
        return int(page["data"][0]["attempts"])

    async def _see_it_continue(self) -> float:
        """Return how many seconds it took until an event was accepted."""
        began = time.monotonic()
        while await self._send("user.created", f"after-{len(self._refused)}", 50_000) is not None:
            if time.monotonic() - began > self._patience_seconds:
                self.broken.append("it did not continue by itself")
                return inf
            await trio.sleep(0.05)
        return time.monotonic() - began


def run_full(
    directory: Path, program: Sequence[str] = PROGRAM, patience_seconds: float = PATIENCE_SECONDS
) -> tuple[float, list[str]]:
    """Fill the disk of a server; return how many seconds it took to continue, and the broken promises."""
    with small_disk(directory / "disk") as disk:
        scene = FullDisk(disk, program, patience_seconds)
        return trio.run(scene.run), scene.broken


def run_error(
    directory: Path, what: str, program: Sequence[str] = PROGRAM, patience_seconds: float = PATIENCE_SECONDS
) -> tuple[float, list[str]]:
    """Inject an I/O error; return how many seconds the process continued after it, and the broken promises."""
    check_strace()
    return trio.run(fail, directory, what, program, patience_seconds)


def finds(directory: Path, fault: str) -> bool:
    """Return whether a planted fault is found."""
    if fault == FAULTS[0]:
        return bool(run_error(directory, "sync", planted(fault), FAULT_SECONDS)[1])
    return bool(run_full(directory, planted(fault), FAULT_SECONDS)[1])


def main(arguments: Sequence[str]) -> int:
    """Run the chosen checks; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.disk", description=__doc__)
    parser.add_argument(
        "what", nargs="*", choices=[[], "errors", "full"], metavar="errors|full", help="which checks to run (both)"
    )
    parser.add_argument("--times", type=int, default=1, metavar="N", help="how often to run each (1)")
    parser.add_argument("--planted", action="store_true", help="plant each fault in turn and look for it")
    options = parser.parse_args(arguments)
    if options.planted:
        return show_found(FAULTS, finds)
    scenes = [*(CALLS if "errors" in options.what or not options.what else ())]
    scenes += ["full"] if "full" in options.what or not options.what else []
    status = 0
    for scene in scenes * options.times:
        with TemporaryDirectory(prefix="webhookd-") as name:
            if scene == "full":
                seconds, broken = run_full(Path(name))
                print(f"full: accepted events again {seconds:.2f} s after there was space")
            else:
                seconds, broken = run_error(Path(name), scene)
                print(f"EIO on {scene}: ended {seconds:.2f} s later")
        for one in broken:
            print(f"  BROKEN: {one}")
        status = 1 if broken else status
    return status


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except NotPossibleError as reason:
        sys.exit(f"not possible on this machine: {reason}")
