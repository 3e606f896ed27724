"""Cut the power at many moments of a recorded run, and open the files that could be left.

The moments are every change of a name, every sync of a start, and as many of the others as `states` allows: right after
an acknowledgement or a request, right before a sync, and anywhere else. At each moment, one state has only what was
synced, one has all that was written, and three have a random part.
"""

import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from tests.powercut.disk import IGNORED, Disk, Fate, by_chance
from tests.powercut.promise import Found, Promise, broken, digest, look
from tests.powercut.record import Recording
from tests.powercut.trace import Moment, Name, Open, Send, Sync, read

EACH = 5
"""The number of states at each moment."""
_MOST_SHOWN = 5
_ALL = ("after a name", "before a sync of a start")
_SHARES = {"after an answer": 0.45, "after a request": 0.15, "before a sync": 0.25}


@dataclass(kw_only=True)
class Result:
    """The number of states, of moments by kind, and of different states that were opened; and the broken promises."""

    moments: Counter[str] = field(default_factory=Counter)
    states: int = 0
    opened: int = 0
    acknowledged: int = 0
    problems: list[str] = field(default_factory=list)


def cut(recording: Recording, *, states: int, seed: int, until_broken: bool = False) -> Result:
    """Open about `states` states that power cuts in a run could leave; `until_broken` stops at the first problem.

    Raises AssertionError if the trace is misunderstood: replayed to its end, it must give the files that were left.
    """
    dice = random.Random(seed)  # noqa: S311 - not for security
    lives = [list(read(trace, recording.home)) for trace in recording.traces]
    chosen = _choose(lives, states // EACH, dice)
    bodies = _bodies(recording)
    disk, promise, result = Disk(recording.start), Promise(), Result()
    known: dict[bytes, Found] = {}
    number = 0
    with tempfile.TemporaryDirectory(dir=_directory_in_memory()) as place:
        for life, end in zip(lives, recording.ends, strict=True):
            for step, is_end in life:
                number += 1
                disk.take(step, is_end=is_end)
                if isinstance(step, Send):
                    promise.note(step)
                if number not in chosen:
                    continue
                result.moments[chosen[number]] += 1
                for how, files in disk.left([Fate.NONE, Fate.ALL, *by_chance(dice, EACH - 3)], dice):
                    result.states += 1
                    key = _key(files)
                    if key not in known:
                        known[key] = _open(recording, files, Path(place) / "state")
                    problems = broken(promise, known[key], bodies, recording.home)
                    where = f"step {number}, {chosen[number]}, left: {how}"
                    result.problems += [f"{where}: {problem}" for problem in problems[:_MOST_SHOWN]]
                    result.opened, result.acknowledged = len(known), len(promise.events)
                    if problems and until_broken:
                        return result
            disk.restart(end)
    return result


def _choose(lives: Sequence[Sequence[Moment]], count: int, dice: random.Random) -> dict[int, str]:
    """Return the numbers of the steps after which the power is cut, with the kind of each moment."""
    found: dict[str, list[int]] = {}
    for number, kind in enumerate(_kinds(lives), 1):
        found.setdefault(kind, []).append(number)
    chosen = {number: kind for kind in _ALL for number in found.get(kind, ())}
    for kind, share in _SHARES.items():
        numbers = found.get(kind, [])
        chosen |= dict.fromkeys(dice.sample(numbers, min(len(numbers), int(count * share))), kind)
    numbers = found["anywhere"]
    left = min(len(numbers), max(0, count - len(chosen)))
    return chosen | dict.fromkeys(dice.sample(numbers, left), "anywhere")


def _kinds(lives: Sequence[Sequence[Moment]]) -> Iterator[str]:
    promise = Promise()
    for life in lives:
        is_starting = True
        for step, is_end in life:
            match step:
                case Send():
                    kind = promise.note(step)
                    is_starting = is_starting and kind is None
                    yield kind or "anywhere"
                case Sync() if not is_end:
                    yield "before a sync of a start" if is_starting else "before a sync"
                case Name() | Open(creates=True) if is_end and not step.path.endswith(IGNORED):
                    yield "after a name"
                case _:
                    yield "anywhere"


def _key(files: dict[str, bytes]) -> bytes:
    return digest(b"".join(digest(path.encode()) + digest(data) for path, data in sorted(files.items())))


def _open(recording: Recording, files: dict[str, bytes], place: Path) -> Found:
    shutil.rmtree(place, ignore_errors=True)
    for path, data in files.items():
        file = place / Path(path).relative_to(recording.home)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_bytes(data)
    return look(place, from_old=bool(recording.start))


def _bodies(recording: Recording) -> dict[str, bytes]:
    """Return the digest of each event's body at the end of the run, if the body contains the data that was sent."""
    connection = apsw.Connection(str(recording.home / "webhookd.db"))
    try:
        bodies = dict(connection.execute("SELECT id, body FROM events"))
    finally:
        connection.close()
    return {
        event_id: digest(body)
        for event_id, body in bodies.items()
        if body.startswith(b'{"id":"%s",' % event_id.encode())
        and body.endswith(b'"data":' + recording.sent.get(event_id, b"{}") + b"}")
    }


def _directory_in_memory() -> str | None:
    """Return a directory without a disk, since thousands of files are synced; None if there is none."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a temporary directory is made in it
