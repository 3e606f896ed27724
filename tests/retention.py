"""What retention and slow readers cost the real server: `python -m tests.retention`.

`steps`: one producer sends event after event while a long history is deleted. The program counts for each commit the
steps of retention in it, and their rows and pages, since that is what the others in the commit wait for. A commit may
hold one step of bounded size, and the file's size before and after shows whether its space was returned. The time of
the longest commit, with and without retention, is printed and not judged: anything else on the machine makes some
commit slow. `log`: another program holds a snapshot while large events come in as fast as they are accepted, until
they wait for it. The size of the write-ahead log must stay below 64 MiB; it is printed, with the time that changes took
meanwhile.
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
from tests.e2e.harness import CONFIG, PROGRAM, Server
from tests.journal.old import ask
from tests.patience import PATIENCE_SECONDS, until
from tests.planted import program as planted
from tests.planted import show as show_planted
from webhookd.base.errors import Rejected
from webhookd.client import Client, Event
from webhookd.journal.queries import retention

MEBIBYTE = 1024 * 1024
LOG_BYTES = 64 * MEBIBYTE
MOST_ROWS = 2 * retention.ROWS_A_STEP[-1]  # so many events, and as many deliveries
HISTORY, QUICK_HISTORY = 100_000, 5_000
YARDSTICK_COMMITS = 100
CHANGES, MOST_CUTS = 5, 50
CHANGE_SECONDS = 2.0  # a change that waits for a reader takes 5, without fail
EVENT_BYTES = 200_000
NOWHERE = "http://127.0.0.1:9/"
FAULTS = ("forgets in one step", "never cuts the log", "waits for readers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What the program counted of a commit that forgot something."""

    steps: int
    rows: int
    pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgetting:
    """The commits that deleted a history, what a producer's took meanwhile and afterwards, and the file's size."""

    steps: tuple[Step, ...]
    meanwhile: tuple[float, ...]
    afterwards: tuple[float, ...]
    bytes_before: int
    bytes_after: int


class Pace:
    """Sends events one after the other in a thread, and notes how long the commit of each took."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._is_over = False
        self.commits: list[float] = []

    def end(self) -> None:
        """Have `run` return."""
        self._is_over = True

    async def run(self) -> None:
        """Send until it is to end."""
        await trio.to_thread.run_sync(self._send)

    def _send(self) -> None:
        with Client(self._socket, timeout=PATIENCE_SECONDS) as client:
            while not self._is_over:
                began = time.monotonic()
                client.send("user.created", {"text": "x" * 300})
                self.commits.append(time.monotonic() - began)


def config(retention_days: float) -> str:
    return CONFIG.replace('path = "webhookd.db"', f'path = "webhookd.db"\nretention_days = {retention_days}')


async def forget(directory: Path, program: Sequence[str]) -> Forgetting:
    """Have a history forgotten while a producer sends; `program` counts what it forgets."""
    journal = directory / "webhookd.db"
    newest = _number(ask(journal, "SELECT max(pk) FROM events"))
    before = journal.stat().st_size

    def is_forgotten() -> bool:
        with closing(apsw.Connection(str(journal))) as reader:
            reader.setbusytimeout(60_000)
            oldest = _number(reader.execute("SELECT min(pk) FROM events").fetchall())
            pages = _number(reader.execute("PRAGMA freelist_count").fetchall())
        return oldest > newest and pages < 1000

    server = Server(directory, config(retention_days=1))
    await server.start(program)
    try:
        pace = Pace(server.socket)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pace.run)
            with trio.fail_after(600):
                while not is_forgotten():
                    await trio.sleep(0.2)
            done = len(pace.commits)
            await until(lambda: len(pace.commits) >= done + YARDSTICK_COMMITS)
            pace.end()
        assert await server.stop() == 0
    finally:
        if server.process is not None:
            with trio.CancelScope(shield=True):
                await server.kill()
    lines = [json.loads(line) for line in server.log().splitlines() if '"tests.forgot"' in line]
    return Forgetting(
        steps=tuple(Step(steps=line["steps"], rows=line["rows"], pages=line["pages"]) for line in lines),
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
    """Make a journal whose history is a hundred days old."""
    seed(directory, Content(groups=(Group(count=1, url=NOWHERE),), deliveries=deliveries, are_sent=True))
    with closing(apsw.Connection(str(directory / "webhookd.db"))) as connection:
        connection.execute("UPDATE events SET accepted_at = accepted_at - 8640000")


def measure_steps(deliveries: int, *faults: str) -> Forgetting:
    """Have a history of so many deliveries forgotten, by a program with faults if any."""
    with TemporaryDirectory(prefix="webhookd-") as name:
        fill(Path(name), deliveries)
        return trio.run(forget, Path(name), planted("counts what it forgets", *faults))


@dataclass(slots=True, kw_only=True)
class Grown:
    """How large the log was, how long changes took, and how much was acknowledged while the snapshot was held."""

    most_bytes: int = 0
    end_bytes: int = 0
    change_seconds: list[float] = field(default_factory=list)
    held_bytes: int = 0
    refused: int = 0
    lost: int = 0


class SlowReader:
    """A server that takes large events while another program holds a snapshot."""

    def __init__(self, directory: Path, program: Sequence[str], total_bytes: int) -> None:
        self._server = Server(directory, CONFIG)
        self._program = program
        self._journal = directory / "webhookd.db"
        self._log = directory / "webhookd.db-wal"
        self._events = total_bytes // EVENT_BYTES
        self._acknowledged: list[str] = []
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
                    async with trio.open_nursery() as sending:
                        sending.start_soon(trio.to_thread.run_sync, self._send, self._events)
                        with trio.fail_after(600):
                            while "journal.log_is_long" not in server.log() and not self._is_all_taken:
                                await trio.sleep(0.05)
                            await self._change()
                        grown.held_bytes = len(self._acknowledged) * EVENT_BYTES
                        reader.close()
                    watching.cancel_scope.cancel()
            for _ in range(MOST_CUTS):
                if self._log.stat().st_size <= LOG_BYTES // 2:
                    break
                await trio.to_thread.run_sync(self._send, 1)  # one of the server's own readers may have been in the way
            grown.end_bytes = self._log.stat().st_size
            assert await server.stop() == 0
        finally:
            if server.process is not None:
                with trio.CancelScope(shield=True):
                    await server.kill()
        stored = {str(name) for (name,) in ask(self._journal, "SELECT id FROM events")}
        grown.lost = len(set(self._acknowledged) - stored)
        return grown

    @property
    def _is_all_taken(self) -> bool:
        return len(self._acknowledged) > self._events

    def _send(self, count: int) -> None:
        data = b'{"text":"' + b"x" * EVENT_BYTES + b'"}'
        with Client(self._server.socket, timeout=5 * PATIENCE_SECONDS) as client:
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
        """Make changes, and note how long they take."""
        for _ in range(CHANGES):
            began = time.monotonic()
            await self._server.webhook("http://127.0.0.1:1234/", isActive=False, events=["user.deleted"])
            self._grown.change_seconds.append(time.monotonic() - began)


def measure_log(total_bytes: int, program: Sequence[str] = PROGRAM) -> Grown:
    """Let a slow reader stand in the way of so many bytes of events; return how the log grew."""
    with TemporaryDirectory(prefix="webhookd-") as name:
        return trio.run(SlowReader(Path(name), program, total_bytes).run)


def broken_of_log(grown: Grown) -> list[str]:
    """Return what isn't as it should be."""
    broken = []
    if grown.most_bytes >= LOG_BYTES:
        broken.append(f"the log had {grown.most_bytes / MEBIBYTE:.0f} MiB")
    if grown.end_bytes > LOG_BYTES // 2:
        broken.append("the log wasn't cut once the reader was gone")
    if min(grown.change_seconds) > CHANGE_SECONDS:
        broken.append(f"changes waited for the reader: {min(grown.change_seconds):.1f} s and more")
    if grown.lost:
        broken.append(f"{grown.lost} acknowledged events are lost")
    return broken


