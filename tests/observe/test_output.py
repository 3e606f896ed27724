"""Buffered standard output and error: nothing waits for a reader, and lost lines are counted and reported."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from webhookd.observe.output import CHUNK_BYTES, BufferedOutput

PIPE_BYTES = 65_536  # at most, as Linux makes them
SECONDS = 30
HEAD = """
import sys
from webhookd.observe.output import StandardStreams
streams = StandardStreams(lambda lines: b"")
"""


def report(lines: int) -> bytes:
    return b"dropped %d\n" % lines


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Return the reading and the writing end of a pipe."""
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        os.close(reading)


def read_until(descriptor: int, end: bytes) -> list[bytes]:
    """Return the lines up to the one with that end."""
    said = b""
    while not said.endswith(end):
        chunk = os.read(descriptor, CHUNK_BYTES)
        assert chunk
        said += chunk
    return said.splitlines()


def numbered(count: int) -> list[bytes]:
    return [b"%06d %s\n" % (number, b"x" * 90) for number in range(count)]


def test_lines_of_a_stream_nobody_reads_are_dropped_in_their_place() -> None:
    """With a full pipe and a full buffer, writing continues; the reader then gets whole lines in order, and the gap."""
    with pipe() as (reading, writing):
        output = BufferedOutput(writing, report_dropped=report, bound_bytes=200_000)
        lines = numbered(10_000)
        for line in lines:
            output.write(line)
        dropped = output.dropped
        assert 0 < dropped < len(lines) - PIPE_BYTES // 98
        gap = report(dropped)
        read = read_until(reading, gap)
        kept = len(lines) - dropped
        assert [line + b"\n" for line in read] == [*lines[:kept], gap]
        output.write(b"after\n")
        assert read_until(reading, b"after\n") == [b"after"]
        assert output.dropped == dropped


def test_a_reader_that_is_slow_hears_of_few_gaps() -> None:
    """After lines are dropped, half of the buffer is written before the next line is accepted."""
    with pipe() as (reading, writing):
        output = BufferedOutput(writing, report_dropped=report, bound_bytes=1_000_000)
        lines = iter(numbered(100_000))
        while not output.dropped:
            output.write(next(lines))
        read = 0
        while read < 100_000:  # far less than half of what is held, the pipe's own share included
            read += len(os.read(reading, 10_000))
        before = output.dropped
        for _ in range(100):
            output.write(next(lines))
        assert output.dropped == before + 100


def test_what_is_longer_than_the_buffer_is_dropped_alone() -> None:
    """A line larger than the buffer is dropped, and no other line is."""
    with pipe() as (reading, writing):
        output = BufferedOutput(writing, report_dropped=report, bound_bytes=1000)
        output.write(b"x" * 2000 + b"\n")
        assert read_until(reading, report(1)) == [b"dropped 1"]
        output.write(b"small\n")
        assert read_until(reading, b"small\n") == [b"small"]


def test_a_write_that_is_taken_in_part_goes_on() -> None:
    """A descriptor made non-blocking by another process accepts a part at a time; every byte arrives once."""
    with pipe() as (reading, writing):
        os.set_blocking(writing, False)
        output = BufferedOutput(writing)
        lines = numbered(10_000)
        for line in lines:
            output.write(line)
        assert read_until(reading, lines[-1]) == [line.removesuffix(b"\n") for line in lines]
        assert output.dropped == 0


def test_lines_of_threads_stay_whole_and_in_their_order() -> None:
    """Each thread's lines arrive in the order in which it wrote them."""
    with pipe() as (reading, writing):
        output = BufferedOutput(writing, linger_seconds=0.001)

        def write(name: int) -> None:
            for number in range(2000):
                output.write(b"%d %d\n" % (name, number))

        threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        read: list[bytes] = []
        while len(read) < 8000:
            read += read_until(reading, b"\n")
        for name in range(4):
            own = [line for line in read if line.startswith(b"%d " % name)]
            assert own == [b"%d %d" % (name, number) for number in range(2000)]


