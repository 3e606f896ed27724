"""What is stored of the dashboard's sessions, where several nodes share a database. Times are the database's."""

from msgspec import Struct


class NewSession(Struct, frozen=True, kw_only=True):
    """A session of the dashboard that begins: its key, its caller, and when the caller's own key or token expires.

    `place` names the caller, and `share` what it shares its limits with.
    """

    key: bytes
    place: str
    share: str
    expires_at: float | None


class SessionLimits(Struct, frozen=True, kw_only=True):
    """How long a session lasts, without use and in any case, and how many there are of one caller and in all."""

    idle_seconds: float
    longest_seconds: float
    most_of_one_caller: int
    most: int


class StoredSession(Struct, frozen=True, kw_only=True):
    """An open session, and how many seconds ago it was used, as far as that is stored."""

    content: bytes
    idle_seconds: float
