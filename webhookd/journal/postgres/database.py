"""Connect to the journal's database: the settings of each session, and the translation of PostgreSQL's errors.

Each connection is used by one thread at a time, and is to the primary. A session that stands in an open transaction
holds locks that other nodes wait for, so the server ends it after some seconds. When one end of a connection is gone,
the other notices within seconds.
"""

import os
import re
import ssl
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

import psycopg
from peewee import PeeweeException, PostgresqlDatabase

from webhookd.base.database_url import DatabaseUrl
from webhookd.base.errors import ConfigError, ErrorCode, JournalError, ReadTimeoutError, Rejected, WebhookdError
from webhookd.base.files import open_file
from webhookd.base.secret import Secret
from webhookd.journal.errors import (
    ConnectionLostError,
    DamagedDatabaseError,
    FencedError,
    JournalFullError,
    MustRepeatError,
    NoPartitionError,
)

OLDEST_SERVER = 14

_CONNECT_SECONDS = 5
_MOST_PASSWORD_BYTES = 4096
_OTHERS = 0o007
_OWN_AUTHORITIES = Path(".postgresql/root.crt")  # in the home directory: libpq's default
_AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_VERIFYING = ("verify-ca", "verify-full")

# How long the kernel waits for an answer of the other end, on both ends.
_TO_SERVER = {"keepalives_idle": 2, "keepalives_interval": 1, "keepalives_count": 3, "tcp_user_timeout": 5000}
_FROM_SERVER = {
    "tcp_keepalives_idle": "2",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "5s",
    "client_connection_check_interval": "1s",
}


class ConnectionRole(StrEnum):
    """What a connection is for."""

    WRITER = "writer"
    READER = "reader"
    LISTENER = "listener"
    NOTIFIER = "notifier"


# What a database or a user may have other defaults for.
_COMMON = {
    **_FROM_SERVER,
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "idle_in_transaction_session_timeout": "2s",
}
_COMMITTED = {"default_transaction_isolation": "read committed"}
_SETTINGS: Mapping[ConnectionRole, Mapping[str, str]] = {
    # Longer than it takes to end the session of a stuck node, whose locks others wait for.
    ConnectionRole.WRITER: {**_COMMON, **_COMMITTED, "lock_timeout": "5s", "statement_timeout": "10s"},
    # A query function may compute between its statements; it holds no lock that anyone waits for.
    ConnectionRole.READER: {
        **_COMMON,
        "default_transaction_isolation": "repeatable read",
        "default_transaction_read_only": "on",
        "idle_in_transaction_session_timeout": "10s",
        "lock_timeout": "0",
        "statement_timeout": "5s",
    },
    ConnectionRole.LISTENER: {**_COMMON, **_COMMITTED, "lock_timeout": "1s", "statement_timeout": "5s"},
    # A notification is a hint, and NOTIFY holds a lock of the whole cluster until its commit is synced.
    ConnectionRole.NOTIFIER: {
        **_COMMON,
        **_COMMITTED,
        "lock_timeout": "1s",
        "statement_timeout": "5s",
        "synchronous_commit": "off",
    },
}


