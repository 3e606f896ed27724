"""What 50 bombs at once cost a sender: bounded memory, and no healthy delivery that is late for them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.delivery.bombs import BOMBS

ROOT = Path(__file__).parents[2]
MOST_BYTES = 16 * 1024 * 1024
MOST_SECONDS = 0.1
ROUNDS = 3


@dataclass(frozen=True)
class Cost:
    """What one round came to: how late the latest healthy delivery was, and how much of that was the sender's work."""

    memory_bytes: int
    late_seconds: float
    late_by_own_work_seconds: float
    became: dict[str, int]


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", *arguments]
    started = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[str, str]]:
    """Give the bombs' places and a healthy receiver's URL."""
    with ExitStack() as stack:
        bombs = stack.enter_context(process("tests.delivery.bombs", "serve"))
        sink = stack.enter_context(process("tests.bench.sink", "count"))
        assert bombs.stdout is not None
        assert sink.stdout is not None
        yield bombs.stdout.readline(), f"http://127.0.0.1:{int(sink.stdout.readline())}/"


def measure(world: tuple[str, str], *how: str) -> Cost:
    with process("tests.delivery.bombs", "send", *world, *how) as sender:
        found = json.loads(sender.communicate(timeout=60)[0])
    return Cost(found["memory"], found["late"], found["late_by_own_work"], found["became"])


@pytest.mark.parametrize("way", ["directly", "through-a-proxy"])
def test_fifty_bombs_at_once_cost_little(world: tuple[str, str], way: str) -> None:
    """50 bodies, heads and bombs without end add less than 16 MiB, and no healthy delivery is 100 ms late for them.

    On a machine that is busy with other things a delivery may be late for their sake: then it counts how much of that
    the sender itself was at work, and it may be asked again.
    """
    for left in reversed(range(ROUNDS)):
        cost = measure(world, way)
        assert cost.memory_bytes < MOST_BYTES, cost
        assert sum(cost.became.values()) >= BOMBS, cost
        assert {"200", "protocol"} <= set(cost.became) <= {"200", "protocol", "timeout"}, cost
        if min(cost.late_seconds, cost.late_by_own_work_seconds) < MOST_SECONDS:
            return
        assert left, cost


def test_a_client_that_decodes_is_noticed(world: tuple[str, str]) -> None:
    """The planted fault: one bomb, read as an ordinary client reads it, shows in the memory and in the delays."""
    cost = measure(world, "carelessly")
    assert cost.became == {"64000000": 1}
    assert cost.memory_bytes > MOST_BYTES
    assert min(cost.late_seconds, cost.late_by_own_work_seconds) > MOST_SECONDS
