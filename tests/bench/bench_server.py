"""How many durable deliveries a second the whole server makes, against a yardstick in the same run.

`python -m tests.bench.bench_server [EVENTS]` starts the real server, a receiver that costs little, and a producer on
the socket, and prints for each case deliveries a second, CPU a delivery, peak memory, and their ratio to the yardstick:
a bare loop that posts the same bytes over 50 kept connections to the same receiver. The yardstick runs before and after
each case, since it wanders on a shared machine. Each event of 1 KiB goes to one of the endpoints.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import httptools
import trio

from tests.bench.bench_sender import HEADERS
from webhookd.cli.child import serving
from webhookd.cli.control import Control

CONFIG = """
[server]
port = 0
control_socket = "control.sock"
[ingest]
socket = "ingest.sock"
[journal]
path = "webhookd.db"
[egress]
allow_http = true
ports = []
allow_networks = ["127.0.0.0/8"]
[log]
level = "warning"
"""
PAD = "x" * 900
YARDSTICK_CONNECTIONS = 50
YARDSTICK_REQUESTS = 20_000


class SinkProcess:
    """The receiver, and how much it has seen."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        self._process = process
        self.port = int(process.stdout.readline())

    def seen(self) -> tuple[int, float]:
        """Return the number of requests and the time of the last."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        number, at = self._process.stdout.readline().split()
        return int(number), float(at)


@contextmanager
def sink() -> Iterator[SinkProcess]:
    """Run the receiver."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.sink"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield SinkProcess(process)
        assert process.stdin is not None
        process.stdin.close()


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mebibytes(pid: int) -> float:
    """Return the peak resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


class _Answer:
    """Learns when an answer is whole."""

    is_whole = False

    def on_message_complete(self) -> None:
        """Note it."""
        self.is_whole = True


async def _post(port: int, request: bytes, count: int) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        for _ in range(count):
            answer = _Answer()
            parser = httptools.HttpResponseParser(answer)
            await stream.send_all(request)
            while not answer.is_whole:
                parser.feed_data(await stream.receive_some(16_384))


async def _post_all(port: int, request: bytes) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(YARDSTICK_CONNECTIONS):
            nursery.start_soon(_post, port, request, YARDSTICK_REQUESTS // YARDSTICK_CONNECTIONS)


def yardstick(port: int) -> tuple[float, float]:
    """Return requests a second and CPU microseconds a request of the bare loop."""
    body = json.dumps({"id": "evt_1", "type": "user.created", "timestamp": "", "data": {"pad": PAD}}).encode()
    head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS)
    request = f"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\n{head}content-length: {len(body)}\r\n\r\n".encode() + body
    began, cpu = time.perf_counter(), time.process_time()
    trio.run(_post_all, port, request)
    seconds = time.perf_counter() - began
    return YARDSTICK_REQUESTS / seconds, (time.process_time() - cpu) / YARDSTICK_REQUESTS * 1e6


def produce(path: Path, endpoints: int, events: int) -> None:
    """Send events, pipelined, and read every answer."""
    lines = [
        json.dumps({"type": "user.created", "data": {"pad": PAD}, "organizationId": f"o{number}"}).encode() + b"\n"
        for number in range(endpoints)
    ]
    with socket.socket(socket.AF_UNIX) as producer:
        producer.connect(str(path))
        answered = 0
        sent = 0
        buffer = b""
        while answered < events:
            while sent < events and sent - answered < 1000:
                batch = b"".join(lines[number % endpoints] for number in range(sent, min(sent + 200, events)))
                producer.sendall(batch)
                sent = min(sent + 200, events)
            buffer += producer.recv(262_144)
            *whole, buffer = buffer.split(b"\n")
            for line in whole:
                assert line.endswith(b'"ok":true}'), line
            answered += len(whole)


@dataclass
class Case:
    """One set-up: how many endpoints, and what they ask for."""

    name: str
    endpoints: int
    settings: dict[str, Any]


CASES = (
    Case("50 strict endpoints", 50, {}),
    Case("1 endpoint, no order, 32 wide", 1, {"ordering": "none", "concurrency": 32}),
)


def run(case: Case, receiver: SinkProcess, events: int) -> dict[str, float]:
    """Run one case on a fresh journal and return its figures."""
    with tempfile.TemporaryDirectory(prefix="webhookd-bench-") as name:
        directory = Path(name)
        config = directory / "config.toml"
        config.write_text(CONFIG)
        with serving(config) as _:
            control = Control(directory / "control.sock")
            for number in range(case.endpoints):
                body = {
                    "url": f"http://127.0.0.1:{receiver.port}/",
                    "events": ["*"],
                    "organizationId": f"o{number}",
                    **case.settings,
                }
                control.post("/api/webhooks", body, dict[str, Any])
            pid = _server_pid(directory)
            produce(directory / "ingest.sock", case.endpoints, events // 20)  # warm up
            before, _ = _settled(receiver, receiver.seen()[0], events // 20)
            cpu, began = cpu_seconds(pid), time.monotonic()
            produce(directory / "ingest.sock", case.endpoints, events)
            _, ended = _settled(receiver, before, events)
            seconds = ended - began
            return {
                "deliveries_per_second": events / seconds,
                "cpu_microseconds": (cpu_seconds(pid) - cpu) / events * 1e6,
                "peak_mebibytes": peak_mebibytes(pid),
            }


def _settled(receiver: SinkProcess, before: int, count: int) -> tuple[int, float]:
    idle = 0
    seen, at = receiver.seen()
    while idle < 3:
        Event().wait(0.1)
        now, at = receiver.seen()
        idle = idle + 1 if now == seen else 0
        seen = now
    return seen, at


def _server_pid(directory: Path) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(directory).encode() in command:
                return int(entry.name)
    raise AssertionError("the server is not there")


def main(events: int) -> None:
    """Run every case between two yardsticks; print a table, then the same as JSON."""
    results = []
    with sink() as receiver:
        for case in CASES:
            first, first_cpu = yardstick(receiver.port)
            figures = run(case, receiver, events)
            second, second_cpu = yardstick(receiver.port)
            rate, cpu = (first + second) / 2, (first_cpu + second_cpu) / 2
            figures |= {
                "yardstick_per_second": rate,
                "ratio": figures["deliveries_per_second"] / rate,
                "cpu_ratio": figures["cpu_microseconds"] / cpu,
            }
            results.append({"case": case.name, **{name: round(value, 2) for name, value in figures.items()}})
            print(
                f"{case.name:32} {figures['deliveries_per_second']:7.0f}/s = {figures['ratio']:.2f} Y   "
                f"{figures['cpu_microseconds']:5.0f} us CPU = {figures['cpu_ratio']:.2f} Y   "
                f"{figures['peak_mebibytes']:5.0f} MiB   (Y {first:.0f} and {second:.0f}/s)",
                flush=True,
            )
    print(json.dumps(results))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
