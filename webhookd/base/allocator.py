"""A setting of the C library's memory allocator."""

import ctypes

_M_ARENA_MAX = -8  # malloc.h of glibc


def use_one_arena() -> bool:
    """Have all threads allocate from one arena (mallopt(3)); return whether the C library has this setting.

    By default glibc gives threads arenas of their own, and memory that is freed in one arena can't be used by the
    threads of another. Call it before the first thread starts. musl and macOS don't have the setting.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_M_ARENA_MAX, 1))
