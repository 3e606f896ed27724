"""Read strace's record of a server as steps: changes of files, syncs, and what was sent on each connection.

A call that overlaps with one of another thread is on two lines, so a step has a beginning and an end. A write may be on
disk from its beginning on. A sync covers what had ended before it began, but only when it has ended itself. The other
side may know sent bytes from the beginning on. A call that changes files in a way that the model does not have is an
error.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

TRACED = (
    "open,openat,creat,write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,sync_file_range,truncate,ftruncate,"
    "fallocate,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,sendto,sendmsg,sendfile,"
    "copy_file_range,symlink,symlinkat"
)
STRACE = (
    "strace", "-D", "-f", "-q", "-yy", "-xx", "-s", "4000000", "--seccomp-bpf", "-e", f"trace={TRACED}"
)  # fmt: skip
_LINE = re.compile(rb"(\d+) +(?:<\.\.\. (\w+) resumed>|(\w+)\()(.*)", re.DOTALL)
_RESULT = re.compile(rb"\) += (-?\d+)(?:<(?:\\x[0-9a-f]{2})*>)?(?: .*)?$")
_UNFINISHED = b" <unfinished ...>"
_FILE = re.compile(rb"(\d+)<((?:\\x[0-9a-f]{2})+)>(?:\(deleted\))?")
_STREAM = re.compile(rb"\d+<((?:UNIX-STREAM|TCP):\[[^\]]*\])>")
_TEXT = re.compile(rb'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_LAST_BYTES = 4096


@dataclass(slots=True, kw_only=True, eq=False)
class Step:
    """One call; `path` is that of its file when the call began, `descriptor` is the file descriptor."""

    descriptor: int = -1
    path: str = ""


@dataclass(slots=True, kw_only=True, eq=False)
class Open(Step):
    """`path` was opened."""

    creates: bool
    truncates: bool


@dataclass(slots=True, kw_only=True, eq=False)
class Write(Step):
    """Bytes were written at `offset`, or after the last write (None)."""

    offset: int | None
    data: bytes


@dataclass(slots=True, kw_only=True, eq=False)
class Truncate(Step):
    """A file was set to this size."""

    size: int


@dataclass(slots=True, kw_only=True, eq=False)
class Sync(Step):
    """A file, or the entries of a directory, were synced."""


@dataclass(slots=True, kw_only=True, eq=False)
class Name(Step):
    """`path` was removed (`to` None), renamed to `to`, or linked to `to` (`keeps`)."""

    to: str | None
    keeps: bool


@dataclass(slots=True, kw_only=True, eq=False)
class Send(Step):
    """Bytes were sent; `stream` names both ends of the connection."""

    stream: str
    data: bytes


Moment = tuple[Step, bool]
"""A step and whether this is its end."""


def is_whole(trace: Path, pid: int) -> bool:
    """Whether the trace has the end of the process, which strace writes last."""
    with trace.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
        return re.search(rb"^%d +\+\+\+ (exited|killed) .*\n" % pid, file.read(), re.MULTILINE) is not None


def read(trace: Path, root: Path) -> Iterator[Moment]:
    """Yield the beginnings and ends of the steps below `root` and of what was sent, in order."""
    marks = [_hexed(str(root)), b"sendto(", b" resumed>"]
    with trace.open("rb") as lines:
        yield from _moments((line.rstrip(b"\n") for line in lines if any(mark in line for mark in marks)), str(root))


def _moments(lines: Iterable[bytes], root: str) -> Iterator[Moment]:
    begun: dict[bytes, tuple[bytes, Step | None]] = {}
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        thread, resumed, called, rest = match.groups()
        if resumed:
            # A call outside the root has no recorded beginning.
            beginning, step = begun.pop(thread, (b"", None))
            rest = beginning + rest
            is_end = bool(beginning)
        else:
            is_end = not rest.endswith(_UNFINISHED)
            rest = rest.removesuffix(_UNFINISHED)
            step = _step(called.decode(), rest, root)
            if not is_end:
                begun[thread] = (rest, step)
            if step is not None and not isinstance(step, Open | Name):
                yield step, False
        if step is not None and is_end:
            result = _RESULT.search(rest)
            if result is None:  # the process was killed during the call, whose end is unknown
                continue
            yield from _ended(step, int(result[1]))


def _ended(step: Step, result: int) -> Iterator[Moment]:
    if isinstance(step, Open | Name):
        if result >= 0:
            step.descriptor = result
            yield step, False
            yield step, True
        return
    if isinstance(step, Send):
        return
    if result < 0 or (isinstance(step, Write) and result != len(step.data)):
        raise AssertionError(f"the model does not have a failed or short call: {type(step)} {result}")
    yield step, True


def _step(name: str, rest: bytes, root: str) -> Step | None:
    if name == "sendto":
        stream, text = _STREAM.match(rest), _TEXT.search(rest, rest.index(b">, ") + 1)
        return None if stream is None or text is None else Send(stream=stream[1].decode(), data=_plain(text))
    texts = [_plain(text) for text in _TEXT.finditer(rest)]
    if name == "openat":
        path = texts[0].decode()
        if not _is_below(path, root):
            return None
        return Open(path=path, creates=b"O_CREAT" in rest, truncates=b"O_TRUNC" in rest)
    if name in {"rename", "link", "unlink"}:
        old, new = texts[0].decode(), texts[1].decode() if len(texts) > 1 else None
        return Name(path=old, to=new, keeps=name == "link") if _is_below(old, root) else None
    file = _FILE.match(rest)
    if file is None or not _is_below(path := _unhexed(file[2]).decode(), root):
        is_below = any(_is_below(text.decode("latin-1"), root) for text in texts)
        if is_below and b") = -1 " not in rest:
            raise AssertionError(f"the model does not have this call: {name} of {texts}")
        return None
    descriptor = int(file[1])
    if name in {"fsync", "fdatasync"}:
        return Sync(descriptor=descriptor, path=path)
    numbers = [int(number) for number in re.findall(rb", (\d+)(?=[,)]|$)", rest[file.end() :])]
    if name == "pwrite64":
        return Write(descriptor=descriptor, path=path, offset=numbers[-1], data=texts[0])
    if name == "write":
        return Write(descriptor=descriptor, path=path, offset=None, data=texts[0])
    if name == "ftruncate":
        return Truncate(descriptor=descriptor, path=path, size=numbers[0])
    if name == "fallocate":  # only the reserve is allocated, and its file is never larger before
        return Truncate(descriptor=descriptor, path=path, size=numbers[-1])
    raise AssertionError(f"the model does not have this call: {name} of {path}")


def _plain(text: re.Match[bytes]) -> bytes:
    assert not text[2], "strace has truncated a string"
    return _unhexed(text[1])


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root}/")


def _hexed(text: str) -> bytes:
    return b"".join(b"\\x%02x" % byte for byte in text.encode())


def _unhexed(text: bytes) -> bytes:
    return bytes.fromhex(text.replace(b"\\x", b"").decode())
