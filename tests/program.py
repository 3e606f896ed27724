"""The program of a fork (`tests.forked`): it replaces its standard streams and runs its command."""

import atexit
import io
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.reduction import DupFd
from typing import Any


class Program:
    """Runs a command with these descriptors as standard input, output and error; they are sent to the fork."""

    def __init__(self, streams: Sequence[int]) -> None:
        self._streams = streams

    def __getstate__(self) -> list[Any]:
        return [DupFd(stream) for stream in self._streams]

    def __setstate__(self, duplicates: list[Any]) -> None:
        self._streams = [duplicate.detach() for duplicate in duplicates]

    def __call__(self, arguments: Sequence[str], environ: Mapping[str, str], cwd: str) -> None:
        """Run as `python -m` would with these arguments."""
        for number, stream in enumerate(self._streams):
            os.dup2(stream, number)
            os.close(stream)
        sys.stdin = sys.__stdin__ = io.TextIOWrapper(open(0, "rb", closefd=False))  # type: ignore[misc]  # noqa: SIM115
        for number, name, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace")):
            file = open(number, "wb", closefd=False)  # noqa: SIM115 - stays open to the end
            is_by_lines = number == 2 or os.isatty(number)
            text = io.TextIOWrapper(file, encoding="utf-8", errors=errors, line_buffering=is_by_lines)
            setattr(sys, name, text)
            setattr(sys, f"__{name}__", text)
        os.environ.clear()
        os.environ.update(environ)
        os.chdir(cwd)
        module, *sys.argv[1:] = arguments
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except Exception:  # noqa: BLE001 - the process's root
            sys.excepthook(*sys.exc_info())
            sys.exit(1)
        finally:
            atexit._run_exitfuncs()  # a fork of multiprocessing skips these; they flush buffers
