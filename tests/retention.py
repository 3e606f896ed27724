"""What forgetting and slow readers cost the real server: `python -m tests.retention`.

`delay`: one producer sends event after event, before, while and after a long history is forgotten; printed is how much
longer the longest commit took meanwhile. That must be 50 ms at most. Whatever else the machine does makes some commit
slow now and then, and retention all the time: the best of some tries counts. The file's size before and after says
whether its space was given back. `log`: another program holds a snapshot while large events come in as fast as they are
taken; printed is the most that the write-ahead log had, which must stay below 64 MiB, and how long the longest of the
changes took that were made meanwhile.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import apsw
import trio

from tests.bench.report import percentile
from tests.bench.seed import Content, Group, seed
from tests.e2e.harness import CONFIG, PROGRAM, Server
from tests.journal.old import ask
from tests.planted import program as planted
from tests.planted import show as show_planted
from webhookd.client import Client, Event
from webhookd.errors import Rejected

MEBIBYTE = 1024 * 1024
DELAY_SECONDS, LOG_BYTES, CHANGE_SECONDS = 0.05, 64 * MEBIBYTE, 2.0
TRIES = 3
HISTORY, QUICK_HISTORY = 100_000, 10_000
YARDSTICK_SECONDS = 1.5
HOLD_SECONDS = 8.0
EVENT_BYTES = 200_000
NOWHERE = "http://127.0.0.1:9/"
FAULTS = ("forgets in one step", "never cuts the log", "waits for readers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgetting:
    """The longest commits before or after and while a history was forgotten, and the file's size before and after."""

    usual_seconds: float
    longest_seconds: float
    commits: int
    p99_seconds: float
    bytes_before: int
    bytes_after: int

    @property
    def delay_seconds(self) -> float:
        """How much longer the longest commit took than the longest of those without retention."""
        return max(self.longest_seconds - self.usual_seconds, 0.0)


