"""The benchmark itself: its arithmetic, what makes a run void, and what makes it fail."""

import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import sleep, thread_time

import pytest

from tests.bench.__main__ import main
from tests.bench.cases import Case
from tests.bench.generator import Played, event_line, play
from tests.bench.load import Load
from tests.bench.receivers import sink
from tests.bench.report import Figure, Result, Target, compared, latency_figures, percentile
from tests.bench.seed import Content, Group, seed
from tests.bench.server import BrokenCaseError, CpuTime, SkippedCaseError, cpu_seconds, serving
from tests.bench.syscalls import counted, figures, parse

PER_SECOND = 1000


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([3, 1, 2], 50, 2), ([1, 2, 3, 4], 50, 2), (range(1, 101), 99, 99), (range(1, 1001), 99.9, 999), ([7], 99.9, 7)],
)
def test_percentiles_are_nearest_ranks(values: Sequence[float], percent: float, expected: float) -> None:
    """A percentile is a measured value: the smallest one that is not exceeded by that percentage of all."""
    assert percentile(values, percent) == expected


def test_each_repeat_is_compared_with_the_yardsticks_around_it() -> None:
    """Each ratio is to the mean of the yardsticks before and after its repeat; the target is for the median ratio."""
    at_least = Target(bound=0.5, at_least=True, is_ratio=True)
    figure = compared("deliveries", "/s", [30, 60, 90], "Y", [100, 200, 40, 60], target=at_least)
    assert figure.ratios == (0.2, 0.5, 1.8)
    assert figure.is_met is True
    assert compared("deliveries", "/s", [30, 59, 90], "Y", [100, 200, 40, 60], target=at_least).is_met is False


def test_an_upper_bound_includes_the_bound() -> None:
    """A latency equal to the bound meets the target, a higher one does not, and without a target there is no answer."""
    half, nearly_all, _ = latency_figures("latency", [0.005, 0.0251], {50: Target(bound=5), 99: Target(bound=25)})
    assert half.is_met is True
    assert nearly_all.is_met is False
    assert latency_figures("latency", [1.0], {})[0].is_met is None


def test_a_generator_that_fell_behind_voids_the_run() -> None:
    """A run is void if more than one in a hundred events was sent more than 5 ms late; one in a hundred is allowed."""
    planned = [number / 10 for number in range(200)]
    sent = [at + (0.006 if number < 2 else 0.004) for number, at in enumerate(planned)]
    assert Played(planned, sent, sent).void() == ""
    sent[2] = planned[2] + 0.006
    assert "3 of 200" in Played(planned, sent, sent).void()


def test_latency_counts_from_the_planned_time() -> None:
    """The latency of an event that was sent late includes the delay."""
    assert Played([1.0], [1.25], [1.5]).answer_seconds() == [0.5]


def delayed(lines: int) -> Iterator[bytes]:
    """Yield lines, the eleventh after a pause of 50 ms: the fault that must make the run void."""
    for number in range(lines):
        if number == 10:
            sleep(0.05)
        yield event_line()


@contextmanager
def answering(path: Path, stall_seconds: float) -> Iterator[None]:
    """Serve one connection on a Unix socket that accepts each line, and stalls once before its first answer."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            waits = stall_seconds
            while chunk := connection.recv(1 << 20):
                sleep(waits)
                waits = 0
                connection.sendall(b'{"ok":true}\n' * chunk.count(b"\n"))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


def test_an_open_loop_continues_while_the_server_stalls(tmp_path: Path) -> None:
    """Events are sent at their planned times during a stall, so the latency of each of them includes the stall."""
    with answering(tmp_path / "socket", 0.5):
        played = play(tmp_path / "socket", [event_line()] * 800, PER_SECOND)
    assert [round(at - played.planned[0], 6) for at in played.planned] == [n / PER_SECOND for n in range(800)]
    # Even with more events than the socket buffers hold, only the answers are delayed.
    assert max(sent - at for at, sent in zip(played.planned, played.sent, strict=True)) < 0.25
    slow = [seconds for seconds in played.answer_seconds() if seconds > 0.1]
    assert len(slow) >= 350
    assert max(slow) >= 0.49


def test_an_open_loop_notices_its_own_delay(tmp_path: Path) -> None:
    """A delay of 50 ms in the generator makes its run void."""
    with answering(tmp_path / "socket", 0):
        played = play(tmp_path / "socket", delayed(200), PER_SECOND)
    assert played.void()


MISSED = compared("deliveries", "/s", [1], "Y", [100, 100], target=Target(bound=0.4, at_least=True, is_ratio=True))

MET = compared("deliveries", "/s", [90], "Y", [100, 100], target=Target(bound=0.4, at_least=True, is_ratio=True))


def case(result: Result | BrokenCaseError | SkippedCaseError) -> Case:
    """Return a case that has this result, or raises this error."""

    def outcome(_: Load) -> Result:
        if isinstance(result, BrokenCaseError | SkippedCaseError):
            raise result
        return result

    return Case("planted", "A planted result", outcome)


@pytest.mark.parametrize(
    ("result", "status", "text"),
    [
        (Result(receiver="none", figures=[MISSED]), 0, "0.01 × Y"),
        (Result(receiver="none", figures=[MISSED], void="too late"), 0, "VOID: too late"),
        (Result(receiver="none", figures=[MISSED], lost=3), 1, "LOST: 3 deliveries"),
        (BrokenCaseError("planted"), 1, "BROKE: planted"),
        (SkippedCaseError("planted"), 0, "one SKIPPED: planted"),
    ],
)
def test_only_a_broken_case_or_a_lost_delivery_fails_the_run(
    result: Result | BrokenCaseError | SkippedCaseError, status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missed target, a void run and a skipped case are shown with status 0; a lost delivery or an exception is 1."""
    assert main([], {"one": case(result), "two": case(Result(receiver="none"))}) == status
    shown = capsys.readouterr().out
    assert text in shown
    assert "two: A planted result" in shown


