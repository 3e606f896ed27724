"""Send a server more than it can accept, and count: `python -m tests.overload`.

The server's intake is made small (few queued events, slow commits, few connections), and many clients send at the same
time: over HTTP one by one and as streams of lines, and over the socket. Every event has its own id. Every acknowledged
event must be in the journal, no refused event may be, and nothing else: the acknowledged ids are exactly the stored
ids. A refusal must be a 429 or 503 with Retry-After, or a line with its error code. Prints the counts; the exit status
is 1 if one of these rules is broken.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from tests.admin.raw import Reply
from tests.e2e.harness import CONFIG, Server, running
from tests.e2e.posting import post_events
from tests.journal.old import ask
from tests.launcher import program as planted
from tests.launcher import show_found

SMALL = "small intake"
FAULTS = ("acknowledges refused events", "stores refused events")
ALLOWED = CONFIG.replace("port = 0", "port = 0\nmax_connections = 40").replace(
    'socket = "ingest.sock"', 'socket = "ingest.sock"\nmax_connections = 10'
)
POSTING, STREAMING, SOCKETS = 60, 6, 14
EACH, LINES = 4, 40
RETRYABLE = {"JOURNAL_FULL", "RATE_LIMITED"}


@dataclass
class Count:
    """The ids of events by their outcome, and how often each answer was seen.

    `unknown` are the events of connections that were closed without an answer: a client above the connection limit has
    often sent its request by then. The server never read them, so they must not be stored either.
    """

    accepted: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    stored: set[str] = field(default_factory=set)

    def broken(self) -> list[str]:
        """Return the broken rules."""
        broken = list(dict.fromkeys(self.wrong))
        if lost := self.accepted - self.stored:
            broken.append(f"{len(lost)} events were acknowledged and are not stored")
        if kept := self.refused & self.stored:
            broken.append(f"{len(kept)} events were refused and are stored")
        if kept := self.unknown & self.stored:
            broken.append(f"{len(kept)} events were never read and are stored")
        if not self.accepted or not self.refused:
            broken.append("there was no overload: all events were accepted, or all were refused")
        return broken


class Overload:
    """The clients of one server, and the counts of their events."""

    def __init__(self, server: Server, scale: int) -> None:
        self._server = server
        self._scale = scale
        self.count = Count()

    async def run(self) -> None:
        """Send all events and count the answers."""
        with trio.fail_after(240):
            async with trio.open_nursery() as nursery:
                for number in range(POSTING):
                    nursery.start_soon(self._post, f"post{number}")
                for number in range(STREAMING):
                    nursery.start_soon(self._stream, f"stream{number}")
                for number in range(SOCKETS):
                    nursery.start_soon(self._send, f"socket{number}")

    async def _post(self, name: str) -> None:
        for number in range(EACH * self._scale):
            event_id = f"{name}-{number}"
            answer = await post_events(self._server, json.dumps(_event(event_id)).encode())
            if answer is None:
                self.count.answers["closed without an answer"] += 1
                self.count.unknown.add(event_id)
                continue
            self._note_status(answer)
            (self.count.accepted if answer.status == 202 else self.count.refused).add(event_id)

    def _note_status(self, answer: Reply) -> None:
        self.count.answers[f"HTTP {answer.status}"] += 1
        if answer.status not in {200, 202, 429, 503}:
            self.count.wrong.append(f"HTTP {answer.status}: {answer.body[:200]!r}")
        if answer.status in {429, 503} and "retry-after" not in answer.headers:
            self.count.wrong.append(f"HTTP {answer.status} without Retry-After")

    async def _stream(self, name: str) -> None:
        ids = [f"{name}-{number}" for number in range(LINES * self._scale)]
        body = b"".join(json.dumps(_event(event_id)).encode() + b"\n" for event_id in ids)
        answer = await post_events(self._server, body, media_type="application/x-ndjson")
        if answer is None:
            self.count.answers["closed without an answer"] += 1
            self.count.unknown.update(ids)
            return
        self._note_status(answer)
        if answer.status == 200:
            self._note_lines(ids, answer.body)
        else:
            self.count.refused.update(ids)

    async def _send(self, name: str) -> None:
        ids = [f"{name}-{number}" for number in range(LINES * self._scale)]
        received = bytearray()
        async with await trio.open_unix_socket(self._server.socket) as stream, trio.open_nursery() as nursery:

            async def send() -> None:
                try:
                    for event_id in ids:
                        await stream.send_all(json.dumps(_event(event_id)).encode() + b"\n")
                    await stream.send_eof()
                except trio.BrokenResourceError:
                    self.count.answers["closed without an answer"] += 1

            nursery.start_soon(send)
            try:
                while chunk := await stream.receive_some(65_536):
                    received += chunk
            except trio.BrokenResourceError:
                self.count.answers["reset"] += 1
        lines = bytes(received).splitlines()
        if len(lines) < len(ids):
            # Above the connection limit: one line with an error, or none that arrived, and nothing was read.
            self.count.unknown.update(ids)
            for line in lines:
                self.count.answers[f"socket {json.loads(line)['error']['code']}"] += 1
            return
        self._note_lines(ids, bytes(received))

    def _note_lines(self, ids: Sequence[str], results: bytes) -> None:
        lines = [json.loads(line) for line in results.splitlines()]
        if len(lines) != len(ids):
            self.count.wrong.append(f"{len(lines)} results for {len(ids)} lines")
        for event_id, line in zip(ids, lines, strict=False):
            if line["ok"]:
                self.count.answers["line ok"] += 1
                self.count.accepted.add(event_id)
                continue
            code = line["error"]["code"]
            self.count.answers[f"line {code}"] += 1
            self.count.refused.add(event_id)
            if code not in RETRYABLE:
                self.count.wrong.append(f"a line was refused with {code}")


def _event(event_id: str) -> dict[str, object]:
    return {"type": "user.created", "data": {"text": "x" * 200}, "id": event_id}


def run(directory: Path, *faults: str, scale: int = 1) -> Count:
    """Overload a server that has a small intake, and these faults; return the counts."""
    return trio.run(_run, directory, faults, scale)


async def _run(directory: Path, faults: Sequence[str], scale: int) -> Count:
    async with running(directory, ALLOWED, program=planted(SMALL, *faults)) as server:
        overload = Overload(server, scale)
        await overload.run()
        if status := await server.stop():
            overload.count.wrong.append(f"the server ended with status {status}")
    stored = ask(directory / "webhookd.db", "SELECT id FROM events")
    overload.count.stored = {str(name) for (name,) in stored}
    return overload.count


def finds(directory: Path, fault: str) -> bool:
    """Return whether a planted fault is found."""
    return bool(run(directory, fault).broken())


def main(arguments: Sequence[str]) -> int:
    """Run an overload, or plant the faults; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.overload", description=__doc__)
    parser.add_argument(
        "--scale", type=int, default=20, metavar="N", help="the load, as a multiple of the smallest (20)"
    )
    parser.add_argument("--planted", action="store_true", help="plant each fault in turn and look for it")
    options = parser.parse_args(arguments)
    if options.planted:
        return show_found(FAULTS, finds)
    with TemporaryDirectory(prefix="webhookd-") as directory:
        count = run(Path(directory), scale=options.scale)
    print(
        f"{len(count.accepted)} events acknowledged, {len(count.stored)} stored; {len(count.refused)} refused, "
        f"{len(count.unknown)} closed without an answer"
    )
    print(", ".join(f"{answer}: {number}" for answer, number in sorted(count.answers.items())))
    for one in count.broken():
        print(f"  BROKEN: {one}")
    return int(bool(count.broken()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
