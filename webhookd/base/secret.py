"""A value that can't leak by accident: not into a log line, a traceback, a document or a pickle.

Code that needs the value calls `reveal`, so that each such place can be found by that name.
"""

import hmac
from typing import Generic, NoReturn, TypeVar

T = TypeVar("T", str, bytes)

_SHOWN = "Secret(hidden)"


class Secret(Generic[T]):
    """Holds a secret text or bytes.

    Two secrets are compared in constant time, and a secret never equals a plain value. It has no hash, length or
    truth value, can't be pickled or copied, and msgspec and json can't encode it.
    """

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value: T = value

    def reveal(self) -> T:
        """Return the value."""
        return self._value

    def __repr__(self) -> str:
        return _SHOWN

    def __format__(self, _spec: str) -> str:
        return _SHOWN

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_bytes(self._value), _bytes(other.reveal()))

    __hash__ = None  # type: ignore[assignment]  # a look-up by hash would not be in constant time

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a secret can't be pickled or copied")


def _bytes(value: str | bytes) -> bytes:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
