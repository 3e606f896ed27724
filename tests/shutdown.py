"""Stop a server many times while clients hold connections open: `python -m tests.shutdown --times 20`.

When the signal arrives, there are producers and clients that do not read, that send single bytes slowly, or that fall
silent in the middle of a request; receivers that never answer; a test of a webhook that waits for one of them; and
events that arrive as fast as they are accepted, over the socket and over HTTP. None of them closes its connection, so
a stop can only end by closing them; it must end with status 0. Then every acknowledged event is in the journal, every
request that a receiver saw is recorded, and everything is delivered once the receivers answer. Prints the seconds of
each stop, which are not checked; the exit status is 1 if a stop broke a promise.
"""

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import trio

from tests.e2e.harness import CONFIG, PROGRAM, Server
from tests.e2e.posting import connect, head, post_events
from tests.journal.old import ask
from tests.launcher import program as planted
from tests.launcher import show_found
from tests.patience import PATIENCE_SECONDS
from tests.receiver import Act, Receiver, Reply, always

FAULT_SECONDS = 5.0  # the wait for a server whose planted fault is that it never ends
FAULTS = {
    "waits for clients": "it did not end",
    "waits for producers": "it did not end",
    "drops queued events": "acknowledged events are not in the journal",
    "records no interruption": "are not recorded",
}
"""The planted faults (`tests.planted`), and the text with which each must be reported."""
FLOWING, HELD = "user.created", "user.deleted"
HANG = always(Reply(act=Act.HANG))
LINE = b'{"type":"%s","data":{"text":"%s"},"id":"%s"}\n'
STUCK_LINES = 20_000


@dataclass
class Acknowledged:
    """The ids of acknowledged events, by event type."""

    ids: dict[str, list[str]] = field(default_factory=lambda: {FLOWING: [], HELD: []})
    submitted: int = 0

    def next(self) -> tuple[str, str]:
        """Return the type and id of the next event; one in a hundred is for the receivers that hang."""
        self.submitted += 1
        return (HELD if self.submitted % 100 == 1 else FLOWING), f"e{self.submitted}"


@dataclass(frozen=True, kw_only=True)
class Stop:
    """The result of one stop."""

    seconds: float
    status: int | None
    broken: list[str]


def config(drain_seconds: float) -> str:
    """Return the configuration of a server with this deadline for its shutdown."""
    return CONFIG.replace("drain_seconds = 10", f"drain_seconds = {drain_seconds}")


# The clients that hold connections open. Each continues until the server has closed its connection.


async def pump_socket(server: Server, acknowledged: Acknowledged) -> None:
    """Send events over the socket as fast as they are accepted, and keep the acknowledged ids."""
    async with await trio.open_unix_socket(server.socket) as stream:
        sent: list[tuple[str, str]] = []

        async def send() -> None:
            # When the server accepts no more events, results remain to be read.
            with suppress(trio.BrokenResourceError):
                while True:
                    batch = [acknowledged.next() for _ in range(50)]
                    sent.extend(batch)
                    lines = b"".join(LINE % (kind.encode(), b"x" * 500, name.encode()) for kind, name in batch)
                    await stream.send_all(lines)
                    await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            rest, answered = b"", 0
            while chunk := await stream.receive_some(65_536):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    kind, name = sent[answered]
                    answered += 1
                    if b'"ok":true' in line:
                        acknowledged.ids[kind].append(name)
            nursery.cancel_scope.cancel()


async def pump_http(server: Server, acknowledged: Acknowledged) -> None:
    """Post one event after the other, and keep the acknowledged ids."""
    while True:
        kind, name = acknowledged.next()
        body = msgspec.json.encode({"type": kind, "data": {}, "id": name})
        answer = await post_events(server, body)
        if answer is None or answer.status != 202:
            return
        acknowledged.ids[kind].append(name)


async def read_no_results(server: Server, acknowledged: Acknowledged) -> None:
    """Send lines over the socket and never read the results."""
    async with await trio.open_unix_socket(server.socket) as stream:
        await stream.send_all(b'{"type":"nothing.known","data":{}}\n' * STUCK_LINES)
        await trio.sleep_forever()


async def drip_a_line(server: Server, acknowledged: Acknowledged) -> None:
    """Send a line over the socket byte by byte, and never end it."""
    async with await trio.open_unix_socket(server.socket) as stream:
        await drip(stream, b'{"type":"user.created","data":{"text":"')


async def drip(stream: trio.SocketStream, start: bytes) -> None:
    """Send `start`, then single bytes for ever."""
    await stream.send_all(start)
    while True:
        await trio.sleep(0.05)
        await stream.send_all(b"x")


