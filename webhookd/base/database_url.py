"""The URL of a PostgreSQL database: its parts, how it may be connected to, and its text without the password.

It is libpq's form (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS) with the
parameters of `PARAMETERS`. No error and no name made here contains any part of a URL that could be a password.
"""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult, unquote, urlsplit

from webhookd.base.secret import Secret

SCHEMES = ("postgresql", "postgres")
PARAMETERS = ("host", "port", "options", "sslmode", "sslrootcert", "sslcert", "sslkey")
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
STRICTEST = SSL_MODES[-1]

_FORM = "postgresql://user@host/database"
_SOCKET_FORM = "postgresql://user@/database?host=/var/run/postgresql"
_HIDDEN = "[hidden]"
_DEFAULT_PORT = 5432
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_WEAKNESSES = {
    "disable": "isn't encrypted: anyone between can read and change it",
    "allow": "may be unencrypted, and any server is taken for the database",
    "prefer": "may be unencrypted, and any server is taken for the database",
    "require": "is encrypted, but any server is taken for the database",
    "verify-ca": "is to any server with a certificate of the same authority",
}


class DatabaseUrlError(ValueError):
    """A text is no URL of a database; the message is the rest of a sentence that the URL's name begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A server: a name or an IP address with its port, or the directory of a Unix socket."""

    name: str
    port: int

    @property
    def is_local(self) -> bool:
        """Whether nothing between can be read by another machine: a Unix socket, or a loopback address."""
        if self.name.startswith("/") or self.name.lower() == "localhost":
            return True
        try:
            return ip_address(self.name).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.name.startswith("/"):
            return self.name
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseUrl:
    """A database; with several hosts, the one that is the primary is used."""

    hosts: tuple[Host, ...]
    database: str
    user: str | None
    password: Secret[str] | None
    sslmode: str | None
    """What the URL says, or None."""
    options: dict[str, str]
    """The other parameters: `options`, `sslrootcert`, `sslcert` and `sslkey`."""

    def __str__(self) -> str:
        return f"{self.database} on {', '.join(map(str, self.hosts))}"

    @property
    def tls(self) -> str:
        """The `sslmode` to connect with: encrypted to the right server, unless the URL says otherwise or all is local.

        With a local server it is encrypted if the server wants it.
        """
        if self.sslmode is not None:
            return self.sslmode
        return "prefer" if all(host.is_local for host in self.hosts) else STRICTEST

    @property
    def weakness(self) -> str | None:
        """What the URL's `sslmode` gives up on the way to a host that isn't local, or None."""
        remote = [host for host in self.hosts if not host.is_local]
        weakness = _WEAKNESSES.get(self.tls)
        if not remote or weakness is None:
            return None
        return f"with sslmode={self.tls} the connection to {remote[0]} {weakness}; sslmode={STRICTEST} is the default"


def hidden(text: str) -> str:
    """Return a URL with its password hidden, or only that if the URL can't be read: any part may be the password."""
    try:
        parsed = parse(text)
    except ValueError:
        return _HIDDEN
    if parsed.password is None:
        return text
    credentials, at, rest = text.rpartition("@")
    scheme, slashes, user_and_password = credentials.partition("://")
    return f"{scheme}{slashes}{user_and_password.partition(':')[0]}:{_HIDDEN}{at}{rest}"


def parse(text: str) -> DatabaseUrl:
    """Read a URL; DatabaseUrlError says what is wrong with it, as the rest of a sentence that its name begins."""
    parts = _split(text)
    credentials, _, addresses = parts.netloc.rpartition("@")
    user, colon, password = credentials.partition(":")
    options = _parameters(parts.query)
    place, port = options.pop("host", None), options.pop("port", None)
    if place is not None:
        if addresses:
            raise DatabaseUrlError("names its host twice: before the database, and as the parameter host")
        hosts = tuple(Host(name=name, port=_port(port)) for name in place.split(","))
    elif port is not None:
        raise DatabaseUrlError(
            "has the parameter port: write it after the host, as in postgresql://user@host:5432/database"
        )
    else:
        hosts = tuple(_host(address) for address in addresses.split(","))
    if not all(host.name for host in hosts):
        raise DatabaseUrlError(f"names no host: write {_FORM}, or for a Unix socket {_SOCKET_FORM}")
    database = _decoded(parts.path.removeprefix("/"))
    if not database:
        raise DatabaseUrlError(f"names no database: write {_FORM}")
    sslmode = options.pop("sslmode", None)
    if sslmode is not None and sslmode not in SSL_MODES:
        raise DatabaseUrlError(f"has an unknown sslmode: write one of {', '.join(SSL_MODES)}")
    return DatabaseUrl(
        hosts=hosts,
        database=database,
        user=_decoded(user) or None,
        password=Secret(_decoded(password)) if colon else None,
        sslmode=sslmode,
        options=options,
    )


def _split(text: str) -> SplitResult:
    """Split a URL; DatabaseUrlError for one that isn't PostgreSQL's, or isn't encoded as it must be."""
    scheme, colon, _ = text.partition("://")
    if not colon or scheme.lower() not in SCHEMES:
        raise DatabaseUrlError(f"must begin with postgresql://, as in {_FORM}")
    if not text.isprintable() or " " in text:
        raise DatabaseUrlError("has a space or a control character: percent-encode it (%20)")
    if _BAD_ESCAPE.search(text):
        raise DatabaseUrlError("has a % without two hexadecimal digits: write %25 for a percent sign")
    try:
        parts = urlsplit(text)
    except ValueError:
        raise DatabaseUrlError("has brackets that don't enclose an IPv6 address") from None
    # An unencoded / ? or # ends the part with the password. What remains could be read as a host.
    if parts.fragment or "#" in text or "@" in parts.path or "@" in parts.query:
        raise DatabaseUrlError(
            "has a / ? # or @ that must be percent-encoded, such as one in its password (%2F %3F %23 %40)"
        )
    return parts


def _parameters(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in query.split("&") if query else ():
        name, equals, value = (_decoded(piece) for piece in part.partition("="))
        if name == "password":
            raise DatabaseUrlError("has its password as a parameter: write it after the user, or set a password file")
        if name not in PARAMETERS or not equals:
            raise DatabaseUrlError(f"has an unknown parameter: known are {', '.join(PARAMETERS)}")
        if name in found:
            raise DatabaseUrlError(f"has the parameter {name} twice")
        if not value:
            raise DatabaseUrlError(f"has the parameter {name} without a value")
        found[name] = value
    return found


def _host(address: str) -> Host:
    if address.startswith("["):
        name, bracket, rest = address[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise DatabaseUrlError("has brackets that don't enclose an IPv6 address")
        return Host(name=name, port=_port(rest[1:] if rest else None))
    name, colon, port = address.partition(":")
    if ":" in port:
        raise DatabaseUrlError("has an IPv6 address without brackets: write [::1]")
    return Host(name=_decoded(name), port=_port(port if colon else None))


def _port(text: str | None) -> int:
    if text is None:
        return _DEFAULT_PORT
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise DatabaseUrlError("has a port that is no number from 1 to 65535")
    return int(text)


def _decoded(text: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise DatabaseUrlError("has percent-encoded bytes that are no UTF-8") from None
    if "\x00" in decoded:
        raise DatabaseUrlError("has a NUL byte (%00)")
    return decoded
