"""The allocator's setting, in a process of its own."""

import ctypes
import subprocess
import sys

import pytest

# Threads that allocate at the same time, outside of Python's lock, get arenas of their own unless there is only one.
COUNT_ARENAS = """
import ctypes, sys, tempfile, threading
from webhookd.base.allocator import use_one_arena
if sys.argv[1] == "one":
    assert use_one_arena()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
begin = threading.Barrier(8)
def allocate():
    begin.wait()
    for _ in range(2000):
        libc.malloc(ctypes.c_size_t(4096))
threads = [threading.Thread(target=allocate) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as file:
    stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    print(file.read().count(b"<heap nr="))
"""


def arenas(setting: str) -> int:
    command = [sys.executable, "-c", COUNT_ARENAS, setting]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="the C library isn't glibc")
def test_all_threads_share_one_arena() -> None:
    """Eight threads allocate from one arena with the setting, and from several without it."""
    assert arenas("one") == 1
    assert arenas("default") > 1
