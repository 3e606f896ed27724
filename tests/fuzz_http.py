"""A fuzzer against the API port and the ingest socket while deliveries run.

`python -m tests.fuzz_http --requests 100000 --seed N` starts a server process, a receiver and a producer on its socket,
and sends mutated requests and long runs of characters to the port, with an admin's key, and such lines to the socket.
It fails if the process ends; on an answer that no HTTP server should give (any 5xx but 501 for a transfer coding, 503
with Retry-After and 505); on half an answer; on a line of the socket that is no result; if a connection hangs; on a
traceback in the log; if deliveries stop; and on a stall of the event loop: a step of more than 100 ms of CPU, or
`/healthz`, requested every 20 ms, whose answer took more than two seconds of the loop's CPU time. `--only NUMBER` sends
one case of a seed again and shows the answer.
"""

import argparse
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import trio

from tests.admin.raw import Reply, split_replies
from tests.e2e.harness import CONFIG, Server, running
from tests.fuzz_cases import RUNS, Case, Cases, Door, Names, numbered
from tests.fuzz_watch import HANG_SECONDS, MOST_LAG_SECONDS, STEADY, Finding, LoopWatch, Traffic
from tests.launcher import program
from tests.receiver import Receiver

_WORKERS = 24
_CSRF = re.compile(r'name="csrf" value="([^"]+)"')
_SIGNS_OF_A_BUG = ("http.request_failed", "http.connection_failed", "Traceback", '"status":500')


@dataclass(slots=True)
class Report:
    """The result of a run."""

    statuses: Counter[int] = field(default_factory=Counter)
    unanswered: int = 0
    cases: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    delivered: int = 0
    worst_lag_seconds: float = 0.0
    probes: int = 0
    worst_probe_seconds: float = 0.0
    under_way: dict[int, Case] = field(default_factory=dict)


async def attack(
    address: tuple[str, int],
    cases: Iterable[Case],
    *,
    socket: Path | None = None,
    report: Report | None = None,
    is_alive: Callable[[], bool],
    hang_seconds: float = HANG_SECONDS,
    workers: int = _WORKERS,
) -> Report:
    """Send the cases with several workers; stop early only if the server is gone.

    Without a `socket` its cases are left out. Results are added to `report` during the run.
    """
    report = Report() if report is None else report
    waiting: Iterator[Case] = iter(cases)
    began = time.monotonic()

    async def work() -> None:
        for case in waiting:
            if not is_alive():
                report.findings.append(Finding("the server is gone", case))
                return
            report.cases += 1
            if case.door is Door.SOCKET and socket is None:
                continue
            place = address if case.door is Door.PORT or socket is None else socket
            report.under_way[case.number] = case
            report.findings += await _send(place, case, report, hang_seconds)
            del report.under_way[case.number]

    async with trio.open_nursery() as nursery:
        for _ in range(workers):
            nursery.start_soon(work)
    report.seconds = time.monotonic() - began
    if not is_alive() and not report.findings:
        report.findings.append(Finding("the server is gone"))
    return report


async def _send(place: tuple[str, int] | Path, case: Case, report: Report, hang_seconds: float) -> list[Finding]:
    received = bytearray()
    was_reset = False

    async def read(stream: trio.SocketStream) -> None:
        # In parallel to sending: a server whose answers aren't read stops reading requests.
        nonlocal was_reset
        try:
            while chunk := await stream.receive_some():
                received.extend(chunk)
                # The answer to a hundred thousand lines takes a while: only silence is a hang.
                silence.deadline = trio.current_time() + hang_seconds
        except trio.BrokenResourceError:
            was_reset = True

    try:
        with trio.fail_after(hang_seconds) as silence:
            stream = (
                await trio.open_unix_socket(place) if isinstance(place, Path) else await trio.open_tcp_stream(*place)
            )
            async with stream, trio.open_nursery() as nursery:
                nursery.start_soon(read, stream)
                try:
                    for piece in case.pieces:
                        await stream.send_all(piece)
                        await trio.lowlevel.checkpoint()
                    if case.ends:
                        await stream.send_eof()
                    else:
                        nursery.cancel_scope.cancel()
                except trio.BrokenResourceError:
                    was_reset = True
    except trio.TooSlowError:
        return [Finding(f"the connection hangs for {hang_seconds:g} s; received {bytes(received[:200])!r}", case)]
    except OSError as error:
        return [Finding(f"no connection: {error}", case)]
    if case.door is Door.SOCKET:
        return [] if are_results(bytes(received)) else [Finding(f"no results: {bytes(received)[-300:]!r}", case)]
    replies, rest = split_replies(bytes(received))
    report.statuses.update(reply.status for reply in replies)
    report.unanswered += not replies
    findings = [Finding(f"answered {bad.status}: {bad.body[:300]!r}", case) for bad in replies if not is_right(bad)]
    # A stream of results for a broken request ends without the last chunk, which tells the client.
    is_stream = b"application/x-ndjson" in rest.partition(b"\r\n\r\n")[0]
    if rest and case.ends and not was_reset and not is_stream:
        findings.append(Finding(f"half an answer: {rest[:300]!r}", case))
    return findings


def are_results(received: bytes) -> bool:
    """Whether a producer got only whole result lines, and at least one event was accepted."""
    # Not decoded: there may be a hundred thousand lines. Within a text, quotes would be escaped.
    taken, refused = received.count(b'"ok":true}\n'), received.count(b'"ok":false}\n')
    return received.endswith(b"\n") and taken > 0 and taken + refused == received.count(b"\n")


