"""The comparison with Svix and Outpost, driven against stand-ins: neither of the two servers runs here.

The stand-ins of tests/bench/stand_ins.py answer the documented calls of both and post the events at once. So these
tests pin what the driver asks for, what it counts and what it reports, and say nothing about the speed of the two.
Everything that is dialed is on loopback.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.bench.peers import main
from tests.bench.stand_ins import KEY

LOAD = (
    "--endpoints",
    "4",
    "--deliveries",
    "40",
    "--repeats",
    "1",
    "--rate",
    "50",
    "--seconds",
    "1",
    "--patience",
    "60",
)
BASES = {"svix": "", "outpost": "/api/v1"}
CALLS = {
    "svix": ("create_application", "create_endpoint", "create_message", "delete_application"),
    "outpost": ("upsert_tenant", "create_destination", "publish", "delete_tenant"),
}


@dataclass(slots=True)
class Run:
    """A finished run of the driver: its status, its output, its JSON, and what the stand-in has answered."""

    status: int
    out: str
    document: dict[str, Any]
    calls: dict[str, int]
    left: list[str]

    def result(self, name: str) -> dict[str, Any]:
        """Return the result of a case."""
        [found] = [each for each in self.document["results"] if each["case"] == name]
        return dict(found)


@contextmanager
def stand_in(peer: str, fault: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    command = [sys.executable, "-m", "tests.bench.stand_ins", peer, fault]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, f"http://127.0.0.1:{int(process.stdout.readline())}{BASES[peer]}"
        finally:
            process.kill()


Drive = Callable[..., Run]


@pytest.fixture
def drive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Drive:
    """Return a function that runs cases against a stand-in."""

    def run(peer: str, *names: str, fault: str = "", key: str = KEY, load: Sequence[str] = LOAD) -> Run:
        (tmp_path / "key").write_text(f"{key}\n")
        file = tmp_path / "figures.json"
        with stand_in(peer, fault) as (process, url):
            options = ["--key-file", str(tmp_path / "key"), "--pid", str(process.pid), "--json", str(file)]
            status = main([peer, url, *names, *options, *load])
            told = json.loads(process.communicate()[0])
        out = " ".join(capsys.readouterr().out.split())
        return Run(status, out, json.loads(file.read_text()), told["calls"], told["left"])

    return run


@pytest.mark.parametrize(
    ("peer", "case", "customers", "events"),
    [
        # A customer for each of the 4 endpoints, 40 events, and a tenth to warm up.
        pytest.param("svix", "one-to-one", 4, 40 + 4, marks=pytest.mark.slow),
        # One customer with all 4, and 10 events.
        ("outpost", "fan-out", 1, 10 + 1),
    ],
)
def test_each_event_is_posted_once_and_counted(peer: str, case: str, customers: int, events: int, drive: Drive) -> None:
    """Endpoints are made, each event is posted once, every delivery is counted, and what was made is deleted again."""
    run = drive(peer, case, "latency")
    assert run.status == 0, run.out
    create, add, post, delete = CALLS[peer]
    # Each case has 4 endpoints; those of latency are of one customer each, and it has a second of 50 events.
    assert run.calls == {create: customers + 4, add: 8, post: events + 50 + 5, delete: customers + 4}
    assert run.left == []
    result = run.result(case)
    assert result["lost"] == 0
    assert [(figure["what"].partition(": ")[2], figure["yardstick"]) for figure in result["figures"]] == [
        ("deliveries", "webhookd over HTTP"),
        ("deliveries", "webhookd over its socket"),
        ("CPU a delivery", "webhookd over HTTP"),
        ("memory under load", "webhookd over HTTP"),
    ]
    assert all(figure["value"] > 0 for figure in result["figures"] if figure["unit"] != "µs")
    # Before and after each repeat.
    assert len(result["yardsticks"]["webhookd over HTTP, deliveries/s"]) == 2
    assert len(result["yardsticks"]["webhookd over its socket, deliveries/s"]) == 2
    latency = run.result("latency")
    assert latency["lost"] == 0
    percentiles = [figure["value"] for figure in latency["figures"] if "event in to request" in figure["what"]]
    assert len(percentiles) == 3
    assert 0 < percentiles[0] <= percentiles[1] <= percentiles[2]
    assert run.document["peer"] == peer
    assert "python, and 0 processes below them" in run.document["processes"]


def test_connections_that_the_peer_closes_cost_no_event(drive: Drive) -> None:
    """A peer that closes after each answer gets each event once."""
    run = drive("svix", "one-to-one", fault="closing")
    assert run.status == 0, run.out
    assert run.calls["create_message"] == 40 + 4
    assert run.result("one-to-one")["lost"] == 0


def test_deliveries_that_never_arrive_are_lost(drive: Drive) -> None:
    """If the peer sends only every second event, the run says so and fails."""
    run = drive("svix", "one-to-one", fault="drop", load=(*LOAD, "--patience", "2"))
    assert run.status == 1
    assert run.result("one-to-one")["lost"] >= 20
    assert "deliveries never arrived" in run.out


@pytest.mark.parametrize(
    ("names", "how", "says"),
    [
        (["latency"], {"fault": "unnamed"}, "of 5 requests of Svix at the receiver none has an event's id"),
        (["fan-out"], {"fault": "full"}, 'was answered with 422: {"detail": "maximum number of destinations'),
        (["one-to-one"], {"key": "another"}, 'Svix: POST /api/v1/app was answered with 401: {"detail": "Invalid'),
    ],
)
def test_a_case_that_cannot_be_measured_breaks(names: list[str], how: dict[str, str], says: str, drive: Drive) -> None:
    """An error names what the peer refused or left out of its answer; what was created until then is deleted."""
    run = drive("svix", *names, **how)
    assert run.status == 1
    assert f"{names[0]} BROKE: " in run.out
    assert says in run.out
    assert run.left == []


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"url": "https://127.0.0.1:1"}, "https://127.0.0.1:1 is no http:// URL"),
        ({"key": "nowhere"}, "No such file or directory: 'nowhere'"),
        ({"pid": "4194305"}, "--pid: there is no process 4194305"),
        ({"name": "fanout"}, "unknown case: fanout; there are one-to-one, fan-out, latency"),
        ({"rate": "0"}, "'0' is no number from 1 on"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    changed: dict[str, str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong option ends the run before anything is started or dialed."""
    (tmp_path / "key").write_text(KEY)
    given = {"url": "http://127.0.0.1:1", "key": str(tmp_path / "key"), "pid": "1", "name": "latency", "rate": "300"}
    given |= changed
    with pytest.raises(SystemExit) as ended:
        main(
            [
                *("svix", given["url"], "--key-file", given["key"], "--pid", given["pid"], "--rate", given["rate"]),
                given["name"],
            ]
        )
    assert ended.value.code == 2
    assert says in " ".join(capsys.readouterr().err.split())
