"""Every setting with its bounds and its default, as a tree of frozen Structs.

The shipped `config.toml` repeats the defaults for the reader; a test compares the two.
"""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from webhookd.base.database_url import DatabaseUrl, parse
from webhookd.base.fields import (
    ACCEPTS,
    BreakerThreshold,
    Concurrency,
    Jitter,
    MaxAgeSeconds,
    MaxRefusals,
    ParkAfter,
    RateBurst,
    RatePerSecond,
    RetryDelays,
    TimeoutSeconds,
)
from webhookd.base.models import Ordering, Role, WhenInactive

# A file name as systemd accepts it for a credential: without a directory, and not hidden.
CredentialName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_@.-]{0,254}\Z",
        extra={ACCEPTS: "the name of a file without a directory, of letters, digits, _ @ . and -"},
    ),
]
Host = Annotated[str, Meta(min_length=1)]
Port = Annotated[int, Meta(ge=1, le=65535)]


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the sections; unknown keys are errors."""


class ServerConfig(_Section, frozen=True, kw_only=True):
    """`[server]`: the admin API's listeners and their limits."""

    host: Host | Annotated[tuple[Host, ...], Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    control_socket: Path = Path("var/control.sock")
    max_connections: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    max_connections_per_address: Annotated[int, Meta(ge=1, le=100_000)] = 800
    request_timeout_seconds: Annotated[float, Meta(ge=1, le=600)] = 30
    rate_limit_per_second: RatePerSecond | None = None
    rate_limit_burst: RateBurst = 50
    dashboard: bool = True


class IngestConfig(_Section, frozen=True, kw_only=True):
    """`[ingest]`: the socket for local producers."""

    socket: Path = Path("var/ingest.sock")
    allowed_uids: tuple[Annotated[int, Meta(ge=0)], ...] = ()
    allowed_gids: tuple[Annotated[int, Meta(ge=0)], ...] = ()
    max_event_bytes: Annotated[int, Meta(ge=1024, le=1_048_576)] = 262_144
    max_connections: Annotated[int, Meta(ge=1, le=100_000)] = 1000


class JournalConfig(_Section, frozen=True, kw_only=True):
    """`[journal]`: the SQLite file with all data, or the PostgreSQL database."""

    path: Path = Path("var/webhookd.db")
    url: str | None = None
    password_file: Path | None = None
    node_name: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    retention_days: Annotated[float, Meta(gt=0, le=36_500)] = 30
    max_bytes: Annotated[int, Meta(ge=16_777_216)] | None = None

    @property
    def database(self) -> DatabaseUrl | None:
        """The database, or None if the journal is a file; `load_config` has checked the URL."""
        return None if self.url is None else parse(self.url)

    @property
    def name(self) -> str:
        """What messages call the journal: its path, or its database and host."""
        return str(self.path if self.database is None else self.database)


class DeliveryConfig(_Section, frozen=True, kw_only=True):
    """`[delivery]`: the policy of every webhook that doesn't set its own, and the sender's limits."""

    timeout_seconds: TimeoutSeconds = 15
    connect_timeout_seconds: Annotated[float, Meta(ge=0.1, le=30)] = 5
    connection_max_age_seconds: Annotated[float, Meta(ge=1, le=3600)] = 60
    retry_delays: RetryDelays = (5, 30, 120, 300, 600, 900)
    retry_jitter: Jitter = 0.2
    max_refusals: MaxRefusals = 10
    max_age_seconds: MaxAgeSeconds = 259_200
    park_after: ParkAfter = 3
    breaker_threshold: BreakerThreshold = 5
    max_in_flight: Annotated[int, Meta(ge=1, le=10_000)] = 512
    drain_seconds: Annotated[float, Meta(ge=0, le=600)] = 30
    ordering: Ordering = Ordering.STRICT
    concurrency: Concurrency = 8
    rate_limit_per_second: RatePerSecond | None = None
    rate_limit_burst: RateBurst = 1
    when_inactive: WhenInactive = WhenInactive.HOLD
    disable_after_seconds: Annotated[float, Meta(ge=1)] = 432_000
    warn_after_seconds: Annotated[float, Meta(ge=1)] = 86_400


class EgressConfig(_Section, frozen=True, kw_only=True):
    """`[egress]`: where webhookd may connect to."""

    allow_http: bool = False
    ports: tuple[Port, ...] = (443, 8443)
    allow_networks: tuple[str, ...] = ()
    proxy: str | None = None


class EventsConfig(_Section, frozen=True, kw_only=True):
    """`[events]`: which events are accepted."""

    unknown_event_types: Literal["reject", "accept"] = "reject"


class OrganizationsConfig(_Section, frozen=True, kw_only=True):
    """`[organizations]`: the limits of each organization."""

    max_webhooks: Annotated[int, Meta(ge=1, le=1_000_000)] = 500
    max_keys: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    max_live_pages: Annotated[int, Meta(ge=1, le=512)] = 8
    max_events_per_request: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 10_000


class SecretsConfig(_Section, frozen=True, kw_only=True):
    """`[secrets]`: the master key, which encrypts secrets in the journal."""

    master_key_file: Path | None = None
    master_key_credential: CredentialName = "webhookd-master-key"


class JwtConfig(_Section, frozen=True, kw_only=True):
    """`[jwt]`: tokens of the application's own sign-in, accepted in addition to API keys if one of the files is set."""

    secret_file: Path | None = None
    public_key_file: Path | None = None
    jwks_file: Path | None = None
    issuer: Annotated[str, Meta(min_length=1)] | None = None
    audience: Annotated[str, Meta(min_length=1)] | None = None
    leeway_seconds: Annotated[float, Meta(ge=0, le=300)] = 30
    role_claim: Annotated[str, Meta(min_length=1)] = "role"
    roles: dict[str, Role] = field(default_factory=lambda: {role.value: role for role in Role})
    organization_claim: Annotated[str, Meta(min_length=1)] | None = None

    @property
    def key_file(self) -> tuple[str, Path] | None:
        """The configuration key that is set and its file, or None if no tokens are accepted."""
        for name in JWT_KEY_FILES:
            path: Path | None = getattr(self, name)
            if path is not None:
                return f"jwt.{name}", path
        return None


JWT_KEY_FILES = ("secret_file", "public_key_file", "jwks_file")


class LogConfig(_Section, frozen=True, kw_only=True):
    """`[log]`: the log on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Config(_Section, frozen=True, kw_only=True):
    """The whole configuration; `load_config` makes its paths absolute."""

    server: ServerConfig = field(default_factory=ServerConfig)
    ingest: IngestConfig = field(default_factory=IngestConfig)
    journal: JournalConfig = field(default_factory=JournalConfig)
    delivery: DeliveryConfig = field(default_factory=DeliveryConfig)
    egress: EgressConfig = field(default_factory=EgressConfig)
    events: EventsConfig = field(default_factory=EventsConfig)
    organizations: OrganizationsConfig = field(default_factory=OrganizationsConfig)
    secrets: SecretsConfig = field(default_factory=SecretsConfig)
    jwt: JwtConfig = field(default_factory=JwtConfig)
    log: LogConfig = field(default_factory=LogConfig)
