"""Where the journal is: a file, or a database on PostgreSQL with this process as a node of it."""

import socket
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from webhookd.base.database_url import DatabaseUrl
from webhookd.base.errors import ConfigError
from webhookd.config import JournalConfig
from webhookd.journal.known_settings import KNOWN, KnownSettings

NO_COPY = (
    "the journal is in a PostgreSQL database: make backups and restore them with PostgreSQL's own tools, such as "
    "pg_dump or an archive of its write-ahead log"
)
"""Why webhookd makes no backup of a journal in a database, and puts none in its place."""


CONNECTIONS_A_NODE = 9
"""How many connections a node has to its database."""


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
    outdated: float = 5.0
    """After that long without knowing what other nodes have changed, a node accepts no API key."""
    settle: float = 6.0
    """After another incarnation of the database was found, no slot is taken for that long."""

    def __post_init__(self) -> None:
        # The proofs in `postgres.leases` and `postgres.incarnations` rest on it.
        assert self.beat < self.limit < min(self.lease, self.settle)  # noqa: S101

    def scaled(self, factor: float) -> "LeaseTimes":
        """Return times that are `factor` times as long."""
        return LeaseTimes(
            lease=self.lease * factor,
            limit=self.limit * factor,
            beat=self.beat * factor,
            scan=self.scan * factor,
            look=self.look * factor,
            outdated=self.outdated * factor,
            settle=self.settle * factor,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The database of a journal, and the name and the leases of this node."""

    url: DatabaseUrl
    password_file: Path | None = None
    node_name: str = field(default_factory=socket.gethostname)
    times: LeaseTimes = LeaseTimes()
    takes_part: bool = True
    """Whether this process drives endpoints; a command that only changes settings doesn't."""
    known: KnownSettings = KNOWN
    """What this program knows of settings, and other versions of it."""


def check_driver() -> None:
    """Raise ConfigError if the driver of PostgreSQL isn't installed: it is an extra."""
    if find_spec("psycopg") is None:
        raise ConfigError(
            "journal.url needs the driver of PostgreSQL, which isn't installed: pip install 'webhookd[postgresql]', or "
            "with pinned versions docs/deploy/postgresql.lock"
        )


def place_of(settings: JournalConfig) -> Path | Server:
    """Return where the configuration has the journal."""
    url = settings.database
    if url is None:
        return settings.path
    return Server(url=url, password_file=settings.password_file, node_name=settings.node_name or socket.gethostname())
