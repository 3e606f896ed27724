"""Standard output and error behind a buffer: nothing waits for a reader, and what is lost is counted and said."""

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


def told(lines: int) -> bytes:
    return b"dropped %d\n" % lines


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Return the ends of a pipe, to be read and to be written."""
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        os.close(reading)


def read_until(descriptor: int, end: bytes) -> list[bytes]:
    """Return the lines up to the one that ends so."""
    said = b""
    while not said.endswith(end):
        chunk = os.read(descriptor, CHUNK_BYTES)
        assert chunk
        said += chunk
    return said.splitlines()


def numbered(count: int) -> list[bytes]:
    return [b"%06d %s\n" % (number, b"x" * 90) for number in range(count)]


def test_lines_of_a_stream_nobody_reads_are_dropped_in_their_place() -> None:
    """Writing goes on past a full pipe and a full buffer; the reader then finds whole lines, in order, and the gap."""
    with pipe() as (reading, writing):
        output = BufferedOutput(writing, tell_dropped=told, bound_bytes=200_000)
        lines = numbered(10_000)
        for line in lines:
            output.write(line)
        dropped = output.dropped
        assert 0 < dropped < len(lines) - PIPE_BYTES // 98
        gap = told(dropped)
        read = read_until(reading, gap)
        kept = len(lines) - dropped
        assert [line + b"\n" for line in read] == [*lines[:kept], gap]
        output.write(b"after\n")
        assert read_until(reading, b"after\n") == [b"after"]
        assert output.dropped == dropped


def test_a_reader_that_is_slow_hears_of_few_gaps() -> None:
    """Once lines are dropped, half of the buffer is written before one is taken again."""
    with pipe() as (reading, writing):
        output = BufferedOutput(writing, tell_dropped=told, bound_bytes=1_000_000)
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
    """A line that could never be held costs itself and no other."""
    with pipe() as (reading, writing):
        output = BufferedOutput(writing, tell_dropped=told, bound_bytes=1000)
        output.write(b"x" * 2000 + b"\n")
        assert read_until(reading, told(1)) == [b"dropped 1"]
        output.write(b"small\n")
        assert read_until(reading, b"small\n") == [b"small"]


def test_a_write_that_is_taken_in_part_goes_on() -> None:
    """A descriptor that another process has made non-blocking takes a part at a time; every byte arrives once."""
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
    output = BufferedOutput(writing, tell_dropped=told)
    os.close(reading)
    for line in numbered(500):
        output.write(line)
    assert output.flush(SECONDS)
    assert output.dropped == 500


def test_a_disk_that_has_room_again_shows_what_was_lost() -> None:
    """After a failed write the next line is preceded by how many are missing, and by a break where one was torn."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        output = BufferedOutput(ours.fileno(), tell_dropped=told)
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
    """It says whether all is written: not while nobody reads, and at once when all has been."""
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
    """What the garbage collector says while a line is taken is a line as well, and nothing waits for itself."""
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
    """What is printed in pieces becomes a line, text that UTF-8 can't say is escaped, and the prefix is before each."""
    with pipe() as (reading, writing):
        stream = BufferedOutput(writing).as_text(b"<3>")
        print("one", "\ud800", file=stream)
        print("two\nthree", file=stream)
        assert read_until(reading, b"three\n") == [b"<3>one \\ud800", b"<3>two", b"<3>three"]


def in_process(code: str, *, stderr: int, stdout: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", HEAD + code], stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)


def test_a_crash_still_shows_its_traceback() -> None:
    """An exception that ends the process, out of the loop too, is on standard error when the process has ended."""
    code = "import trio\nasync def main():\n    raise RuntimeError('planted')\ntrio.run(main)"
    with in_process(code, stderr=subprocess.PIPE) as process:
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert said.splitlines()[0] == b"Traceback (most recent call last):"
    assert said.splitlines()[-1] == b"RuntimeError: planted"


@pytest.mark.parametrize("end", ["sys.exit(3)", "raise SystemExit(3)", "sys.exit(print('x' * 100_000) or 3)"])
def test_an_exit_does_not_wait_for_a_reader(end: str) -> None:
    """With both streams full and nobody reading, the process ends with its status."""
    code = f"print('y' * 1_000_000, flush=True)\nprint('z' * 1_000_000, file=sys.stderr)\n{end}"
    with pipe() as (_reading, writing):
        process = in_process(code, stderr=writing, stdout=writing)
        os.close(writing)
        assert process.wait(SECONDS) == 3


def test_a_process_without_standard_streams_writes_nowhere(tmp_path: Path) -> None:
    """Where standard error is closed at the start its number is that of a file that is opened later: not written to."""
    file = tmp_path / "journal"
    code = f"f = open({str(file)!r}, 'wb'); print('lost', file=sys.stderr); print('lost'); streams.flush()"
    command = f'exec {sys.executable} -c "$0" >&- 2>&-'
    assert subprocess.run(["sh", "-c", command, HEAD + code], check=False, timeout=SECONDS).returncode == 0
    assert file.read_bytes() == b""
