"""How the interpreter was built: with profile-guided optimization (PGO) and link-time optimization (LTO), or without.

A build of CPython records its options and flags, and `sysconfig` reads them. The record may be of another build than
the one that runs: Debian installs an optimized interpreter next to the record of its shared library, which isn't
optimized. So what the record lacks counts only if the record and this process agree on where the interpreter's code is,
in the program itself or in a shared library.
"""

import platform
import re
import sysconfig
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from webhookd.base.program import is_one_file

_LIBRARY = re.compile(r"/libpython3\.\d")
_RECORDED = ("CONFIG_ARGS", "PY_CFLAGS", "PY_CFLAGS_NODIST", "PY_LDFLAGS", "PY_LDFLAGS_NODIST")


class Optimization(Enum):
    """An optimization of the build, with the option of CPython's `configure` that asks for it."""

    PGO = "--enable-optimizations"
    LTO = "--with-lto"


# The options of `configure` and the compiler's flags, each with its opposite; of several the last holds. The flags are
# there without the option after `make profile-opt`, and the option without the flags where a packager removes them from
# the record, because otherwise modules in C would be built with them too.
_WITH_PGO = re.compile(r"--enable-optimizations(=yes)?|-fprofile(-instr)?-use(=.*)?")
_WITHOUT_PGO = re.compile(r"--disable-optimizations|--enable-optimizations=no|-fno-profile-use")
_WITH_LTO = re.compile(r"--with-lto(=(yes|full|thin))?|-flto(=.*)?")
_WITHOUT_LTO = re.compile(r"--without-lto|--with-lto=no|-fno-lto")


def lacking(record: Mapping[str, object], *, in_library: bool | None) -> tuple[Optimization, ...] | None:
    """Return what the interpreter was built without, or None if the record doesn't tell.

    `record` has the variables of `sysconfig`; `in_library` says whether the interpreter's code is in a shared library,
    if that is known.
    """
    words = [word.strip("'\"") for name in _RECORDED for word in str(record.get(name) or "").split()]
    found = tuple(optimization for optimization in Optimization if not _is_on(optimization, words))
    is_of_this_build = "CONFIG_ARGS" in record and bool(record.get("Py_ENABLE_SHARED")) == in_library
    return found if not found or is_of_this_build else None


def lacking_here() -> tuple[Optimization, ...] | None:
    """Return what the running interpreter was built without, or None if that isn't known."""
    in_library = True if is_one_file() else _uses_library(Path("/proc/self/maps"))
    return lacking(sysconfig.get_config_vars(), in_library=in_library)


def lacking_in_library() -> tuple[Optimization, ...] | None:
    """Return what the shared library of this interpreter was built without, or None if that isn't known."""
    return lacking(sysconfig.get_config_vars(), in_library=True)


def describe(found: tuple[Optimization, ...] | None) -> str:
    """Return the name of this interpreter with what was found."""
    name = f"{platform.python_implementation()} {platform.python_version()}"
    if found is None:
        return f"{name}; it isn't known whether it was built with PGO and LTO"
    if not found:
        return f"{name}, built with PGO and LTO"
    names = " and ".join(optimization.name for optimization in found)
    options = " ".join(optimization.value for optimization in found)
    return f"{name}, built without {names} (configure {options})"


def _uses_library(maps: Path) -> bool | None:
    """Whether a process uses the shared library, by its list of mapped files; None if there is no such list."""
    try:
        return _LIBRARY.search(maps.read_text()) is not None
    except OSError:
        return None  # /proc isn't mounted


def _is_on(optimization: Optimization, words: list[str]) -> bool:
    said = [is_on for word in words if (is_on := _says(optimization, word)) is not None]
    return bool(said) and said[-1]


def _says(optimization: Optimization, word: str) -> bool | None:
    """Return whether an option turns an optimization on or off, or None if it is about something else."""
    if optimization is Optimization.PGO:
        is_on, is_off = _WITH_PGO.fullmatch(word), _WITHOUT_PGO.fullmatch(word)
    else:
        is_on, is_off = _WITH_LTO.fullmatch(word), _WITHOUT_LTO.fullmatch(word)
    return None if is_on is None and is_off is None else is_on is not None
