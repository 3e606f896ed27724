"""Check that retention and slow readers do not hold up the real server: `python -m tests.retention`.

`steps`: a producer sends one event after the other while retention deletes a long history. The server logs for each
commit the steps of retention in it, with their rows and pages: the other writes of the commit wait for them. A commit
may hold one step of bounded size, and the size of the file before and after shows whether its space was returned. The
time of the slowest commit, during and after retention, is printed but not checked, because other load on the machine
also makes commits slow.

`log`: another program holds a snapshot while large events arrive as fast as they are accepted, until they wait for the
reader. The write-ahead log must stay below 64 MiB. Its size is printed, with the time that changes took meanwhile.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import apsw
import trio

from tests.bench.report import percentile
from tests.bench.seed import Content, Group, seed
from tests.e2e.harness import CONFIG, PROGRAM, Server, running
from tests.journal.old import ask
from tests.launcher import program as planted
from tests.launcher import show_found
from tests.patience import PATIENCE_SECONDS, until
from webhookd.base.errors import Rejected
from webhookd.client import Client, Event
from webhookd.journal.queries import retention

MEBIBYTE = 1024 * 1024
LOG_BYTES = 64 * MEBIBYTE
MOST_ROWS = 2 * retention.ROWS_A_STEP[-1]  # a step deletes at most this many events, and as many deliveries
HISTORY, QUICK_HISTORY = 100_000, 5_000
YARDSTICK_COMMITS = 100
CHANGES, MOST_CUTS = 5, 50
CHANGE_SECONDS = 2.0  # a change that waits for a reader always takes 5
EVENT_BYTES = 200_000
NOWHERE = "http://127.0.0.1:9/"
FAULTS = ("deletes all in one step", "never truncates the log", "waits for readers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What the server counted in a commit with retention: steps, deleted rows and returned pages."""

    steps: int
    rows: int
    pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """How a history was deleted: its commits, and the file's size before and after.

    `meanwhile` and `afterwards` are the seconds that each commit of a producer took during and after the deletion.
    """

    commits: tuple[Commit, ...]
    meanwhile: tuple[float, ...]
    afterwards: tuple[float, ...]
    bytes_before: int
    bytes_after: int


