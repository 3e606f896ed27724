"""Where a journal on PostgreSQL is, and how this process is a node of it."""

import socket
from dataclasses import dataclass, field
from pathlib import Path

from webhookd.base.database_url import DatabaseUrl


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """How long leases last, in seconds; tests make all of them shorter, or longer, by the same factor."""

    lease: float = 7.0
    limit: float = 5.5
    """After that long since its last good beat was sent, a node begins no request."""
    beat: float = 2.0
    scan: float = 0.9
    look: float = 1.0
    """How often a node looks for what it wasn't told."""

    def __post_init__(self) -> None:
        assert self.beat < self.limit < self.lease  # noqa: S101 - the proof in `postgres.leases` rests on it

    def scaled(self, factor: float) -> "LeaseTimes":
        """Return times that are `factor` times as long."""
        return LeaseTimes(
            lease=self.lease * factor,
            limit=self.limit * factor,
            beat=self.beat * factor,
            scan=self.scan * factor,
            look=self.look * factor,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The database of a journal, and the name and the leases of this node."""

    url: DatabaseUrl
    password_file: Path | None = None
    node_name: str = field(default_factory=socket.gethostname)
    times: LeaseTimes = LeaseTimes()
