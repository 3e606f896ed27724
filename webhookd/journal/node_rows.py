"""What is known of the nodes that share a database, and of its server, as plain data."""

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct


class NodeRow(Struct, frozen=True, kw_only=True):
    """A node that shares a database: its id, its name for people, and how many slots it drives.

    - `version`: that of the settings it knows (see `known_settings`); `program`: its version of webhookd.
    - `address`: from where it connects to the database, None for a Unix socket.
    - `leads`: whether it does what only one node may do at a time.
    - `seconds_left`: when its lease ends, unless it goes on.
    - `beat_at`, `beat_age_seconds`: when it extended its lease last, by the database's clock.
    - `changes_behind`: how many changes of settings it had not followed by then.
    - `look_age_seconds`: how long ago it looked for what others have queued; None if it has not yet.
    """

    id: str
    name: str
    version: int
    slots: int
    seconds_left: float
    program: str | None = None
    address: str | None = None
    leads: bool = False
    beat_at: float | None = None
    beat_age_seconds: float = 0.0
    changes_behind: int = 0
    look_age_seconds: float | None = None


class Nodes(Struct, frozen=True, kw_only=True):
    """The nodes that share a database, by name; `own` is the id of this one. `free_slots` are without a driver.

    `last_change` is the number of the last change of settings.
    """

    own: str
    nodes: list[NodeRow]
    free_slots: int
    last_change: int = 0


class NodeStatus(Struct, frozen=True, kw_only=True):
    """What a node knows of itself, also while it can't reach its database.

    - `beat_age_seconds`: since it sent its last good beat.
    - `leases_lost`: how often it came too late, so that other nodes could take its slots.
    - `slots_taken`: how many slots it has taken since its start.
    - `unreachable_seconds`: for how long it could not reach the database since its start.
    - `known_change`: the number of the last change of settings that it has followed.
    """

    slots: int
    leads: bool
    beat_age_seconds: float
    leases_lost: int
    slots_taken: int
    unreachable_seconds: float
    known_change: int


class Driver(Struct, frozen=True):
    """The node that drives an endpoint: its name, None if none does, and whether it is this process."""

    name: str | None
    is_here: bool


class Pooler(StrEnum):
    """What hands out the database's connections: nothing, a pooler for a whole session, or for each transaction."""

    UNKNOWN = "unknown"
    NONE = "none"
    SESSION = "session"
    TRANSACTION = "transaction"


class ServerFacts(Struct, frozen=True, kw_only=True):
    """How the server of a database is set up, and what is under way on it.

    - `is_standby`: whether it only follows a primary.
    - `standbys`: how many are connected.
    - `connections`: how many this user may have; `foreign_connections`: those that other programs have now, and
      `used_connections` all that there are now.
    - `vacuums`: whether autovacuum is on; `unvacuumed`: the tables that are excluded from it.
    - `dead_rows`: versions of rows that wait to be vacuumed, by table, for the tables that change most.
    - `sees_all`: whether this user may see the transactions of other users.
    - `oldest_seconds`, `oldest_prepared_seconds`: the age of the oldest transaction and prepared transaction, if any.
    - `idle_transactions`: sessions that have stood in an open transaction for a minute.
    - `unread_slots`: replication slots that nobody reads, which keep what is deleted and the write-ahead log.
    - `missing_rights`: what this user may not do, and webhookd needs.
    - `nodes`: how many use the journal now; `free_slots`: slots of webhooks that none of them drives.
    - `programs`: the versions of webhookd that these have.
    - `pooler`: what is between, if that was looked for.
    - `clock_seconds`: how far this machine's clock is ahead of the server's, at least; negative if it is behind.
    - `days_ahead`: for how many days after today there are partitions, -1 without today's; None without tables.
    """

    version: str
    synchronous_commit: str
    synchronous_standbys: str
    standbys: int
    is_encrypted: bool
    connections: int
    foreign_connections: int
    vacuums: bool
    unvacuumed: tuple[str, ...]
    sees_all: bool
    oldest_seconds: float | None
    oldest_prepared_seconds: float | None
    is_standby: bool
    used_connections: int
    idle_transactions: int
    unread_slots: tuple[str, ...]
    missing_rights: tuple[str, ...]
    dead_rows: Mapping[str, int]
    nodes: int
    free_slots: int
    programs: tuple[str, ...]
    clock_seconds: float
    days_ahead: int | None
    pooler: Pooler = Pooler.UNKNOWN

    @property
    def is_synchronous(self) -> bool:
        """Whether webhookd's commits wait for a standby: where the default is `off`, its own wait all the same."""
        return bool(self.synchronous_standbys) and self.synchronous_commit != "local"
