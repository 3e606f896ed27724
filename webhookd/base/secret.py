"""A value that doesn't show itself: not in a log line, a traceback, a document or a pickle.

Whoever needs the value calls `reveal`, so that every such place can be found by that name.
"""

import hmac
from typing import Generic, NoReturn, TypeVar

T = TypeVar("T", str, bytes)

_SHOWN = "Secret(hidden)"


class Secret(Generic[T]):
    """Holds a text or bytes that must not be seen.

    Two secrets are compared in constant time, and one is never equal to the plain value. It has no hash, no length and
    no truth of its own, can't be pickled or copied, and msgspec and json have no encoding for it.
    """

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value: T = value

    def reveal(self) -> T:
        """Return the value itself."""
        return self._value

    def __repr__(self) -> str:
        return _SHOWN

    def __format__(self, _spec: str) -> str:
        return _SHOWN

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_bytes(self._value), _bytes(other.reveal()))

    __hash__ = None  # type: ignore[assignment]  # a hash would be a comparison that takes its own time

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a secret can't be pickled or copied")


def _bytes(value: str | bytes) -> bytes:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