class Pace:
    """Sends one event after the other in a thread, and measures how long the commit of each takes."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._is_over = False
        self.commits: list[float] = []

    def end(self) -> None:
        """Make `run` return."""
        self._is_over = True

    async def run(self) -> None:
        """Send until `end` is called."""
        await trio.to_thread.run_sync(self._send)

    def _send(self) -> None:
        with Client(self._socket, timeout=PATIENCE_SECONDS) as client:
            while not self._is_over:
                began = time.monotonic()
                client.send("user.created", {"text": "x" * 300})
                self.commits.append(time.monotonic() - began)


def config(retention_days: float) -> str:
    return CONFIG.replace('path = "webhookd.db"', f'path = "webhookd.db"\nretention_days = {retention_days}')


async def delete_history(directory: Path, program: Sequence[str]) -> Deletion:
    """Let retention delete a history while a producer sends; `program` is a server that counts deleted rows."""
    journal = directory / "webhookd.db"
    newest = _number(ask(journal, "SELECT max(pk) FROM events"))
    before = journal.stat().st_size

    def is_deleted() -> bool:
        with closing(apsw.Connection(str(journal))) as reader:
            reader.setbusytimeout(60_000)
            oldest = _number(reader.execute("SELECT min(pk) FROM events").fetchall())
            pages = _number(reader.execute("PRAGMA freelist_count").fetchall())
        return oldest > newest and pages < 1000

    async with running(directory, config(retention_days=1), program=program) as server:
        pace = Pace(server.socket)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pace.run)
            with trio.fail_after(600):
                while not is_deleted():
                    await trio.sleep(0.2)
            done = len(pace.commits)
            await until(lambda: len(pace.commits) >= done + YARDSTICK_COMMITS)
            pace.end()
        assert await server.stop() == 0
    lines = [json.loads(line) for line in server.log().splitlines() if '"tests.retention"' in line]
    return Deletion(
        commits=tuple(Commit(steps=line["steps"], rows=line["rows"], pages=line["pages"]) for line in lines),
        meanwhile=tuple(pace.commits[:done]),
        afterwards=tuple(pace.commits[done:]),
        bytes_before=before,
        bytes_after=journal.stat().st_size,
    )


def _number(rows: Sequence[Sequence[object]]) -> int:
    [[value]] = rows
    assert isinstance(value, int)
    return value


def fill(directory: Path, deliveries: int) -> None:
    """Create a journal with a history of sent deliveries that is a hundred days old."""
    seed(directory, Content(groups=(Group(count=1, url=NOWHERE),), deliveries=deliveries, are_sent=True))
    with closing(apsw.Connection(str(directory / "webhookd.db"))) as connection:
        connection.execute("UPDATE events SET accepted_at = accepted_at - 8640000")


def measure_steps(deliveries: int, *faults: str) -> Deletion:
    """Let a server with these faults delete a history of so many deliveries; return how it did so."""
    with TemporaryDirectory(prefix="webhookd-") as name:
        fill(Path(name), deliveries)
        return trio.run(delete_history, Path(name), planted("counts deleted rows", *faults))


@dataclass(slots=True, kw_only=True)
class Growth:
    """How large the log became, how long changes took, and how much was acknowledged while the snapshot was held."""

    most_bytes: int = 0
    end_bytes: int = 0
    change_seconds: list[float] = field(default_factory=list)
    held_bytes: int = 0
    refused: int = 0
    lost: int = 0


class SlowReader:
    """A server that takes large events while another program holds a snapshot."""

    def __init__(self, directory: Path, program: Sequence[str], total_bytes: int) -> None:
        self._server = Server(directory)
        self._program = program
        self._journal = directory / "webhookd.db"
        self._log = directory / "webhookd.db-wal"
        self._events = total_bytes // EVENT_BYTES
        self._acknowledged: list[str] = []
        self._growth = Growth()

    async def run(self) -> Growth:
        """Send all the events, the first of them while the snapshot is held."""
        server, growth = self._server, self._growth
        await server.start(self._program)
        try:
            await trio.to_thread.run_sync(self._send, 1)
            with closing(apsw.Connection(str(self._journal))) as reader:
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM events").fetchall()
                async with trio.open_nursery() as watching:
                    watching.start_soon(self._watch)
                    async with trio.open_nursery() as sending:
                        sending.start_soon(trio.to_thread.run_sync, self._send, self._events)
                        with trio.fail_after(600):
                            while "journal.log_is_long" not in server.log() and not self._is_all_accepted:
                                await trio.sleep(0.05)
                            await self._change()
                        growth.held_bytes = len(self._acknowledged) * EVENT_BYTES
                        reader.close()
                    watching.cancel_scope.cancel()
            for _ in range(MOST_CUTS):
                if self._log.stat().st_size <= LOG_BYTES // 2:
                    break
                await trio.to_thread.run_sync(self._send, 1)  # a reader of the server may have prevented the truncation
            growth.end_bytes = self._log.stat().st_size
            assert await server.stop() == 0
        finally:
            await server.end()  # noqa: ASYNC102 - it shields what it waits for
        stored = {str(name) for (name,) in ask(self._journal, "SELECT id FROM events")}
        growth.lost = len(set(self._acknowledged) - stored)
        return growth

    @property
    def _is_all_accepted(self) -> bool:
        return len(self._acknowledged) > self._events

    def _send(self, count: int) -> None:
        data = b'{"text":"' + b"x" * EVENT_BYTES + b'"}'
        with Client(self._server.socket, timeout=5 * PATIENCE_SECONDS) as client:
            for result in client.send_many((Event(type="user.created", data=data) for _ in range(count)), window=64):
                if isinstance(result, Rejected):
                    self._growth.refused += 1
                else:
                    self._acknowledged.append(result.id)

    async def _watch(self) -> None:
        while True:
            with suppress(FileNotFoundError):
                self._growth.most_bytes = max(self._growth.most_bytes, self._log.stat().st_size)
            await trio.sleep(0.005)

    async def _change(self) -> None:
        """Create webhooks, and measure how long each takes."""
        for _ in range(CHANGES):
            began = time.monotonic()
            await self._server.webhook("http://127.0.0.1:1234/", isActive=False, events=["user.deleted"])
            self._growth.change_seconds.append(time.monotonic() - began)


def measure_log(total_bytes: int, program: Sequence[str] = PROGRAM) -> Growth:
    """Send so many bytes of events while a slow reader holds a snapshot; return how the log grew."""
    with TemporaryDirectory(prefix="webhookd-") as name:
        return trio.run(SlowReader(Path(name), program, total_bytes).run)


def broken_by_log(growth: Growth) -> list[str]:
    """Return the broken rules of the write-ahead log."""
    broken = []
    if growth.most_bytes >= LOG_BYTES:
        broken.append(f"the log had {growth.most_bytes / MEBIBYTE:.0f} MiB")
    if growth.end_bytes > LOG_BYTES // 2:
        broken.append("the log was not truncated after the reader had ended")
    if min(growth.change_seconds) > CHANGE_SECONDS:
        broken.append(f"changes waited for the reader: {min(growth.change_seconds):.1f} s and more")
    if growth.lost:
        broken.append(f"{growth.lost} acknowledged events are lost")
    return broken


def broken_by_deletion(deletion: Deletion) -> list[str]:
    """Return the broken rules of retention."""
    broken = []
    if (steps := max(commit.steps for commit in deletion.commits)) > 1:
        broken.append(f"a commit held {steps} steps of retention")
    if (rows := max(commit.rows for commit in deletion.commits)) > MOST_ROWS:
        broken.append(f"a step deleted {rows} rows")
    if (pages := max(commit.pages for commit in deletion.commits)) > retention.PAGES_A_STEP:
        broken.append(f"a step returned {pages} pages")
    if not deletion.meanwhile:
        broken.append("no event was accepted during the deletion")
    if deletion.bytes_after > deletion.bytes_before / 2:
        broken.append(f"of {deletion.bytes_before} bytes, {deletion.bytes_after} are left")
    return broken


def finds(_: Path, fault: str) -> bool:
    """Return whether a planted fault is found."""
    if fault == FAULTS[0]:
        return bool(broken_by_deletion(measure_steps(QUICK_HISTORY, fault)))
    return bool(broken_by_log(measure_log(80 * MEBIBYTE, planted(fault))))


def main(arguments: Sequence[str]) -> int:
    """Measure and check both, or plant the faults; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.retention", description=__doc__)
    parser.add_argument("--deliveries", type=int, default=HISTORY, metavar="N", help=f"size of the history ({HISTORY})")
    parser.add_argument(
        "--mebibytes",
        type=int,
        default=300,
        metavar="N",
        help="size of the events that are sent with a slow reader (300)",
    )
    parser.add_argument("--planted", action="store_true", help="plant each fault in turn and look for it")
    options = parser.parse_args(arguments)
    if options.planted:
        return show_found(FAULTS, finds)
    deletion = measure_steps(options.deliveries)
    print(
        f"steps: {options.deliveries} deliveries were deleted in {len(deletion.commits)} commits, with up to "
        f"{max(commit.rows for commit in deletion.commits)} rows (limit {MOST_ROWS}); the size of the file was "
        f"{deletion.bytes_before / MEBIBYTE:.1f} MiB and is {deletion.bytes_after / MEBIBYTE:.1f} MiB"
    )
    for when, seconds in (("meanwhile", deletion.meanwhile), ("afterwards", deletion.afterwards)):
        print(
            f"  {when} {len(seconds)} events were accepted one by one, the slowest in {max(seconds) * 1000:.0f} ms "
            f"(p99 {percentile(seconds, 99) * 1000:.1f} ms)"
        )
    growth = measure_log(options.mebibytes * MEBIBYTE)
    print(
        f"log: up to {growth.most_bytes / MEBIBYTE:.1f} MiB (limit {LOG_BYTES / MEBIBYTE:g}) while a reader held a "
        f"snapshot and {options.mebibytes} MiB of events arrived, of which {growth.refused} were refused; the fastest "
        f"change took {min(growth.change_seconds):.3f} s, the slowest {max(growth.change_seconds):.3f} s"
    )
    broken = broken_by_deletion(deletion) + broken_by_log(growth)
    for problem in broken:
        print(f"  BROKEN: {problem}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
