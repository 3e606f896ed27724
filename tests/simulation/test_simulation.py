"""The simulation's seeds, that each is repeatable, and that every planted bug is found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.__main__ import find
from tests.simulation.driver import play
from tests.simulation.planted import PLANTED

ROOT = Path(__file__).parents[2]
SEEDS = 200
SEEDS_ABOUT_TIME = 10
GROUP = 10


@pytest.mark.parametrize("first", range(0, SEEDS, GROUP))
def test_seeds_break_no_promise(first: int) -> None:
    """Whatever receivers, disks, clocks and crashes do, each promise holds and everything arrives."""
    results = [play(seed) for seed in range(first, first + GROUP)]
    assert {result.seed: result.violations for result in results if result.violations} == {}
    assert sum(result.kills for result in results) > 0
    assert sum(result.requests for result in results) > 500


@pytest.mark.parametrize("first", range(0, SEEDS_ABOUT_TIME, GROUP))
def test_clocks_break_no_promise(first: int) -> None:
    """Clocks that are set by a day or a year, again and again, and machines that sleep, break none either."""
    results = [play(seed, is_about_time=True) for seed in range(first, first + GROUP)]
    assert {result.seed: result.violations for result in results if result.violations} == {}
    assert sum(result.requests for result in results) > 500


def test_a_seed_is_repeatable() -> None:
    """Two processes that hash differently play a seed alike, and another seed otherwise."""
    hashes = [_hash_in_a_process(seed=1, hash_seed=hash_seed) for hash_seed in ("1", "2")]
    assert hashes[0] == hashes[1] == play(1).hash
    assert play(2).hash != hashes[0]


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


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name: str) -> None:
    """The simulation finds each bug that is planted on purpose within its first seeds."""
    assert find(name) is not None
