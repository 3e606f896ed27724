"""The seeds of the simulation break no promise, are repeatable, and find every planted bug."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.long import long
from tests.simulation.__main__ import find, main
from tests.simulation.driver import play
from tests.simulation.planted import PLANTED

ROOT = Path(__file__).parents[2]
SEEDS, QUICK_SEEDS = 200, 5
SEEDS_ABOUT_TIME, QUICK_ABOUT_TIME = 10, 2
GROUP = 5
# One for each part that bugs replace: the journal, the sender, the router, a connection and a clock.
QUICK = {"loses attempts", "sends twice without an answer", "ignores the order",
         "answers in the wrong order", "trusts the wall clock"}  # fmt: skip


@pytest.mark.parametrize("first", long(range(0, SEEDS, GROUP), lambda first: first >= QUICK_SEEDS))
def test_seeds_break_no_promise(first: int) -> None:
    """With failing receivers, full disks, changed clocks and crashes, no promise is broken."""
    results = [play(seed) for seed in range(first, first + GROUP)]
    assert {result.seed: result.violations for result in results if result.violations} == {}
    assert sum(result.kills for result in results) > 0
    assert sum(result.requests for result in results) > 250


@pytest.mark.parametrize("seed", long(range(SEEDS_ABOUT_TIME), lambda seed: seed >= QUICK_ABOUT_TIME))
def test_clocks_break_no_promise(seed: int) -> None:
    """With clocks that are often set by up to a year, and suspends, no promise is broken."""
    result = play(seed, is_about_time=True)
    assert not result.violations
    assert result.requests > 0


def test_a_seed_is_repeatable() -> None:
    """A seed has the same trace in two processes with different hash seeds, and another seed has another trace."""
    other = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    assert _hash_in_a_process(seed=1, hash_seed=other) == play(1).hash != play(2).hash


def test_an_interrupted_run_continues_where_it_stopped(tmp_path: Path) -> None:
    """A seed in the log is not played again; one with an incomplete line is, and its line is then complete."""
    log = tmp_path / "log"
    assert main(["--first", "1", "--seeds", "2", "--jobs", "2", "--log", str(log)]) == 0
    first, second = log.read_bytes().splitlines(keepends=True)
    kept = first.replace(b'"violations":[]', b'"violations":["kept"]')
    log.write_bytes(kept + second[:20])
    assert main(["--first", "1", "--seeds", "2", "--log", str(log)]) == 1
    assert log.read_bytes() == kept + second


def _hash_in_a_process(*, seed: int, hash_seed: str) -> str:
    code = f"from tests.simulation.driver import play; print(play({seed}).hash)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=dict(os.environ) | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.split()[-1]


@pytest.mark.parametrize("name", long(PLANTED, lambda name: name not in QUICK))
def test_a_planted_bug_is_found(name: str) -> None:
    """The simulation finds each planted bug within its first seeds."""
    assert find(name) is not None