def broken_of_steps(one: Forgetting) -> list[str]:
    """Return what isn't as it should be."""
    broken = []
    if (steps := max(step.steps for step in one.steps)) > 1:
        broken.append(f"a commit held {steps} steps of retention")
    if (rows := max(step.rows for step in one.steps)) > MOST_ROWS:
        broken.append(f"a step forgot {rows} rows")
    if (pages := max(step.pages for step in one.steps)) > retention.PAGES_A_STEP:
        broken.append(f"a step gave back {pages} pages")
    if not one.meanwhile:
        broken.append("no event was taken meanwhile")
    if one.bytes_after > one.bytes_before / 2:
        broken.append(f"of {one.bytes_before} bytes {one.bytes_after} are left")
    return broken


def finds(_: Path, fault: str) -> bool:
    """Return whether a planted fault is found."""
    if fault == FAULTS[0]:
        return bool(broken_of_steps(measure_steps(QUICK_HISTORY, fault)))
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
    one = measure_steps(options.deliveries)
    print(
        f"steps: {options.deliveries} deliveries were forgotten in {len(one.steps)} commits, with at most "
        f"{max(step.rows for step in one.steps)} rows (at most {MOST_ROWS}); the file had "
        f"{one.bytes_before / MEBIBYTE:.1f} MiB and has {one.bytes_after / MEBIBYTE:.1f}"
    )
    for when, seconds in (("meanwhile", one.meanwhile), ("afterwards", one.afterwards)):
        print(
            f"  {when} {len(seconds)} events were taken one by one, the slowest in {max(seconds) * 1000:.0f} ms "
            f"(p99 {percentile(seconds, 99) * 1000:.1f} ms)"
        )
    grown = measure_log(options.mebibytes * MEBIBYTE)
    print(
        f"log: at most {grown.most_bytes / MEBIBYTE:.1f} MiB (below {LOG_BYTES / MEBIBYTE:g}) while a reader held on "
        f"and {options.mebibytes} MiB of events came in, of which {grown.refused} were refused; the quickest change "
        f"meanwhile took {min(grown.change_seconds):.3f} s and the slowest {max(grown.change_seconds):.3f}"
    )
    broken = broken_of_steps(one) + broken_of_log(grown)
    for each in broken:
        print(f"  BROKEN: {each}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
