"""Model a disk that keeps what was synced, and any part of what was not.

What may be left when the power is cut:

- A file has everything that a sync covers. Of later writes and truncations any part may be there: all, nothing, the
  first few with the last one torn, any choice of whole writes, or any choice of their 4096-byte pages or 512-byte
  sectors, so that early ones may be lost and late ones kept. A sector is written completely or not at all. A file that
  grew may have its new size without the bytes: then they are zeros, or random.
- A directory has every change of a name that a sync of the directory covers, and of the later ones the first few. A
  rename is one change. Syncing a file does not sync its name.
- Files and directories are independent of each other.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePosixPath

from tests.powercut.trace import Name, Open, Step, Sync, Truncate, Write

SECTOR, PAGE = 512, 4096
IGNORED = ("-shm", ".lock", ".reserve", ".sock", "/log", "/config.toml")
"""Files outside the model: the index of the log, which is rebuilt; lock and reserve, which hold no data; and files that
are not the server's own."""


class Fate(Enum):
    """Which unsynced writes of a file are left."""

    NONE = "what was synced"
    ALL = "all"
    FIRST = "the first writes"
    LAST = "the last writes"
    ALL_BUT_ONE = "all but one write"
    SOME = "some writes"
    PAGES = "some pages"
    SECTORS = "some sectors"


_BY_CHANCE = [fate for fate in Fate if fate not in {Fate.NONE, Fate.ALL}]


@dataclass(slots=True, eq=False)
class _Change:
    """Bytes that were written at an offset, or without bytes (None) a truncation to that size."""

    offset: int
    data: bytes | None
    has_ended: bool = False


@dataclass(slots=True, eq=False)
class _File:
    synced: bytearray = field(default_factory=bytearray)
    changes: list[_Change] = field(default_factory=list)

    def size(self) -> int:
        size = len(self.synced)
        for change in self.changes:
            size = change.offset if change.data is None else max(size, change.offset + len(change.data))
        return size


@dataclass(slots=True, eq=False)
class _Renaming:
    """A name that was added (`old` None), removed (`new` None), or changed."""

    file: _File
    old: str | None
    new: str | None
    has_ended: bool = False

    def apply(self, names: dict[str, _File]) -> None:
        if self.old is not None:
            names.pop(self.old, None)
        if self.new is not None:
            names[self.new] = self.file


class Disk:
    """The files below one directory; `take` follows the steps of a trace, `left` returns what could be left."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._synced = {path: _File(bytearray(data)) for path, data in files.items()}
        self._names = dict(self._synced)
        self._renamings: dict[str, list[_Renaming]] = {}
        self._open: dict[int, _File] = {}
        self._places: dict[int, int] = {}
        self._under_way: dict[Step, Sequence[_Change] | Sequence[_Renaming]] = {}

    def take(self, step: Step, *, is_end: bool) -> None:
        """Apply the beginning or the end of a step."""
        if step.path.endswith(IGNORED):
            return
        if is_end:
            self._end(step)
        else:
            self._begin(step)

    def restart(self, files: Mapping[str, bytes]) -> None:
        """Apply the end of the process, which left these files.

        Raises AssertionError if the steps don't lead to these files, so that the model does not match the run.
        """
        # The call during which the process was killed has happened or has not.
        cut_off = [change for file in self._names.values() for change in file.changes if not change.has_ended]
        if self.written() != files:
            for file in self._names.values():
                file.changes = [change for change in file.changes if change.has_ended]
        assert self.written() == files, "the steps of the run don't lead to the files that it left"
        for change in cut_off:
            change.has_ended = True
        self._open.clear()
        self._places.clear()
        self._under_way.clear()

    def _begin(self, step: Step) -> None:
        match step:
            case Open():
                self._opened(step)
            case Write():
                offset = self._places.get(step.descriptor, 0) if step.offset is None else step.offset
                self._places[step.descriptor] = offset + len(step.data)
                self._change(step, self._open[step.descriptor], _Change(offset, step.data))
            case Truncate():
                self._change(step, self._open[step.descriptor], _Change(step.size, None))
            case Sync() if step.descriptor in self._open and step.path in self._names:
                changes = self._open[step.descriptor].changes
                self._under_way[step] = [change for change in changes if change.has_ended]
            case Sync():
                self._under_way[step] = [each for each in self._renamings.get(step.path, ()) if each.has_ended]
            case Name():
                self._renamed(step)

    def _end(self, step: Step) -> None:
        covered = self._under_way.pop(step, ())
        if not isinstance(step, Sync):
            for each in covered:
                each.has_ended = True
            return
        for each in covered:
            if isinstance(each, _Renaming):
                each.apply(self._synced)
                self._renamings[step.path].remove(each)
            else:
                file = self._open[step.descriptor]
                _apply(file.synced, each)
                file.changes.remove(each)

    def _opened(self, step: Open) -> None:
        file = self._names.get(step.path)
        if file is None:
            if not step.creates:  # a directory
                return
            file = _File()
            self._rename(step, _Renaming(file, None, step.path))
        self._open[step.descriptor] = file
        self._places[step.descriptor] = 0
        if step.truncates:
            file.changes.append(_Change(0, None, has_ended=True))

    def _change(self, step: Step, file: _File, change: _Change) -> None:
        file.changes.append(change)
        self._under_way[step] = [change]

    def _renamed(self, step: Name) -> None:
        file = self._names.get(step.path)
        if file is not None:
            if step.to is not None and _directory(step.to) != _directory(step.path):
                raise AssertionError(f"the model has no move to another directory: {step.path} to {step.to}")
            self._rename(step, _Renaming(file, None if step.keeps else step.path, step.to))

    def _rename(self, step: Step, renaming: _Renaming) -> None:
        renaming.apply(self._names)
        self._renamings.setdefault(_directory(renaming.new or renaming.old or ""), []).append(renaming)
        self._under_way[step] = [renaming]

    def written(self) -> dict[str, bytes]:
        """Return the current files as a process sees them."""
        return {path: _image(file, file.changes) for path, file in self._names.items()}

    def left(self, fates: Sequence[Fate], dice: random.Random) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Yield what a power cut could leave now: a state for each fate, then one with a random fate for each file."""
        for fate in fates:
            yield fate.value, self._left([fate], dice)
        yield "by chance", self._left([*Fate], dice)

    def _left(self, fates: Sequence[Fate], dice: random.Random) -> dict[str, bytes]:
        names = dict(self._synced)
        for renamings in self._renamings.values():
            fate = dice.choice(fates)
            count = len(renamings)
            kept = 0 if fate is Fate.NONE else count if fate is Fate.ALL else dice.randint(0, count)
            for renaming in renamings[:kept]:
                renaming.apply(names)
        chosen = {id(file): dice.choice(fates) for file in names.values()}
        return {path: _leave(file, chosen[id(file)], dice) for path, file in names.items()}


