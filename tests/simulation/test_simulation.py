"""The simulation's seeds, that each is repeatable, and that every planted bug is found."""

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
# One of each place where bugs are planted: the journal, the sender, the router, a connection and a clock.
QUICK = {"acks before the commit", "sends twice where no answer came", "ignores the order", "answers out of turn",
         "trusts the wall clock"}  # fmt: skip


@pytest.mark.parametrize("first", long(range(0, SEEDS, GROUP), lambda first: first >= QUICK_SEEDS))
def test_seeds_break_no_promise(first: int) -> None:
    """Whatever receivers, disks, clocks and crashes do, each promise holds and everything arrives."""
    results = [play(seed) for seed in range(first, first + GROUP)]
    assert {result.seed: result.violations for result in results if result.violations} == {}
    assert sum(result.kills for result in results) > 0
    assert sum(result.requests for result in results) > 250


@pytest.mark.parametrize("seed", long(range(SEEDS_ABOUT_TIME), lambda seed: seed >= QUICK_ABOUT_TIME))
def test_clocks_break_no_promise(seed: int) -> None:
    """Clocks that are set by a day or a year, again and again, and machines that sleep, break none either."""
    result = play(seed, is_about_time=True)
    assert not result.violations
    assert result.requests > 0


def test_a_seed_is_repeatable() -> None:
    """Two processes that hash differently play a seed alike, and another seed otherwise."""
    other = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    assert _hash_in_a_process(seed=1, hash_seed=other) == play(1).hash != play(2).hash


def test_a_long_run_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    """A seed that is in the log isn't played again; one whose line was cut off is, and its line is whole then."""
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
    """The simulation finds each bug that is planted on purpose within its first seeds."""
    assert find(name) is not None
