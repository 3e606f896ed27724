"""A sender under bombs, measured in a process of its own.

`serve` is the other side: bombs of every kind on ports of their own and a proxy before them, which it prints. `send`
keeps 50 bombs in flight until each has gone off, delivers to healthy receivers meanwhile, and prints what the bombs
cost: memory at its peak over what it was before, and the longest step for which the event loop, and with it every
other delivery, had to wait. Given `carelessly`, the planted fault, it reads what receivers send as an ordinary HTTP
client would.
"""

import gzip
import hashlib
import json
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import trio

from tests.delivery.hostile import Hostile, Proxy, Script, forever, saying
from tests.delivery.out import Out, sending
from tests.patience import PATIENCE_SECONDS
from webhookd.config import EgressConfig, LogConfig
from webhookd.observe import logs

BOMBS = 50
HEALTHY = 10
DELIVERIES = 50

HEAD = b"HTTP/1.1 200 OK\r\n"
ZEROS = gzip.compress(bytes(4_000_000))
ALL_AT_ONCE = gzip.compress(bytes(64_000_000), compresslevel=6)
KINDS: dict[str, Script] = {
    "gzip without end": forever(HEAD + b"content-encoding: gzip\r\n\r\n", ZEROS),
    "gzip": saying(HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(ALL_AT_ONCE) + ALL_AT_ONCE),
    "deflate": forever(HEAD + b"content-encoding: deflate\r\n\r\n", bytes(65_536)),
    "chunks": forever(HEAD + b"transfer-encoding: chunked\r\n\r\n", b"10000\r\n" + bytes(65_536) + b"\r\n"),
    "small chunks": forever(HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 4096),
    "a terabyte": forever(HEAD + b"content-length: 1000000000000\r\n\r\n", bytes(65_536)),
    "until it closes": forever(HEAD + b"\r\n", bytes(65_536)),
    "headers": forever(HEAD, b"x: " + b"y" * 1000 + b"\r\n"),
    "small headers": forever(HEAD, b"a: b\r\n" * 1000),
    "one header": forever(HEAD + b"x: ", b"y" * 65_536),
    "interim answers": forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 500),
    "drips": forever(HEAD + b"x: ", b"y", pause=0.02),
}


async def serve() -> None:
    async with trio.open_nursery() as nursery:
        proxy = await nursery.start(Proxy().run)
        bombs = [(await nursery.start(Hostile(script).run)).url for script in KINDS.values()]
        print(json.dumps({"proxy": proxy.url, "bombs": bombs}), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


class Steps(trio.abc.Instrument):
    """The longest step of the event loop, in processor time of its own thread: what others do adds nothing to it."""

    def __init__(self) -> None:
        self.longest_seconds = 0.0
        self._began = time.thread_time()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.longest_seconds = max(self.longest_seconds, time.thread_time() - self._began)


async def send(place: dict[str, list[str]], healthy: str, *, proxy: str | None, is_careless: bool) -> None:
    config = EgressConfig(allow_http=True, ports=(), allow_networks=("127.0.0.0/8",), proxy=proxy)
    became: Counter[str] = Counter()
    gone_off: set[int] = set()
    async with sending(config) as out:
        for number in range(HEALTHY):
            await out.send(healthy, endpoint_id=f"healthy {number}")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _memory("VmHWM")
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        async with trio.open_nursery() as nursery:
            if is_careless:
                nursery.start_soon(_read_all, place["bombs"][1], became, gone_off)
            else:
                for number in range(BOMBS):
                    url = place["bombs"][number % len(place["bombs"])]
                    nursery.start_soon(_detonate, out, url, number, became, gone_off)
            number = 0
            while number < DELIVERIES or len(gone_off) < (1 if is_careless else BOMBS):
                outcome = await out.send(healthy, seconds=PATIENCE_SECONDS, endpoint_id=f"healthy {number % HEALTHY}")
                assert outcome.status == 200, outcome
                number += 1
            nursery.cancel_scope.cancel()
        trio.lowlevel.remove_instrument(steps)
        peak = _memory("VmHWM")
    found = {"memory": peak - before, "longest_step": steps.longest_seconds, "became": became}
    print(json.dumps(found), flush=True)


async def _detonate(out: Out, url: str, number: int, became: Counter[str], gone_off: set[int]) -> None:
    """Ask a bomb again and again; those that drip have a deadline, the others an end."""
    seconds = 0.5 if number % len(KINDS) == list(KINDS).index("drips") else PATIENCE_SECONDS
    while True:
        outcome = await out.send(url, seconds=seconds, endpoint_id=f"wh_{number}")
        became[str(outcome.error or outcome.status)] += 1
        gone_off.add(number)


async def _read_all(url: str, became: Counter[str], gone_off: set[int]) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(url, content=b"{}", timeout=PATIENCE_SECONDS)
        for _ in range(6):
            hashlib.sha3_512(answer.content)  # whatever is done with it takes its time too
        became[str(len(answer.content))] += 1
        gone_off.add(0)


def _memory(name: str) -> int:
    """Return a size of this process in bytes, as the kernel tells it."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


if __name__ == "__main__":
    logs.configure(LogConfig(level="error", format="json"))
    if sys.argv[1] == "serve":
        trio.run(serve)
    else:
        given = json.loads(sys.argv[2])
        way_out = given["proxy"] if "through-a-proxy" in sys.argv else None
        careless = "carelessly" in sys.argv
        trio.run(lambda: send(given, sys.argv[3], proxy=way_out, is_careless=careless))