async def drip_a_head(server: Server, acknowledged: Acknowledged) -> None:
    """Send the head of a request byte by byte, and never end it."""
    async with await connect(server) as stream:
        await drip(stream, b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-slow: ")


async def drip_a_body(server: Server, acknowledged: Acknowledged) -> None:
    """Send the body of a request byte by byte, and never end it."""
    async with await connect(server) as stream:
        more = ("content-type: application/json", "content-length: 100000")
        await drip(stream, head(server, "POST", "/api/events", *more) + b'{"type":"user.created","data":{"text":"')


async def read_no_lines(server: Server, acknowledged: Acknowledged) -> None:
    """Send a stream of lines over HTTP and never read the results."""
    async with await connect(server) as stream:
        lines = b'{"type":"nothing.known","data":{}}\n' * STUCK_LINES
        more = ("content-type: application/x-ndjson", f"content-length: {len(lines) * 100}")
        await stream.send_all(head(server, "POST", "/api/events", *more))
        for _ in range(100):
            await stream.send_all(lines)


async def keep_a_stream_open(server: Server, acknowledged: Acknowledged) -> None:
    """Begin a stream of lines over HTTP and send nothing more."""
    async with await connect(server) as stream:
        more = ("content-type: application/x-ndjson", "content-length: 100000")
        await stream.send_all(head(server, "POST", "/api/events", *more) + b'{"type":"user.cre')
        await trio.sleep_forever()


async def read_no_answers(server: Server, acknowledged: Acknowledged) -> None:
    """Request one large answer after the other on one connection and never read any."""
    async with await connect(server) as stream:
        while True:
            await stream.send_all(head(server, "GET", "/api/openapi.json"))


async def wait_for_a_test(server: Server, acknowledged: Acknowledged) -> None:
    """Send a test of a webhook whose receiver never answers, and wait for its result."""
    webhooks = (await server.get("/api/webhooks?limit=10"))["data"]
    hanging = next(webhook["id"] for webhook in webhooks if webhook["events"] == [HELD])
    async with await connect(server) as stream:
        await stream.send_all(head(server, "POST", f"/api/webhooks/{hanging}/test", "content-length: 0"))
        while await stream.receive_some():
            pass


HOLDERS: Sequence[Callable[[Server, Acknowledged], Awaitable[None]]] = (
    pump_socket,
    pump_http,
    read_no_results,
    drip_a_line,
    drip_a_head,
    drip_a_body,
    read_no_lines,
    keep_a_stream_open,
    read_no_answers,
    wait_for_a_test,
)


async def until_closed(holder: Callable[[Server, Acknowledged], Awaitable[None]], *arguments: object) -> None:
    try:
        await holder(*arguments)  # type: ignore[arg-type]  # the arguments of every holder
    except* (OSError, trio.BrokenResourceError):
        await trio.lowlevel.checkpoint()  # the server has closed the connection, as expected


class Harness:
    """A server, and receivers that hang during its stop and answer after the next start."""

    def __init__(self, directory: Path, drain_seconds: float, program: Sequence[str], patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._drain_seconds = drain_seconds
        self._program = program
        self._server = Server(directory, config(drain_seconds))
        self._acknowledged = Acknowledged()
        self._hanging = [Receiver(), Receiver()]
        self._answering = Receiver()

    async def run(self, times: int, dice: random.Random, report: Callable[[Stop], None]) -> list[Stop]:
        """Stop the server up to `times` times, until a stop goes wrong; return the result of each."""
        stops: list[Stop] = []
        server = self._server
        async with trio.open_nursery() as receiving:
            for receiver in (*self._hanging, self._answering):
                await receiving.start(receiver.run)
            try:
                await server.start(self._program)
                for receiver in self._hanging:
                    await server.webhook(receiver.url, events=[HELD])
                await server.webhook(self._answering.url, events=[FLOWING], ordering="none", concurrency=32)
                for _ in range(times):
                    stops.append(await self._stop_once(dice))
                    report(stops[-1])
                    if stops[-1].broken:
                        break
            finally:
                await server.end()  # noqa: ASYNC102 - it shields what it waits for
            receiving.cancel_scope.cancel()
        return stops

    async def _stop_once(self, dice: random.Random) -> Stop:
        for receiver in self._hanging:
            receiver.script = HANG
        server, broken = self._server, []
        async with trio.open_nursery() as holding:
            for holder in HOLDERS:
                holding.start_soon(until_closed, holder, server, self._acknowledged)
            with trio.fail_after(PATIENCE_SECONDS):
                for receiver in self._hanging:
                    await receiver.wait_for(len(receiver.requests) + 1)
            await trio.sleep(dice.uniform(0.2, 1))
            seconds, status = await self._signal()
            holding.cancel_scope.cancel()
        if status is None:
            return Stop(seconds=seconds, status=None, broken=["it did not end"])
        if status:
            broken.append(f"the status was {status}: {server.log()[-500:]}")
        broken += self._check_journal()
        for receiver in self._hanging:
            receiver.script = always()
        await server.start(self._program)
        broken += await self._check_deliveries()
        return Stop(seconds=seconds, status=status, broken=broken)

    async def _signal(self) -> tuple[float, int | None]:
        process = self._server.process
        assert process is not None
        began = time.monotonic()
        process.terminate()
        with trio.move_on_after(self._drain_seconds + self._patience_seconds) as patience:
            await process.wait()
        seconds = time.monotonic() - began
        if patience.cancelled_caught:
            return seconds, None
        return seconds, await self._server.ended()

    def _check_journal(self) -> list[str]:
        """Compare the journal with the acknowledged events and the requests that receivers saw."""
        path = self._server.directory / "webhookd.db"
        stored = {str(name) for (name,) in ask(path, "SELECT id FROM events")}
        acknowledged = {name for names in self._acknowledged.ids.values() for name in names}
        broken = []
        if lost := acknowledged - stored:
            broken.append(f"{len(lost)} acknowledged events are not in the journal, such as {min(lost)}")
        recorded = Counter(
            f"{delivery} {number}"
            for delivery, number in ask(
                path, "SELECT deliveries.id, number FROM attempts JOIN deliveries ON deliveries.pk = delivery_pk"
            )
        )
        for receiver in (*self._hanging, self._answering):
            seen = Counter(
                f"{request.headers['x-webhook-delivery']} {request.headers['x-webhook-attempt']}"
                for request in receiver.requests
                if request.headers["x-webhook-event"] != "webhook.test"
            )
            if missing := seen.keys() - recorded.keys():
                broken.append(f"{len(missing)} requests that a receiver saw are not recorded")
        return broken

    async def _check_deliveries(self) -> list[str]:
        """Wait until nothing is pending, and compare the delivered events with the acknowledged ones."""
        webhooks = (await self._server.get("/api/webhooks"))["data"]
        try:
            for webhook in webhooks:
                await self._server.settled(webhook["id"])
        except trio.TooSlowError:
            return ["it did not deliver everything after the next start"]
        broken = []
        wanted = [(receiver, HELD) for receiver in self._hanging] + [(self._answering, FLOWING)]
        for receiver, kind in wanted:
            arrived = {request.headers["webhook-id"] for request in receiver.requests}
            if lost := set(self._acknowledged.ids[kind]) - arrived:
                broken.append(f"{len(lost)} acknowledged events never arrived, such as {min(lost)}")
        return broken


def stop_repeatedly(
    directory: Path,
    times: int,
    *,
    drain_seconds: float,
    seed: int,
    program: Sequence[str] = PROGRAM,
    patience_seconds: float = PATIENCE_SECONDS,
    report: Callable[[Stop], None] = lambda _: None,
) -> list[Stop]:
    """Stop a server up to `times` times, until a stop goes wrong; return the result of each."""
    harness = Harness(directory, drain_seconds, program, patience_seconds)
    return trio.run(harness.run, times, random.Random(seed), report)  # noqa: S311 - not for security


def finds(directory: Path, fault: str) -> bool:
    """Return whether one stop of a server with a planted fault is reported with the text of that fault."""
    patience = FAULT_SECONDS if FAULTS[fault] == "it did not end" else PATIENCE_SECONDS
    [stop] = stop_repeatedly(directory, 1, drain_seconds=1.0, seed=0, program=planted(fault), patience_seconds=patience)
    return any(FAULTS[fault] in broken for broken in stop.broken)


def main(arguments: Sequence[str]) -> int:
    """Run the stops, or plant the faults; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.shutdown", description=__doc__)
    parser.add_argument("--times", type=int, default=20, metavar="N", help="number of stops (20)")
    parser.add_argument(
        "--drain-seconds", type=float, default=2.0, metavar="S", help="the server's delivery.drain_seconds (2)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="random seed for the moments of the signals (0)"
    )
    parser.add_argument("--planted", action="store_true", help="plant each fault in turn and look for it")
    options = parser.parse_args(arguments)
    if options.planted:
        return show_found(FAULTS, finds)

    def report(stop: Stop) -> None:
        print(msgspec.json.encode(stop).decode(), flush=True)

    with TemporaryDirectory(prefix="webhookd-") as directory:
        stops = stop_repeatedly(
            Path(directory),
            options.times,
            drain_seconds=options.drain_seconds,
            seed=options.seed,
            report=report,
        )
    good = [stop for stop in stops if not stop.broken]
    print(
        f"{len(good)} of {options.times} stops ended with status 0 and lost nothing; drain_seconds is "
        f"{options.drain_seconds:g}, the longest stop took {max(stop.seconds for stop in stops):.2f} s"
    )
    return int(len(good) < options.times)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