class PostgresDatabase(PostgresqlDatabase):
    """One connection to the journal's database."""

    def __init__(self, url: DatabaseUrl, role: ConnectionRole, parameters: Mapping[str, object]) -> None:
        settings: dict[str, Any] = {"prefer_psycopg3": True, "encoding": "UTF8", **parameters}
        super().__init__(url.database, autoconnect=False, thread_safe=False, **settings)
        self.name = str(url)
        """The database and its host, for messages."""
        self.role = role
        self.incarnation = 0
        """The number of its incarnation, for `Incarnations`."""
        self._backend_pid = 0

    def _initialize_connection(self, conn: "psycopg.Connection[tuple[object, ...]]") -> None:
        self._backend_pid = conn.info.backend_pid  # which a lost connection no longer tells
        check_server(self.name, conn.info.server_version, conn.info.parameter_status("server_encoding"))
        settings = _SETTINGS[self.role]
        if self.role is ConnectionRole.WRITER and conn.execute("SHOW synchronous_commit").fetchone() == ("off",):
            # A default like this would lose acknowledged events. Others, such as remote_apply, are the operator's.
            settings = {**settings, "synchronous_commit": "on"}
        chosen = ", ".join(["set_config(%s, %s, false)"] * len(settings))
        conn.execute(f"SELECT {chosen}", [text for setting in settings.items() for text in setting])

    @property
    def backend_pid(self) -> int:
        """The process of the server that serves this connection."""
        return self._backend_pid

    @property
    def application_name(self) -> str:
        """The name under which the server lists this connection."""
        return str(self.connect_params["application_name"])

    @property
    def is_lost(self) -> bool:
        """Whether the connection is unusable, so that another one must be made."""
        return bool(self.is_closed()) or _driver_connection(self).closed

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Translate PostgreSQL's errors, except those of a faulty statement (see `is_logic_error`).

        Raises JournalFullError, ConnectionLostError (DamagedDatabaseError is one), MustRepeatError, NoPartitionError
        and FencedError, Rejected for a text that PostgreSQL can't store, and for a reader ReadTimeoutError.
        """
        try:
            yield
        except (PeeweeException, psycopg.Error) as error:
            cause = _driver_error(error)
            translation = None if cause is None else _translation(cause, self.name, self.role)
            if translation is None:
                raise
            raise translation from error


def connect(
    url: DatabaseUrl,
    role: ConnectionRole,
    *,
    application_name: str,
    password_file: Path | None = None,
    timeout_seconds: int | None = None,
) -> PostgresDatabase:
    """Return a new connection. Blocks for some seconds at most for each host.

    With `timeout_seconds`, it is lost only after so long without an answer of the server.

    Raises ConnectionLostError if there is none, ConfigError if the password file can't be used, and JournalError for
    a server that is too old or a database with another encoding than UTF8.
    """
    password = url.password if password_file is None else read_password(password_file)
    parameters = connection_parameters(url, home=Path.home()) | {"application_name": application_name}
    if timeout_seconds is not None:
        parameters["tcp_user_timeout"] = timeout_seconds * 1000
    if password is not None:
        parameters["password"] = password.reveal()
    database = PostgresDatabase(url, role, parameters)
    try:
        database.connect()
    except (PeeweeException, psycopg.Error) as error:
        reason = reason_of(error)
    except JournalError:
        database.close()
        raise
    else:
        return database
    # Not from that error: it holds the connection's parameters, the password too.
    raise ConnectionLostError(f"can't connect to the database {database.name}: {reason}")


def connection_parameters(url: DatabaseUrl, *, home: Path) -> dict[str, object]:
    """Return how libpq is to connect, without the password."""
    parameters: dict[str, object] = {
        **_TO_SERVER,
        **url.options,
        "host": ",".join(host.name for host in url.hosts),
        "port": ",".join(str(host.port) for host in url.hosts),
        "sslmode": url.tls,
        "target_session_attrs": "primary",
        "connect_timeout": _CONNECT_SECONDS,
    }
    if url.user is not None:
        parameters["user"] = url.user
    named = url.options.get("sslrootcert")
    if named == "system" or (named is None and url.tls in _VERIFYING and not (home / _OWN_AUTHORITIES).exists()):
        # libpq's own word for these is where the OpenSSL in psycopg's wheels was built to look: nowhere.
        parameters["sslrootcert"] = _system_authorities()
    return parameters


def _system_authorities() -> str:
    """Return the file with the certificate authorities of this system, or the first place where one may be."""
    # It is None if there is no such file, whatever the types say.
    places = filter(None, (ssl.get_default_verify_paths().cafile, *_AUTHORITIES))
    return next((place for place in places if Path(place).is_file()), _AUTHORITIES[0])


def read_password(path: Path) -> Secret[str]:
    """Return the password in a file, without the end of its line; ConfigError."""
    try:
        with open_file(path) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(_MOST_PASSWORD_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"can't read the password of the database in {path}: {error.strerror}") from error
    if mode & _OTHERS:
        raise ConfigError(
            f"{path} holds the password of the database and has mode {mode:04o}, so that all users can read it: "
            f"chmod 600 {path}"
        )
    try:
        password = text.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        password = ""
    if not password or len(text) > _MOST_PASSWORD_BYTES or not password.isprintable():
        raise ConfigError(f"{path} must hold the password of the database, and nothing else, on one line")
    return Secret(password)


def is_logic_error(error: Exception) -> bool:
    """Whether an error that `translated` let through is about a statement, which is a bug of webhookd."""
    return isinstance(error, PeeweeException | psycopg.Error)


def check_server(name: str, version: int, encoding: str | None) -> None:
    """Raise JournalError for a server or a database that can't hold a journal; version 15.2 is 150002."""
    if version < OLDEST_SERVER * 10_000:
        raise JournalError(
            f"the database {name} is on PostgreSQL {version // 10_000}: webhookd needs {OLDEST_SERVER} or later"
        )
    if encoding != "UTF8":
        raise JournalError(
            f"the database {name} has the encoding {encoding}: create one with UTF8 "
            "(CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0)"
        )


