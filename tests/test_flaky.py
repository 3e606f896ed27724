"""The tests themselves: nothing in them depends on how busy the machine is, but what is named here with its reason."""

from pathlib import Path

import pytest

from tests.flaky import Kind, look

ROOT = Path(__file__).parent
MEASURES = {"bench"}  # figures belong there
VIRTUAL = {"simulation", "world.py"}  # all of it runs on a clock of its own
BEAT = "a beat of the watch first; what is looked at then is waited for"
ALLOWED = {
    ("cli/test_systemd_unit.py", "test_a_loop_that_is_stuck_falls_silent"): "it is the loop that is blocked",
    ("client/test_blocking.py", "test_nobody_there_is_said_within_the_timeout"): "nobody is there: it must run out",
    ("client/test_flavours.py", "test_deadline_names_the_event"): "nobody is there: it must run out",
    ("crashpoints/planted.py", "_commit_slowly.commit_late"): "what a slow disk takes",
    ("dashboard/test_history.py", "delivered"): "called where the clock jumps",
    ("dashboard/test_matrix.py", "Things.fill"): "called where the clock jumps",
    ("dashboard/test_own_words.py", ""): "read and never bound",
    ("delivery/rebinding.py", "names"): "port 53 of a network namespace of its own",
    ("delivery/test_racing.py", "_set_together"): "called where the clock jumps",
    ("e2e/test_lifecycle.py", "test_a_client_bridges_a_restart"): "nobody is there: it must run out",
    ("e2e/test_signals.py", "test_only_stop_signals_stop_it"): "read and never bound",
    ("fuzz_watch.py", "Traffic._send_some"): "the pace of the traffic beside the attack",
    (
        "ingest/test_lifecycle.py",
        "test_producers_that_come_again_and_again_do_not_fill_the_log",
    ): "as many lines as seconds, however many those are",
    ("killing/run.py", "run"): "work between the last kills, of which nothing is expected",
    ("planted.py", "_make_intake_small.commit_late"): "what a slow disk takes, at most",
    ("dispatch/test_actor_crash.py", "SlowDisk.run"): "called where the clock jumps",
    ("observe/test_loop_watch.py", "stalled_by"): BEAT,
    ("observe/test_loop_watch.py", "test_a_thread_that_holds_the_lock_is_told"): BEAT,
    ("observe/test_loop_watch.py", "test_many_short_steps_delay_the_loop_too"): BEAT,
    ("test_config.py", "test_the_environment_wins"): "read and never bound",
    ("test_config.py", "test_each_mistake_is_named_with_its_line"): "read and never bound",
}


def findings() -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if path.relative_to(ROOT).parts[0] in MEASURES | VIRTUAL:
            continue
        for one in look(path.read_text()):
            found.setdefault((name, one.function), []).append(f"tests/{name}:{one.line} {one.kind}")
    return found


def test_nothing_depends_on_how_busy_the_machine_is() -> None:
    """No fixed sleep, asserted duration, short limit or port of one's own choice, but what is allowed and there."""
    found = findings()
    assert [line for place, lines in found.items() if place not in ALLOWED for line in lines] == []
    assert [place for place in ALLOWED if place not in found] == [], "allowed and no longer there"


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
    """A test with the line in it is found, and told with its kind."""
    assert [one.kind for one in look(f"async def test_it(path: Path) -> None:\n    {line}\n")] == [PLANTED[line]]


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
def test_what_waits_for_an_event_is_not(line: str) -> None:
    """Looks until something is so, moments that dice choose, least times and long limits are as they should be."""
    assert look(f"async def test_it(path: Path) -> None:\n    {line}\n") == []


def test_time_of_ones_own_is_exact() -> None:
    """Where a test has its own clock, it may sleep and say what took how long."""
    body = "await trio.sleep(1)\n    assert trio.current_time() < 2\n"
    for annotation in ("MockClock", "trio.testing.MockClock"):
        assert look(f"async def test_it(autojump_clock: {annotation}) -> None:\n    {body}") == []
        assert len(look(f"async def test_it(clock: Clock) -> None:\n    {body}")) == 2