def test_a_stream_whose_reader_has_gone_counts_what_is_lost() -> None:
    """Every line that a broken pipe refuses is counted, and nothing is raised."""
    reading, writing = os.pipe()
    output = BufferedOutput(writing, report_dropped=report)
    os.close(reading)
    for line in numbered(500):
        output.write(line)
    assert output.flush(SECONDS)
    assert output.dropped == 500


def test_a_disk_that_has_room_again_shows_what_was_lost() -> None:
    """After a failed write the next line is preceded by the number of lost lines, and by a line break if needed."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        output = BufferedOutput(ours.fileno(), report_dropped=report)
        output.write(b"first\n")
        assert output.flush(SECONDS)
        elsewhere = os.open("/dev/full", os.O_WRONLY)
        kept = os.dup(ours.fileno())
        os.dup2(elsewhere, ours.fileno())
        output.write(b"second\n")
        output.write(b"third\n")
        assert output.flush(SECONDS)
        os.dup2(kept, ours.fileno())
        output.write(b"fourth\n")
        assert output.flush(SECONDS)
        assert theirs.recv(1000) == b"first\ndropped 2\nfourth\n"
        for descriptor in (elsewhere, kept):
            os.close(descriptor)


def test_flushing_is_bounded() -> None:
    """`flush` says whether everything is written: not while the reader is stopped, and at once when it is."""
    with pipe() as (reading, writing):
        output = BufferedOutput(writing, linger_seconds=SECONDS)
        for line in numbered(2000):
            output.write(line)
        assert not output.flush(0.01)
        reader = threading.Thread(target=read_until, args=(reading, b"last\n"))
        reader.start()
        output.write(b"last\n")
        assert output.flush(SECONDS)
        reader.join()


def test_a_destructor_may_warn_in_the_middle_of_a_write() -> None:
    """A write from a destructor during a write is accepted too, without a deadlock."""
    with pipe() as (reading, writing):
        output = BufferedOutput(writing)

        warnings = [b"warning\n"]

        class Line(bytes):
            def __len__(self) -> int:
                while warnings:
                    output.write(warnings.pop())
                return super().__len__()

        output.write(Line(b"line\n"))
        assert read_until(reading, b"line\n") == [b"warning", b"line"]


def test_python_writes_whole_lines() -> None:
    """Text printed in parts becomes a line, invalid text is escaped, and each line has the prefix."""
    with pipe() as (reading, writing):
        stream = BufferedOutput(writing).as_text(b"<3>")
        print("one", "\ud800", file=stream)
        print("two\nthree", file=stream)
        assert read_until(reading, b"three\n") == [b"<3>one \\ud800", b"<3>two", b"<3>three"]


def in_process(code: str, *, stderr: int, stdout: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", HEAD + code], stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)


def test_a_crash_still_shows_its_traceback() -> None:
    """The traceback of an exception that ends the process is on standard error, also if it is raised in the loop."""
    code = "import trio\nasync def main():\n    raise RuntimeError('planted')\ntrio.run(main)"
    with in_process(code, stderr=subprocess.PIPE) as process:
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert said.splitlines()[0] == b"Traceback (most recent call last):"
    assert said.splitlines()[-1] == b"RuntimeError: planted"


@pytest.mark.parametrize("end", ["sys.exit(3)", "raise SystemExit(3)", "sys.exit(print('x' * 100_000) or 3)"])
def test_an_exit_does_not_wait_for_a_reader(end: str) -> None:
    """With both streams full and no reader, the process ends with its status."""
    code = f"print('y' * 1_000_000, flush=True)\nprint('z' * 1_000_000, file=sys.stderr)\n{end}"
    with pipe() as (_reading, writing):
        process = in_process(code, stderr=writing, stdout=writing)
        os.close(writing)
        assert process.wait(SECONDS) == 3


def test_a_process_without_standard_streams_writes_nowhere(tmp_path: Path) -> None:
    """If standard error is closed at the start, a file that gets its number later is not written to."""
    file = tmp_path / "journal"
    code = f"f = open({str(file)!r}, 'wb'); print('lost', file=sys.stderr); print('lost'); streams.flush()"
    command = f'exec {sys.executable} -c "$0" >&- 2>&-'
    assert subprocess.run(["sh", "-c", command, HEAD + code], check=False, timeout=SECONDS).returncode == 0
    assert file.read_bytes() == b""