def is_right(reply: Reply) -> bool:
    """Whether the status of an answer is allowed."""
    match reply.status:
        case 501:
            return b"transfer coding" in reply.body or not reply.body
        case 503:
            return "retry-after" in reply.headers
        case 505:
            return True
        case status:
            return status < 500


async def fuzz(
    directory: Path, seed: int, first: int, count: int, *, plant: str | None = None, runs: float = RUNS
) -> Report:
    """Run a server in `directory` under `count` cases; `plant` names a planted fault of the launcher."""
    receiver = Receiver()
    async with trio.open_nursery() as nursery:
        await nursery.start(receiver.run)
        config = CONFIG.replace("ports = []", f"ports = [{receiver.port}]")
        config += "[events]\nunknown_event_types = 'accept'\n"
        steps = directory / "steps"
        plants = () if plant is None else (plant,)
        async with running(directory, config, program=program(*plants, steps=steps)) as server:
            await server.webhook(receiver.url + STEADY, events=["user.created"])
            names = await _names(server, receiver)
            traffic = Traffic(server, receiver)
            findings: list[Finding] = []

            async def watch() -> None:
                while True:
                    await trio.sleep(0.5)
                    late = traffic.overdue()
                    if late:
                        findings.append(Finding(f"{len(late)} events not delivered after {MOST_LAG_SECONDS:g} s"))
                        return

            process = server.process
            assert process is not None
            host, port = server.url.removeprefix("http://").split(":")
            cases = numbered(Cases(seed, names, runs=runs), first, count)
            report = Report()
            loop = LoopWatch(server, steps, report.under_way)
            async with trio.open_nursery() as beside:
                beside.start_soon(traffic.run)
                beside.start_soon(watch)
                beside.start_soon(loop.run)
                await attack(
                    (host, int(port)),
                    cases,
                    is_alive=lambda: process.returncode is None,
                    socket=server.socket,
                    report=report,
                )
                beside.cancel_scope.cancel()
            with trio.move_on_after(MOST_LAG_SECONDS):
                while traffic.accepted:
                    await trio.sleep(0.05)
                    traffic.look()
            loop.look()
            report.findings += findings + loop.findings
            report.probes, report.worst_probe_seconds = loop.probes, loop.worst_probe_seconds
            if traffic.accepted or not traffic.delivered:
                report.findings.append(Finding(f"{len(traffic.accepted)} events of the traffic were not delivered"))
            report.delivered, report.worst_lag_seconds = traffic.delivered, traffic.worst_lag_seconds
            report.findings += await _last_look(server)
        nursery.cancel_scope.cancel()
    return report


async def _names(server: Server, receiver: Receiver) -> Names:
    hook = await server.webhook(f"{receiver.url}/fuzzed", events=["fuzz.*"], timeoutSeconds=1)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        client.headers["authorization"] = f"Bearer {server.first_key}"
        event = (await client.post("/api/events", json={"type": "fuzz.event", "data": {}})).json()
        del client.headers["authorization"]
        session = await client.post("/sign-in", data={"key": server.first_key})
        csrf = _CSRF.search((await client.get("/")).text)
        assert csrf is not None
    [delivery] = await server.deliveries(hook["id"])
    return Names(
        key=server.first_key,
        webhook_id=hook["id"],
        delivery_id=delivery["id"],
        event_id=event["id"],
        receiver_url=receiver.url,
        cookie=session.headers["set-cookie"].partition(";")[0],
        csrf=csrf[1],
    )


async def _last_look(server: Server) -> list[Finding]:
    findings = []
    process = server.process
    if process is None or process.returncode is not None:
        return [Finding(f"the process ended; the end of its log: {server.log()[-2000:]}")]
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{server.url}/healthz", timeout=10)
    if answer.status_code != 200:
        findings.append(Finding(f"/healthz answers {answer.status_code}"))
    if (status := await server.stop()) != 0:
        findings.append(Finding(f"the process exits with {status}"))
    lines = server.log().splitlines()
    return findings + [
        Finding(f"in the log: {line[:3000]}") for line in lines if any(sign in line for sign in _SIGNS_OF_A_BUG)
    ]


def main() -> int:
    """Run the fuzzer; exit with 1 if something was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="send one case of the seed, and show it")
    asked = parser.parse_args()
    first, count = (0, asked.requests) if asked.only is None else (asked.only, 1)
    with tempfile.TemporaryDirectory(prefix="webhookd-fuzz-") as directory:
        report = trio.run(partial(fuzz, Path(directory), asked.seed, first, count))
    print(f"seed {asked.seed}: {report.cases} cases in {report.seconds:.0f} s, {report.unanswered} without an answer")
    print("answers: " + ", ".join(f"{status}: {times}" for status, times in sorted(report.statuses.items())))
    worst_ms = report.worst_probe_seconds * 1000
    print(f"/healthz was asked {report.probes} times and came at the latest after {worst_ms:.0f} ms")
    print(f"meanwhile {report.delivered} deliveries, the slowest after {report.worst_lag_seconds * 1000:.0f} ms")
    for finding in report.findings[:20]:
        print(f"FOUND: {finding}")
    print(f"{len(report.findings)} findings")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
