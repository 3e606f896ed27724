"""Whether the server takes work, as `/readyz`, `/metrics` and the dashboard report it."""

from enum import StrEnum
from typing import Protocol


class Readiness(StrEnum):
    """The answer of `/readyz`; it is 503 for `STARTING`, `DRAINING` and `UNREACHABLE`, a database out of reach."""

    STARTING = "starting"
    OK = "ok"
    DEGRADED = "degraded"
    DRAINING = "draining"
    UNREACHABLE = "unreachable"


class Lifecycle(Protocol):
    """Knows the state of the server between its start and its end."""

    def readiness(self) -> tuple[Readiness, tuple[str, ...]]:
        """Return the state and, if it is degraded or unreachable, the reasons, one sentence each."""
        ...
