"""Whether the server takes work, as `/readyz`, `/metrics` and the dashboard report it."""

from enum import StrEnum
from typing import Protocol


class Readiness(StrEnum):
    """What `/readyz` tells a load balancer; only `STARTING` and `DRAINING` send it elsewhere."""

    STARTING = "starting"
    OK = "ok"
    DEGRADED = "degraded"
    DRAINING = "draining"


class Lifecycle(Protocol):
    """Where the server is between its start and its end."""

    def readiness(self) -> tuple[Readiness, tuple[str, ...]]:
        """Return the state and, where it is degraded, why, one sentence each."""
        ...