class Pace:
    """Sends events one after the other in a thread, and notes when each was sent and how long its commit took."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._is_over = False
        self.commits: list[tuple[float, float]] = []

    def between(self, began: float, ended: float) -> list[float]:
        """Return how long the commits took that were asked for in that time."""
        return [seconds for at, seconds in self.commits if began <= at < ended]

    def end(self) -> None:
        """Have `run` return."""
        self._is_over = True

    async def run(self) -> None:
        """Send until it is to end."""
        await trio.to_thread.run_sync(self._send)

    def _send(self) -> None:
        with Client(self._socket) as client:
            while not self._is_over:
                began = time.monotonic()
                client.send("user.created", {"text": "x" * 300})
                self.commits.append((began, time.monotonic() - began))


def config(retention_days: float) -> str:
    return CONFIG.replace('path = "webhookd.db"', f'path = "webhookd.db"\nretention_days = {retention_days}')


async def forget(directory: Path, program: Sequence[str] = PROGRAM) -> Forgetting:
    """Measure commits on a journal with a history that is kept, and then while it is forgotten."""
    journal = directory / "webhookd.db"
    newest = _number(ask(journal, "SELECT max(pk) FROM events"))
    before = journal.stat().st_size
    kept, usual = await _commits(directory, 10_000, program, lambda: True)

    def is_forgotten() -> bool:
        with closing(apsw.Connection(str(journal))) as reader:
            reader.setbusytimeout(5000)
            oldest = _number(reader.execute("SELECT min(pk) FROM events").fetchall())
            pages = _number(reader.execute("PRAGMA freelist_count").fetchall())
        return oldest > newest and pages < 1000

    longest, after = await _commits(directory, 1, program, is_forgotten)
    assert longest
    return Forgetting(
        usual_seconds=max(kept + usual + after),
        longest_seconds=max(longest),
        commits=len(longest),
        p99_seconds=percentile(longest, 99),
        bytes_before=before,
        bytes_after=journal.stat().st_size,
    )


def _number(rows: Sequence[Sequence[object]]) -> int:
    [[value]] = rows
    assert isinstance(value, int)
    return value


async def _commits(
    directory: Path, retention_days: float, program: Sequence[str], is_done: Callable[[], bool]
) -> tuple[list[float], list[float]]:
    """Return the commits until something is done, where anything is to be waited for, and those of a while after."""
    server = Server(directory, config(retention_days))
    await server.start(program)
    try:
        pace = Pace(server.socket)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pace.run)
            began = time.monotonic()
            with trio.fail_after(600):
                while not is_done():
                    await trio.sleep(0.2)
            done = time.monotonic()
            await trio.sleep(YARDSTICK_SECONDS)
            pace.end()
        assert await server.stop() == 0
    finally:
        if server.process is not None:
            with trio.CancelScope(shield=True):
                await server.kill()
    return pace.between(began, done), pace.between(done, time.monotonic())


def fill(directory: Path, deliveries: int) -> None:
    """Make a journal whose history is a hundred days old."""
    seed(directory, Content(groups=(Group(count=1, url=NOWHERE),), deliveries=deliveries, are_sent=True))
    with closing(apsw.Connection(str(directory / "webhookd.db"))) as connection:
        connection.execute("UPDATE events SET accepted_at = accepted_at - 8640000")


def measure_delay(
    deliveries: int, program: Sequence[str] = PROGRAM, *, tries: int = TRIES, is_noisy: bool = False
) -> Forgetting:
    """Forget a history until that delays no commit for too long, at most so many times; return the best."""
    measured: list[Forgetting] = []
    for _ in range(tries):
        with TemporaryDirectory(prefix="webhookd-") as name:
            fill(Path(name), deliveries)
            measured.append(trio.run(forget, Path(name), program))
        if not broken_of_delay(measured[-1], is_noisy=is_noisy):
            break
    return min(measured, key=lambda one: one.delay_seconds)


@dataclass(slots=True, kw_only=True)
class Grown:
    """How large the log was, how long changes took, and how much was acknowledged while the snapshot was held."""

    most_bytes: int = 0
    end_bytes: int = 0
    change_seconds: float = 0.0
    held_bytes: int = 0
    refused: int = 0
    lost: int = 0


class SlowReader:
    """A server that takes large events while another program holds a snapshot."""

    def __init__(self, directory: Path, program: Sequence[str], total_bytes: int, hold_seconds: float) -> None:
        self._hold_seconds = hold_seconds
        self._server = Server(directory, CONFIG)
        self._program = program
        self._journal = directory / "webhookd.db"
        self._log = directory / "webhookd.db-wal"
        self._events = total_bytes // EVENT_BYTES
        self._acknowledged: list[str] = []
        self._is_held = True
        self._grown = Grown()

    async def run(self) -> Grown:
        """Take all the events, the first of them while the snapshot is held."""
        server, grown = self._server, self._grown
        await server.start(self._program)
        try:
            await trio.to_thread.run_sync(self._send, 1)
            with closing(apsw.Connection(str(self._journal))) as reader:
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM events").fetchall()
                async with trio.open_nursery() as watching:
                    watching.start_soon(self._watch)
                    watching.start_soon(self._change)
                    async with trio.open_nursery() as sending:
                        sending.start_soon(trio.to_thread.run_sync, self._send, self._events)
                        with trio.move_on_after(self._hold_seconds):
                            while len(self._acknowledged) <= self._events:
                                await trio.sleep(0.01)
                        grown.held_bytes = len(self._acknowledged) * EVENT_BYTES
                        self._is_held = False
                        reader.close()
                    watching.cancel_scope.cancel()
            with trio.move_on_after(10):
                while self._log.stat().st_size > LOG_BYTES // 2:
                    await trio.sleep(0.05)
            grown.end_bytes = self._log.stat().st_size
            assert await server.stop() == 0
        finally:
            if server.process is not None:
                with trio.CancelScope(shield=True):
                    await server.kill()
        stored = {str(name) for (name,) in ask(self._journal, "SELECT id FROM events")}
        grown.lost = len(set(self._acknowledged) - stored)
        return grown

    def _send(self, count: int) -> None:
        data = b'{"text":"' + b"x" * EVENT_BYTES + b'"}'
        with Client(self._server.socket, timeout=60) as client:
            for result in client.send_many((Event(type="user.created", data=data) for _ in range(count)), window=64):
                if isinstance(result, Rejected):
                    self._grown.refused += 1
                else:
                    self._acknowledged.append(result.id)

    async def _watch(self) -> None:
        while True:
            with suppress(FileNotFoundError):
                self._grown.most_bytes = max(self._grown.most_bytes, self._log.stat().st_size)
            await trio.sleep(0.005)

    async def _change(self) -> None:
        """Make changes while the snapshot is held; how long they take."""
        while self._is_held:
            began = time.monotonic()
            await self._server.webhook("http://127.0.0.1:1234/", isActive=False, events=["user.deleted"])
            self._grown.change_seconds = max(self._grown.change_seconds, time.monotonic() - began)
            await trio.sleep(0.1)


def measure_log(total_bytes: int, program: Sequence[str] = PROGRAM, *, hold_seconds: float = HOLD_SECONDS) -> Grown:
    """Let a slow reader stand in the way of so many bytes of events; return how the log grew."""
    with TemporaryDirectory(prefix="webhookd-") as name:
        return trio.run(SlowReader(Path(name), program, total_bytes, hold_seconds).run)


def broken_of_log(grown: Grown) -> list[str]:
    """Return what isn't as it should be."""
    broken = []
    if grown.most_bytes >= LOG_BYTES:
        broken.append(f"the log had {grown.most_bytes / MEBIBYTE:.0f} MiB")
    if grown.end_bytes > LOG_BYTES // 2:
        broken.append("the log wasn't cut once the reader was gone")
    if grown.change_seconds > CHANGE_SECONDS:
        broken.append(f"a change waited for the reader: {grown.change_seconds:.1f} s")
    if grown.lost:
        broken.append(f"{grown.lost} acknowledged events are lost")
    return broken


