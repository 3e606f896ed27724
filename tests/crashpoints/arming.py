"""Arming one point in a process that is about to run the command line: at the nth call there, it kills itself.

Runs in the child, before the command. A place is a function of the server, wrapped from outside under the name by which
it is called, or what SQLite does to a file ("disk:xWrite" and so on), met by a file system of ours in front of the real
one. Calls count only once a file named `armed` exists, so that what comes before the point can be set up in peace; a
file named `settled` says that a start has written all that it writes by itself. Just before it dies the process leaves
a file named `reached`.
"""

import inspect
import os
import signal
import threading
from collections.abc import Callable
from functools import reduce, wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import apsw
from msgspec import Struct, structs

from webhookd.jobs import statistics
from webhookd.journal import Store
from webhookd.journal.queries.retention import Pruned
from webhookd.journal.transactions import Transactions

DISK = "disk"
_A_DAY = 24 * 3600
ARMED, REACHED, SETTLED = "armed", "reached", "settled"


class Place(Struct, frozen=True, kw_only=True):
    """Where a process dies: at the `nth` call of `at`, before it or once it has returned.

    `at` is "module:name.name" or "disk:xWrite", "disk:xSync", "disk:xTruncate". With `about` only calls count that have
    an argument which contains that text; of the disk, what is done to the file of that name.
    """

    at: str
    nth: int = 1
    is_after: bool = False
    about: str = ""


class MissingPlaceError(Exception):
    """The function of a point is no longer where the table says."""


class _Trap:
    def __init__(self, place: Place, directory: Path) -> None:
        self._place = place
        self._armed, self._reached = directory / ARMED, directory / REACHED
        self._left = place.nth
        self._lock = threading.Lock()

    def is_due(self, arguments: tuple[object, ...]) -> bool:
        """Count a call; whether it is the one."""
        if not self._armed.exists():
            return False
        about = self._place.about
        if about and not any(isinstance(one, str) and about in one for one in arguments):
            return False
        with self._lock:
            self._left -= 1
            return self._left == 0

    def spring(self) -> None:
        """Die here."""
        self._reached.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with the trap before or after it."""
        is_after = self._place.is_after
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def run_async(*args: Any, **kwargs: Any) -> Any:
                is_due = self.is_due(args)
                if is_due and not is_after:
                    self.spring()
                result = await function(*args, **kwargs)
                if is_due:
                    self.spring()
                return result

            return run_async

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            is_due = self.is_due(args)
            if is_due and not is_after:
                self.spring()
            result = function(*args, **kwargs)
            if is_due:
                self.spring()
            return result

        return run


def find(at: str) -> tuple[Any, str, Callable[..., Any]]:
    """Return what holds the function that a place names, the last name, and the function; MissingPlaceError."""
    module_name, _, path = at.partition(":")
    *owners, name = path.split(".")
    try:
        owner = reduce(getattr, owners, import_module(module_name))
        function = getattr(owner, name)
    except (ImportError, AttributeError) as error:
        raise MissingPlaceError(f"{at} is gone: {error}") from error
    if not callable(function):
        raise MissingPlaceError(f"{at} is no function any more")
    return owner, name, function


def arm(place: Place, directory: Path) -> object:
    """Arm the place in this process; what it returns is to be kept for as long as that should hold."""
    kind, _, method = place.at.partition(":")
    if kind == DISK:
        return _Disk(_Trap(structs.replace(place, about=""), directory), method, place.about)
    trap = _Trap(place, directory)
    owner, name, function = find(place.at)
    setattr(owner, name, trap.around(function))
    return trap


def save_no_statistics() -> None:
    """Have a server of this process save its counts only at its end: a minute's end would be one more commit."""
    setattr(statistics, "MINUTE", _A_DAY)  # noqa: B010 - to mypy a name of another module isn't assigned to


def tell_when_settled(directory: Path) -> None:
    """Have a server leave the file `settled` once its first look for what is to be forgotten is through."""
    forget: Any = Transactions.insist
    give_back_pages: Any = Store._give_back_pages
    is_all_forgotten = False

    @wraps(forget)
    async def forget_and_see(*args: Any, **kwargs: Any) -> Any:
        nonlocal is_all_forgotten
        result = await forget(*args, **kwargs)
        is_all_forgotten = is_all_forgotten or (isinstance(result, Pruned) and not result.rows)
        return result

    @wraps(give_back_pages)
    async def give_back_and_tell(*args: Any, **kwargs: Any) -> Any:
        await give_back_pages(*args, **kwargs)
        if is_all_forgotten:
            (directory / SETTLED).touch()

    # By name, since to mypy a method isn't assigned to.
    setattr(Transactions, "insist", forget_and_see)  # noqa: B010
    setattr(Store, "_give_back_pages", give_back_and_tell)  # noqa: B010


class _Disk(apsw.VFS):
    """The operating system's files, of which those of one name are watched."""

    def __init__(self, trap: _Trap, method: str, watched: str) -> None:
        self._trap, self._method, self._watched = trap, method, watched
        self._real = apsw.vfs_names()[0]
        super().__init__("crashing", self._real, makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802 - SQLite's name
        called = "" if name is None else name if isinstance(name, str) else name.filename()
        if Path(called).name != self._watched:
            return apsw.VFSFile(self._real, name, flags)
        file = _File(self._real, name, flags)
        setattr(file, self._method, self._trap.around(getattr(file, self._method)))
        return file


class _File(apsw.VFSFile):
    """A file whose methods can be replaced."""
