"""Cutting the power at many moments of a recorded run, in many ways, and opening what is left each time.

Of the moments, every change of a name is taken and every sync of a start, and of the others as many as there is time
for: right after something was acknowledged or a request had left, right before a sync, and anywhere else. At each,
what was synced is left alone once, all that was written once, and three times a part that the dice choose.
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
"""How many states there are of a moment."""
_MOST_SHOWN = 5
_ALL = ("after a name", "before a sync of a start")
_SHARES = {"after an answer": 0.45, "after a request": 0.15, "before a sync": 0.25}


@dataclass(kw_only=True)
class Result:
    """How many states there were, at how many moments, and how many of them differed; and what was broken."""

    moments: Counter[str] = field(default_factory=Counter)
    states: int = 0
    opened: int = 0
    acknowledged: int = 0
    problems: list[str] = field(default_factory=list)


def cut(recording: Recording, *, states: int, seed: int, until_broken: bool = False) -> Result:
    """Open about so many states that power cuts could leave of a run; `until_broken` ends at the first problem.

    Raises AssertionError where the run isn't understood: played to its end, it must give the files that are there.
    """
    dice = random.Random(seed)  # noqa: S311 - a test's dice
    lives = [list(read(trace, recording.home)) for trace in recording.traces]
    chosen = _choose(lives, states // EACH, dice)
    bodies = _bodies(recording)
    disk, promise, result = Disk(recording.start), Promise(), Result()
    known: dict[bytes, Found] = {}
    number = 0
    with tempfile.TemporaryDirectory(dir=_memory()) as place:
        for life, end in zip(lives, recording.ends, strict=True):
            for step, is_end in life:
                number += 1
                disk.take(step, is_end=is_end)
                if isinstance(step, Send):
                    promise.hear(step)
                if number not in chosen:
                    continue
                result.moments[chosen[number]] += 1
                for how, files in disk.left([Fate.NONE, Fate.ALL, *by_chance(dice, EACH - 3)], dice):
                    result.states += 1
                    key = _key(files)
                    if key not in known:
                        known[key] = _open(recording, files, Path(place) / "state")
                    problems = broken(promise, known[key], bodies, recording.home)
                    where = f"step {number}, {chosen[number]}, left is {how}"
                    result.problems += [f"{where}: {problem}" for problem in problems[:_MOST_SHOWN]]
                    result.opened, result.acknowledged = len(known), len(promise.events)
                    if problems and until_broken:
                        return result
            disk.restart(end)
    return result


def _choose(lives: Sequence[Sequence[Moment]], count: int, dice: random.Random) -> dict[int, str]:
    """Return the numbers of the steps behind which the power goes, each with what it is."""
    found: dict[str, list[int]] = {}
    for number, kind in enumerate(_kinds(lives), 1):
        found.setdefault(kind, []).append(number)
    chosen = {number: kind for kind in _ALL for number in found.get(kind, ())}
    for kind, share in _SHARES.items():
        there = found.get(kind, [])
        chosen |= dict.fromkeys(dice.sample(there, min(len(there), int(count * share))), kind)
    there = found["anywhere"]
    left = min(len(there), max(0, count - len(chosen)))
    return chosen | dict.fromkeys(dice.sample(there, left), "anywhere")


def _kinds(lives: Sequence[Sequence[Moment]]) -> Iterator[str]:
    promise = Promise()
    for life in lives:
        is_starting = True
        for step, is_end in life:
            match step:
                case Send():
                    heard = promise.hear(step)
                    is_starting = is_starting and heard is None
                    yield heard or "anywhere"
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
    """Return what stands for the events' bodies at the end of the run, where each holds the bytes that were sent."""
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


def _memory() -> str | None:
    """Return where files are made without a disk: thousands of them are synced."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a directory is made in it
