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
class _Entry:
    lock: trio.Lock = field(default_factory=trio.Lock)
    value: object = None
    until: float = -1.0


class Cache:
    """Recent results, by key."""

    def __init__(self) -> None:
        self._entries: dict[tuple[object, ...], _Entry] = {}

    async def get(self, key: tuple[object, ...], seconds: float, make: Callable[[], Awaitable[T]]) -> T:
        """Return the result of `make`, or its result for this key in the last `seconds` or more."""
        now = trio.current_time()
        if key not in self._entries and len(self._entries) >= MOST:
            self._entries = {name: entry for name, entry in self._entries.items() if entry.until > now}
        entry = self._entries.setdefault(key, _Entry())
        async with entry.lock:
            began_at = trio.current_time()
            if began_at >= entry.until:
                entry.value = await make()
                took_seconds = trio.current_time() - began_at
                entry.until = trio.current_time() + max(seconds, took_seconds / SHARE)
            return cast("T", entry.value)