@pytest.mark.parametrize(("result", "status"), [(MISSED, 1), (MET, 0)])
def test_a_checked_run_fails_if_a_target_is_missed(
    result: Figure, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """With `--check`, a missed target is named and makes the status 1."""
    assert main(["--check"], {"one": case(Result(receiver="none", figures=[result]))}) == status
    assert ("targets missed: one: deliveries" in capsys.readouterr().out) == bool(status)


def test_a_void_run_judges_no_target(tmp_path: Path) -> None:
    """The JSON of a void run has its figures, but not whether a target was met."""
    judged = Result(receiver="none", figures=[MISSED])
    void = Result(receiver="none", figures=[MISSED], void="too late")
    main(["--json", str(tmp_path / "out.json")], {"judged": case(judged), "void": case(void)})
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [result["figures"][0]["ratio"] for result in results] == [0.01, 0.01]
    assert [result["figures"][0]["met"] for result in results] == [False, None]


def test_the_main_threads_time_is_told_apart() -> None:
    """The CPU time of another thread counts for all threads, and not for the main thread, which runs the event loop."""
    before = cpu_seconds(os.getpid())
    spender = threading.Thread(target=spend, args=(0.3,))
    spender.start()
    spender.join()
    after = cpu_seconds(os.getpid())
    assert after.all_threads - before.all_threads >= 0.25
    # The ticks of the other thread are missing in it.
    assert (after.all_threads - after.loop) - (before.all_threads - before.loop) >= 0.25


def spend(seconds: float) -> None:
    """Use CPU time in this thread."""
    while thread_time() < seconds:
        pass


def test_cpu_time_is_divided_by_the_deliveries() -> None:
    """CPU time between two readings is in microseconds a delivery; without a delivery it is that of one."""
    spent = CpuTime(3.5, 2.25).microseconds_each(CpuTime(1.5, 1.25), 1000)
    assert spent == CpuTime(2000, 1000)
    assert CpuTime(1, 1).microseconds_each(CpuTime(0, 0), 0) == CpuTime(1e6, 1e6)


SUMMARY = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ------------------
 60.19    0.129600           6     20000       120 futex
 37.23    0.080162           3     23500           pwrite64
  2.10    0.004522         150        30           fdatasync
------ ----------- ----------- --------- --------- ------------------
100.00    0.215284           5     43530       120 total
"""


def test_the_summary_of_strace_is_read() -> None:
    """Each call has its number, with errors or without; a delivery's are those of all by the number of deliveries."""
    calls = parse(SUMMARY)
    assert calls == {"futex": 20_000, "pwrite64": 23_500, "fdatasync": 30}
    found = figures("fan-out", calls, 10_000)
    assert [(figure.what, figure.values) for figure in found] == [
        ("fan-out: all", (4.353,)),
        ("fan-out: pwrite64", (2.35,)),
        ("fan-out: futex", (2.0,)),
        ("fan-out: fdatasync", (0.003,)),
    ]
    with pytest.raises(BrokenCaseError, match="strace counted nothing"):
        parse("strace: some other text\n")


def echo(process: "subprocess.Popen[bytes]", times: int) -> None:
    """Let `cat` return a byte several times."""
    assert process.stdin is not None
    assert process.stdout is not None
    for _ in range(times):
        process.stdin.write(b"x")
        assert process.stdout.read(1) == b"x"


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_system_calls_of_a_process_are_counted() -> None:
    """Each write of a traced process counts, and none from before; a process that has gone can't be traced."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        try:
            echo(process, 5)
            with counted(process.pid) as calls:
                echo(process, 40)
        except SkippedCaseError as error:
            pytest.skip(str(error))
        finally:
            process.kill()
    # strace may be stopped before it has seen the end of the last one.
    assert 39 <= calls["write"] <= 40
    with pytest.raises(SkippedCaseError, match="strace can't trace the server"), counted(process.pid):
        pytest.fail("it was traced")


def test_without_strace_the_case_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """If PATH has no strace, the reason is named before anything is counted."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SkippedCaseError, match="strace is not installed"), counted(1):
        pytest.fail("it was traced")


def test_a_filled_journal_is_delivered(tmp_path: Path) -> None:
    """A server that starts on a filled journal sends each delivery of its backlog once."""
    with sink("count") as receiver:
        group = Group(count=6, url=receiver.url)
        seed(tmp_path, Content(groups=(group,), deliveries=60, fan_out=3))
        with serving(tmp_path) as server:
            server.settle()
            assert server.unfinished() == 0
        assert receiver.count() == 60
