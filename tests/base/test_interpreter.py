"""What the interpreter was built without is read from the record of its build, if that says so."""

import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest

from webhookd.base.interpreter import (
    Optimization,
    _uses_library,
    describe,
    lacking,
    lacking_here,
    lacking_in_library,
)

PGO, LTO = Optimization.PGO, Optimization.LTO
PLAIN = "-Wsign-compare -DNDEBUG -g -fwrapv -O3 -Wall"
USED = "-std=c11 -fvisibility=hidden -fprofile-use -fprofile-correction -I./Include/internal"


def record(options: str = "", **variables: object) -> dict[str, object]:
    """Return the variables of a build with these options of configure; others replace the defaults."""
    return {
        "CONFIG_ARGS": options,
        "PY_CFLAGS": PLAIN,
        "PY_CFLAGS_NODIST": "-std=c11 -fvisibility=hidden",
        "PY_LDFLAGS": "",
        "PY_LDFLAGS_NODIST": "",
        "Py_ENABLE_SHARED": 0,
        # It is there in every build, and says nothing about this one.
        "PGO_PROF_USE_FLAG": "-fprofile-use -fprofile-correction",
        **variables,
    }


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (record(), (PGO, LTO)),
        (record("'--enable-optimizations'"), (LTO,)),
        (record("'--with-lto'"), (PGO,)),
        (record("'--enable-optimizations' '--with-lto' 'CFLAGS=-g -O2'"), ()),
        # The last option holds, as in configure.
        (record("'--enable-optimizations=yes' '--with-lto=thin'"), ()),
        (record("'--enable-optimizations=no' '--with-lto=no'"), (PGO, LTO)),
        (record("--enable-optimizations --with-lto=full --disable-optimizations --without-lto"), (PGO, LTO)),
        (record("--without-lto --with-lto"), (PGO,)),
        # `make profile-opt` without the option, with either compiler.
        (record(PY_CFLAGS_NODIST=USED), (LTO,)),
        (record(PY_CFLAGS_NODIST="-fprofile-instr-use=code.profclangd -flto=thin"), ()),
        # A distribution's own flags.
        (record(PY_LDFLAGS_NODIST="-flto -fuse-linker-plugin -g", PY_CFLAGS_NODIST=f"{USED} -flto"), ()),
        (record(PY_CFLAGS=f"{PLAIN} -flto=auto -ffat-lto-objects"), (PGO,)),
        (record("--with-lto", PY_CFLAGS=f"{PLAIN} -fno-lto"), (PGO, LTO)),
        # Options and flags that only begin in the same way.
        (record("'--with-ltos' '--enable-optimizations-of-mine'", PY_CFLAGS="-flto-partition=none"), (PGO, LTO)),
        # Values that a build may leave out.
        (record(PY_CFLAGS_NODIST=None, PY_LDFLAGS_NODIST=None), (PGO, LTO)),
    ],
)
def test_each_combination_is_told(recorded: Mapping[str, object], expected: tuple[Optimization, ...]) -> None:
    """Options of configure and flags of the compiler both count, and so does their opposite if it comes later."""
    assert lacking(recorded, in_library=False) == expected
    assert lacking({**recorded, "Py_ENABLE_SHARED": 1}, in_library=True) == expected


@pytest.mark.parametrize("in_library", [False, True])
def test_the_record_of_another_build_lacks_nothing(in_library: bool) -> None:
    """Where record and process disagree on the shared library, only what is recorded counts, not what is missing."""
    other = record(Py_ENABLE_SHARED=int(not in_library))
    assert lacking(other, in_library=in_library) is None
    assert lacking({**other, "CONFIG_ARGS": "--enable-optimizations"}, in_library=in_library) is None
    assert lacking({**other, "CONFIG_ARGS": "--enable-optimizations --with-lto"}, in_library=in_library) == ()


def test_no_record_is_not_a_build_without() -> None:
    """An interpreter that records no options may have been built with everything."""
    assert lacking({}, in_library=False) is None


def test_a_process_without_a_list_of_its_files_is_not_a_build_without(tmp_path: Path) -> None:
    """Where /proc isn't mounted, record and process can't be compared."""
    (tmp_path / "maps").write_text("7f0000000000-7f0000001000 r-xp 00000000 fe:00 1  /usr/lib/libpython3.11.so.1.0\n")
    assert _uses_library(tmp_path / "maps") is True
    (tmp_path / "maps").write_text("00400000-0041f000 r--p 00000000 fe:00 1  /usr/bin/python3.11\n")
    assert _uses_library(tmp_path / "maps") is False
    assert _uses_library(tmp_path / "nowhere") is None
    for is_shared in (0, 1):
        assert lacking(record(Py_ENABLE_SHARED=is_shared), in_library=None) is None
        whole = record("--enable-optimizations --with-lto", Py_ENABLE_SHARED=is_shared)
        assert lacking(whole, in_library=None) == ()


def test_each_result_is_a_sentence() -> None:
    """What is missing is named with the options that add it."""
    name = f"CPython {sys.version.split()[0]}"
    assert describe(()) == f"{name}, built with PGO and LTO"
    assert describe((LTO,)) == f"{name}, built without LTO (configure --with-lto)"
    assert describe((PGO, LTO)) == f"{name}, built without PGO and LTO (configure --enable-optimizations --with-lto)"
    assert describe(None) == f"{name}; it isn't known whether it was built with PGO and LTO"


def test_the_running_interpreter_is_looked_at() -> None:
    """The record of this interpreter is read, and a shared library counts if the program is linked with it."""
    linked = subprocess.run(["ldd", sys.executable], capture_output=True, text=True, check=True).stdout
    recorded = sysconfig.get_config_vars()
    assert lacking_here() == lacking(recorded, in_library="libpython3" in linked)
    assert lacking_in_library() == lacking(recorded, in_library=True)
