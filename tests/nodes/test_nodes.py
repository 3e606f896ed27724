"""Nodes that are killed, stopped and cut off; what the audit must notice by itself; planted faults."""

import re
from pathlib import Path
from typing import get_args

import pytest
import trio

from tests.long import long
from tests.nodes.__main__ import find, main
from tests.nodes.audit import Stored, late_requests, out_of_order, too_fast
from tests.nodes.namespaces import why_not
from tests.nodes.planted import PLANTED
from tests.nodes.play import play
from tests.nodes.producers import FAST, Ledger
from tests.nodes.receivers import Exchange, Watched
from tests.nodes.scenarios import SCENARIOS, STAGES
from tests.nodes.schedules import run_schedule
from tests.nodes.witness import Owners, Take
from webhookd.base.stages import NodeStage

ROOT = Path(__file__).parents[2]
QUICK_SCENARIOS = {"kill-server"}


# httpx leaves a generator unfinished where a server is killed in the middle of a request.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", long(SCENARIOS, lambda name: name not in QUICK_SCENARIOS))
async def test_nodes_keep_their_promises(tmp_path: Path, name: str) -> None:
    """Whatever is done to a node or to the database, nothing that was promised is broken, and all go on."""
    scenario = SCENARIOS[name]
    report = await play(tmp_path, scenario.body, has_cable=scenario.needs_cable)
    assert report.problems == []
    assert report.acknowledged


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_nodes_keep_their_promises_whatever_happens(tmp_path: Path, seed: int) -> None:
    """Several faults one after the other, each in the state that the ones before have left."""
    report = await play(tmp_path, run_schedule, has_cable=not why_not(), seed=seed)
    assert report.problems == []
    assert report.drawn


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
async def test_a_planted_fault_is_found(name: str) -> None:
    """Each fault breaks a promise that its scenario checks; without it the same scenario holds (above)."""
    if SCENARIOS[PLANTED[name].found_by].needs_cable and (reason := why_not()):
        pytest.skip(reason)
    assert await trio.to_thread.run_sync(find, name)


def test_nodes_are_stopped_at_every_stage_of_theirs() -> None:
    """The product marks each stage of nodes once, a scenario stops a process there, and the page names all faults."""
    sources = [path.read_text() for path in (ROOT / "webhookd" / "journal" / "postgres").glob("*.py")]
    marked = [stage for source in sources for stage in re.findall(r'\breached\("([^"]+)"\)', source)]
    for stage in get_args(NodeStage):
        assert marked.count(stage) == 1
        assert stage in STAGES
    page = (ROOT / "docs" / "reliability.md").read_text()
    assert f"plants each of {len(PLANTED)} faults" in page
    assert {fault.found_by for fault in PLANTED.values()} <= SCENARIOS.keys()


def test_scenarios_can_be_listed_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    """`--list` prints every scenario, and an unknown name is a usage error."""
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [*SCENARIOS]
    with pytest.raises(SystemExit, match="2"):
        main(["nothing-of-the-kind"])


def taken(at: float, before: str | None, node: str | None) -> Take:
    return Take(slot=1, before=before, node=node, was_living=False, at=at)


def request(at: float, connection: int, process: str, sequence: int = 1) -> Exchange:
    return Exchange(
        at=at,
        connection=connection,
        process=process,
        event=f"p-{sequence}",
        attempt=(f"d{sequence}", 1),
        sequence=sequence,
        is_good=True,
    )


def test_requests_after_a_take_are_late_only_from_another_process() -> None:
    """They are counted for each connection: a second one on the same connection began after the take."""
    owners = Owners([taken(1.0, None, "one.1"), taken(5.0, "one.1", "two.1"), taken(9.0, "two.1", "one.2")])
    on_time = [request(2.0, 1, "one"), request(6.0, 2, "two"), request(10.0, 1, "one")]
    assert late_requests(Watched(path="/", pk=1, exchanges=on_time), owners).total() == 0
    late = [request(6.0, 1, "one"), request(7.0, 1, "one"), request(7.0, 3, "one")]
    found = late_requests(Watched(path="/", pk=1, exchanges=on_time + late), owners)
    assert sorted(found.values()) == [1, 2]


def test_a_rate_is_exceeded_by_one_request_too_many() -> None:
    """A burst, a request that has waited for its body and the tokens of the time may, and one for each new owner."""
    watched = Watched(path="/", pk=1, rate=10.0, burst=2)

    def attempts(*times: float) -> Stored:
        return Stored(deliveries={}, attempts={(f"d{number}", 1): (200, at) for number, at in enumerate(times)})

    assert list(too_fast(watched, Owners([]), attempts(0.0, 0.0, 0.0, 0.1, 0.2))) == []
    assert len(list(too_fast(watched, Owners([]), attempts(0.0, 0.0, 0.0, 0.05)))) == 1
    assert list(too_fast(watched, Owners([taken(0.01, "one.1", "two.1")]), attempts(0.0, 0.0, 0.0, 0.05))) == []


def test_what_overtakes_is_noticed() -> None:
    """A producer's events keep their order in the sequences, and firsts follow the sequences; repeats don't matter."""
    ledger = Ledger()
    for number in (1, 2, 3):
        ledger.submit("p", number, FAST)
    stored = Stored(
        deliveries={f"d{number}": (f"p-{number}", number, "succeeded") for number in (1, 2, 3)}, attempts={}
    )
    good = [request(1, 1, "one", 1), request(2, 1, "one", 2), request(3, 2, "two", 1), request(4, 2, "two", 3)]
    assert list(out_of_order(Watched(path="/", pk=1, exchanges=good), ledger, stored)) == []
    swapped = Watched(path="/", pk=1, exchanges=[good[0], good[3], good[1]])
    assert len(list(out_of_order(swapped, ledger, stored))) == 2
    stored.deliveries["d1"], stored.deliveries["d2"] = ("p-2", 1, "succeeded"), ("p-1", 2, "succeeded")
    assert any("later sequence" in problem for problem in out_of_order(Watched(path="/", pk=1), ledger, stored))