def by_chance(dice: random.Random, count: int) -> list[Fate]:
    """Return `count` random fates other than NONE and ALL."""
    return dice.choices(_BY_CHANCE, k=count)


def _leave(file: _File, fate: Fate, dice: random.Random) -> bytes:
    changes = file.changes
    if not changes or fate is Fate.NONE:
        return bytes(file.synced)
    if fate is Fate.ALL:
        return _image(file, changes)
    return _image(file, _kept(changes, fate, dice), dice)


def _kept(changes: Sequence[_Change], fate: Fate, dice: random.Random) -> list[_Change]:
    at = dice.randrange(len(changes))
    match fate:
        case Fate.FIRST:
            torn = _pieces(changes[at], SECTOR)
            return [*changes[:at], *torn[: dice.randint(0, len(torn))]]
        case Fate.LAST:
            return [*changes[at:]]
        case Fate.ALL_BUT_ONE:
            return [*changes[:at], *changes[at + 1 :]]
        case Fate.SOME:
            pieces = list(changes)
        case _:
            unit = PAGE if fate is Fate.PAGES else SECTOR
            pieces = [piece for change in changes for piece in _pieces(change, unit)]
    return [piece for piece in pieces if dice.random() < 0.5]


def _pieces(change: _Change, unit: int) -> list[_Change]:
    """Split a write at the boundaries of the disk's units."""
    if change.data is None:
        return [change]
    pieces, start, end = [], change.offset, change.offset + len(change.data)
    while start < end:
        stop = min(end, (start // unit + 1) * unit)
        pieces.append(_Change(start, change.data[start - change.offset : stop - change.offset]))
        start = stop
    return pieces


def _image(file: _File, changes: Sequence[_Change], dice: random.Random | None = None) -> bytes:
    """Return the file after these changes; with dice, its size may have grown without the bytes."""
    image = bytearray(file.synced)
    if dice is not None and (grown := file.size() - len(image)) > 0 and dice.random() < 0.5:
        image += dice.randbytes(grown) if dice.random() < 0.5 else bytes(grown)
    for change in changes:
        _apply(image, change)
    return bytes(image)


def _apply(image: bytearray, change: _Change) -> None:
    if change.data is None:
        del image[change.offset :]
        image.extend(bytes(change.offset - len(image)))
        return
    if len(image) < change.offset:
        image.extend(bytes(change.offset - len(image)))
    image[change.offset : change.offset + len(change.data)] = change.data


def _directory(path: str) -> str:
    return str(PurePosixPath(path).parent)
