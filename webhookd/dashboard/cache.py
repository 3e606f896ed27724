"""A short-lived cache of results that many pages and streams need.

To count the backlog reads a whole index, so it takes at most 2 % of the time, however many pages are open.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar, cast

import trio

T = TypeVar("T")

SHARE = 0.02
MOST = 256


@dataclass(slots=True)
class _Kept:
    lock: trio.Lock = field(default_factory=trio.Lock)
    value: object = None
    until: float = -1.0


class Kept:
    """Recent results, by key."""

    def __init__(self) -> None:
        self._kept: dict[tuple[object, ...], _Kept] = {}

    async def get(self, key: tuple[object, ...], seconds: float, make: Callable[[], Awaitable[T]]) -> T:
        """Return the result of `make`, or its result for this key in the last `seconds` or more."""
        now = trio.current_time()
        if key not in self._kept and len(self._kept) >= MOST:
            self._kept = {name: kept for name, kept in self._kept.items() if kept.until > now}
        kept = self._kept.setdefault(key, _Kept())
        async with kept.lock:
            began_at = trio.current_time()
            if began_at >= kept.until:
                kept.value = await make()
                took_seconds = trio.current_time() - began_at
                kept.until = trio.current_time() + max(seconds, took_seconds / SHARE)
            return cast("T", kept.value)
