"""No test depends on how busy the machine is, except the places listed here with their reasons."""

from pathlib import Path

import pytest

from tests.flaky import Kind, look

ROOT = Path(__file__).parent
MEASURES = {"bench"}  # it measures, and asserts nothing
VIRTUAL = {"simulation", "world.py"}  # everything in them runs on a virtual clock
EXPIRES = "no server runs: the timeout must expire"
JUMPS = "called under a virtual clock"
PARSED = "the port is only parsed, never bound"
BEAT = "first lets the watch beat once; the result is then waited for"
ALLOWED = {
    ("base/test_database_url.py", "test_each_mistake_is_named_without_the_password"): PARSED,
    ("base/test_database_url.py", "test_the_parts_of_a_url"): PARSED,
    ("cli/test_systemd_unit.py", "test_a_loop_that_is_stuck_falls_silent"): "blocks the loop on purpose",
    ("client/test_blocking.py", "test_nobody_there_is_said_within_the_timeout"): EXPIRES,
    ("client/test_flavours.py", "test_deadline_names_the_event"): EXPIRES,
    ("crashpoints/planted.py", "_commit_slowly.commit_late"): "the time of a slow disk",
    ("dashboard/test_history.py", "delivered"): JUMPS,
    ("dashboard/test_matrix.py", "Things.fill"): JUMPS,
    ("dashboard/test_own_words.py", ""): PARSED,
    ("delivery/rebinding.py", "names"): "port 53 of a network namespace of its own",
    ("delivery/test_racing.py", "_set_together"): JUMPS,
    ("e2e/test_lifecycle.py", "test_a_client_bridges_a_restart"): EXPIRES,
    ("e2e/test_signals.py", "test_only_stop_signals_stop_it"): PARSED,
    ("fuzz_watch.py", "Traffic._send_some"): "the pace of the normal traffic during the attack",
    (
        "ingest/test_lifecycle.py",
        "test_producers_that_come_again_and_again_do_not_fill_the_log",
    ): "the log has as many lines as seconds, however long it takes",
    ("killing/run.py", "run"): "lets the server work before the last kill; nothing is asserted of it",
    ("planted.py", "_make_intake_small.commit_late"): "the longest time of a slow disk",
    ("dispatch/test_actor_crash.py", "SlowDisk.run"): JUMPS,
    ("dispatch/test_actor_crash.py", "SlowFirstBody.run"): JUMPS,
    ("observe/test_loop_watch.py", "stalled_by"): BEAT,
    ("observe/test_loop_watch.py", "test_a_thread_that_holds_the_lock_is_told"): BEAT,
    ("observe/test_loop_watch.py", "test_many_short_steps_delay_the_loop_too"): BEAT,
    ("test_config.py", "test_the_environment_wins"): PARSED,
    ("test_config.py", "test_each_mistake_is_named_with_its_line"): PARSED,
}


def findings() -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if path.relative_to(ROOT).parts[0] in MEASURES | VIRTUAL:
            continue
        for finding in look(path.read_text()):
            found.setdefault((name, finding.function), []).append(f"tests/{name}:{finding.line} {finding.kind}")
    return found


def test_nothing_depends_on_how_busy_the_machine_is() -> None:
    """Only the allowed places sleep for a fixed time, assert a duration, set a short limit or choose a port."""
    found = findings()
    assert [line for place, lines in found.items() if place not in ALLOWED for line in lines] == []
    assert [place for place in ALLOWED if place not in found] == [], "allowed, but no longer in the tests"


PLANTED = {
    "await trio.sleep(0.2)": Kind.SLEEP,
    "for _ in range(10):\n        time.sleep(PAUSE_SECONDS)": Kind.SLEEP,
    "began = time.monotonic()\n    assert time.monotonic() - began < 3": Kind.DURATION,
    "began = perf_counter()\n    took = perf_counter() - began\n    assert 0 < took <= LIMIT": Kind.DURATION,
    "assert limit > trio.current_time() - at": Kind.DURATION,
    "with trio.fail_after(5):\n        pass": Kind.LIMIT,
    "process.wait(3)": Kind.LIMIT,
    "subprocess.run([], timeout=1)": Kind.LIMIT,
    'listener.bind(("127.0.0.1", 8080))': Kind.PORT,
    'config = "[server]\\nport = 8080"': Kind.PORT,
}


@pytest.mark.parametrize("line", PLANTED)
def test_each_kind_is_found(line: str) -> None:
    """A test with a forbidden line is reported with the kind of the finding."""
    assert [finding.kind for finding in look(f"async def test_it(path: Path) -> None:\n    {line}\n")] == [
        PLANTED[line]
    ]


@pytest.mark.parametrize(
    "line",
    [
        "while not done():\n        await trio.sleep(0.01)",
        "await trio.sleep(dice.random())",
        "began = time.monotonic()\n    assert time.monotonic() - began >= 1",
        "with trio.fail_after(PATIENCE_SECONDS):\n        pass",
        'listener.bind(("127.0.0.1", 0))',
        'config = f"port = {port}"',
    ],
)
def test_waiting_for_an_event_is_allowed(line: str) -> None:
    """Polling in a loop, random pauses, lower bounds and long limits are not reported."""
    assert look(f"async def test_it(path: Path) -> None:\n    {line}\n") == []


def test_virtual_time_is_exact() -> None:
    """A test with a virtual clock may sleep and assert durations."""
    body = "await trio.sleep(1)\n    assert trio.current_time() < 2\n"
    for annotation in ("MockClock", "trio.testing.MockClock"):
        assert look(f"async def test_it(autojump_clock: {annotation}) -> None:\n    {body}") == []
        assert len(look(f"async def test_it(clock: Clock) -> None:\n    {body}")) == 2