def broken_of_delay(one: Forgetting, *, is_noisy: bool = False) -> list[str]:
    """Return what isn't as it should be; on a machine that is noisy twice the longest commit without is allowed."""
    broken = []
    if one.delay_seconds > max(DELAY_SECONDS, 2 * one.usual_seconds if is_noisy else 0.0):
        broken.append(f"a commit was delayed by {one.delay_seconds * 1000:.0f} ms")
    if one.bytes_after > one.bytes_before / 2:
        broken.append(f"of {one.bytes_before} bytes {one.bytes_after} are left")
    return broken


def finds(_: Path, fault: str) -> bool:
    """Return whether a planted fault is found."""
    if fault == FAULTS[0]:
        return bool(broken_of_delay(measure_delay(QUICK_HISTORY, planted(fault), tries=1), is_noisy=True))
    return bool(broken_of_log(measure_log(80 * MEBIBYTE, planted(fault))))


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; return the status."""
    parser = argparse.ArgumentParser(prog="python -m tests.retention", description=__doc__)
    parser.add_argument("--deliveries", type=int, default=HISTORY, metavar="N", help=f"the history ({HISTORY})")
    parser.add_argument("--mebibytes", type=int, default=300, metavar="N", help="events with a slow reader (300)")
    parser.add_argument("--planted", action="store_true", help="plant each fault in turn and look for it")
    options = parser.parse_args(arguments)
    if options.planted:
        return show_planted(FAULTS, finds)
    one = measure_delay(options.deliveries)
    print(
        f"delay: {one.delay_seconds * 1000:.0f} ms (at most {DELAY_SECONDS * 1000:g}): the longest of {one.commits} "
        f"commits took {one.longest_seconds * 1000:.0f} ms while {options.deliveries} deliveries were forgotten (p99 "
        f"{one.p99_seconds * 1000:.1f} ms), and {one.usual_seconds * 1000:.0f} ms without; the file had "
        f"{one.bytes_before / MEBIBYTE:.1f} MiB and has {one.bytes_after / MEBIBYTE:.1f}"
    )
    grown = measure_log(options.mebibytes * MEBIBYTE)
    print(
        f"log: at most {grown.most_bytes / MEBIBYTE:.1f} MiB (below {LOG_BYTES / MEBIBYTE:g}) while a reader held on "
        f"for {HOLD_SECONDS:g} s and {options.mebibytes} MiB of events came in, of which {grown.refused} were refused; "
        f"the longest change meanwhile took {grown.change_seconds:.2f} s (at most {CHANGE_SECONDS:g})"
    )
    broken = broken_of_delay(one) + broken_of_log(grown)
    for each in broken:
        print(f"  BROKEN: {each}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