def _driver_connection(database: PostgresDatabase) -> "psycopg.Connection[tuple[object, ...]]":
    connection = database.connection()
    assert isinstance(connection, psycopg.Connection)  # noqa: S101 - the driver that `__init__` asks for
    return connection


# By the class or the code of an error (https://www.postgresql.org/docs/current/errcodes-appendix.html).
_FULL = ("53100",)
_TIMEOUT = ("57014",)
_REPEAT = ("40001", "40P01", "53200", "55P03")
# A transaction that must not go on divides by zero: its number or one of its slots isn't this process's any more.
_FENCED = ("22012",)
_LOST = ("08", "57P", "25P03", "25P04", "53300")
# The server is a standby by now, or its operator, or the provider for a full disk, has made it read-only.
_READ_ONLY = ("25006",)
_DISK = ("58030", "58P01", "XX001", "XX002")
_AFTER_ANOTHER = ("25P02",)
_NO_TEXT = ("22P05", "22021")  # in JSON, and as a value of its own
# Also a row without a partition, which violates no constraint that has a name. Its key is in no other field, and the
# words around it are in the server's language.
_CHECK = ("23514",)
_PARTITION_KEY = re.compile(r"\(\w+\) = \(([^()]+)\)")


def _translation(error: psycopg.Error, name: str, role: ConnectionRole) -> WebhookdError | None:
    """Return the error that a caller can act on, or None for one of the statement."""
    state, reason = error.sqlstate, reason_of(error)
    if state in _NO_TEXT or (state is None and isinstance(error, psycopg.DataError) and "NUL" in str(error)):
        return Rejected(
            ErrorCode.VALIDATION_ERROR,
            "a text holds a NUL character (U+0000), which the database can't store: leave it out",
        )
    if state is None:
        is_lost = isinstance(error, psycopg.OperationalError)
        return ConnectionLostError(f"the connection to the database {name} is lost: {reason}") if is_lost else None
    if state in _FULL:
        return JournalFullError(f"no room for the database {name}: {reason}")
    if state in _TIMEOUT and role is ConnectionRole.READER:
        return ReadTimeoutError("the query took too long; ask for less")
    if state in _FENCED:
        return FencedError("another node drives this webhook by now")
    if state in _CHECK and error.diag.constraint_name is None:
        key = _PARTITION_KEY.search(error.diag.message_detail or "")
        return None if key is None else NoPartitionError(error.diag.table_name or "", float(key[1]))
    if state in _REPEAT or state in _TIMEOUT:
        return MustRepeatError(f"the database {name} has rolled a transaction back: {reason}")
    if state in _DISK:
        return DamagedDatabaseError(f"the database {name} can't be read or written: {reason}")
    if state.startswith(_LOST) or (state in _READ_ONLY and role is not ConnectionRole.READER):
        return ConnectionLostError(f"the connection to the database {name} is lost: {reason}")
    return None


def reason_of(error: Exception) -> str:
    """Return the first line of what the server or the driver says, without what all such lines begin with."""
    cause = _driver_error(error)
    primary = None if cause is None else cause.diag.message_primary
    line = primary or next(iter(str(error).splitlines()), "")
    return line.rpartition(" failed: ")[2].removeprefix("FATAL: ").strip() or type(error).__name__


def _driver_error(error: BaseException | None) -> psycopg.Error | None:
    """Return the driver's error behind an error; after a failed statement, that one, and not what failed after it."""
    found: psycopg.Error | None = None
    while error is not None:
        if isinstance(error, psycopg.Error) and (found is None or found.sqlstate in _AFTER_ANOTHER):
            found = error
        error = error.__cause__ or error.__context__
    return found
