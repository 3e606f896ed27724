"""Reads the configuration from a TOML file and the environment.

An invalid value is a ConfigError with its place and what is accepted there. Each key is converted separately, so that
the error can name its line.
"""

import ipaddress
import math
import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from msgspec import inspect
from msgspec.structs import fields

from webhookd.base.database_url import DatabaseUrlError, parse
from webhookd.base.errors import ConfigError
from webhookd.base.json_errors import BOM
from webhookd.base.validation import name_hint, shortened, with_values
from webhookd.config.tree import JWT_KEY_FILES, Config, JournalConfig, JwtConfig
from webhookd.config.words import KEYS, accepted_form, to_toml

_PREFIX = "WEBHOOKD_"
_MOST_BYTES = 262_144
_MOST_PARTS = 32  # of a dotted name: the TOML parser's work grows with their square
# A line with the name of a table, or with a name that is assigned.
_NAMED = re.compile(r"(?P<header>\[)?(?P<name>[^=\]]*)(?(header)\]|=)")
_NO_MARKS = str.maketrans("", "", "[\"'")
_NO_SIGNS = str.maketrans("", "", "._-")
# Parts of the parser's messages, and what they mean for the author of the file.
_ESCAPE = "in double quotes a backslash starts an escape: write two of them, or use single quotes"
_TOML_REASONS = (
    ("Cannot", "this key or section is repeated: remove one of the two"),
    ("Expected '=' after a key", "a key must be followed by = and a value"),
    ("Expected newline", "there is something after a value: write one key and its value on a line"),
    ("Invalid value", "this is not a value: put a string in quotes, write a list as [1, 2]"),
    ("Unterminated string", "the quote at the end of a string is missing"),
    ("Expected '", "a quote or bracket is missing"),
    ("Unclosed array", "a list isn't closed with ]"),
    ("Unescaped", _ESCAPE),
    ("escape", _ESCAPE),
    ("hex value", _ESCAPE),
    ("Illegal character", "this character is not allowed there; a string ends on its line"),
    ("Invalid statement", "this is neither a key nor a [section]"),
    ("Invalid initial character", "a key consists of letters, digits, _ and -"),
    ("Exceeds the limit", "a number is too long"),
)
_WITH_PASSWORDS = frozenset({"egress.proxy", "journal.url"})
_TOML_LINE = re.compile(r" \(at line (\d+), column \d+\)")


@dataclass(frozen=True, slots=True)
class _Given:
    """A value from the file or the environment; `where` is its place, `base` the directory of relative paths."""

    value: object
    where: str
    base: Path


def load_config(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Return the configuration from the file at `path` (None: no file) and the environment, which overrides the file.

    Paths become absolute. Those in a file, and the defaults if there is a file, start from its directory, all others
    from the working directory. Raises ConfigError for a file that can't be read and for any invalid setting.
    """
    given: dict[str, _Given] = {}
    if path is not None:
        given |= _from_file(path)
    given |= _from_environment(environ)
    base = Path.cwd() if path is None else path.absolute().parent
    sections = {}
    for section in fields(Config):
        defaults = section.type()
        values = {}
        for key, kind in KEYS[section.name].items():
            name = f"{section.name}.{key}"
            if (found := given.get(name)) is not None:
                values[key] = _convert(name, kind, found)
            else:
                default = getattr(defaults, key)
                values[key] = base / default if isinstance(default, Path) else default
        sections[section.name] = section.type(**values)
    config = Config(**sections)
    for names, problem in _contradictions(config, given.keys()):
        found = next((given[name] for name in names if name in given), None)
        raise ConfigError(f"{found.where + ': ' if found else ''}{names[0]} {problem}")
    return config


def _from_file(path: Path) -> Iterator[tuple[str, _Given]]:
    """Yield the values in a file by their names, such as `server.port`."""
    text = _read_file(path)
    places = _Places(path, text)
    try:
        tree = tomllib.loads(text)
    except RecursionError as error:
        raise ConfigError(f"{path}: not a configuration: a value in it is nested too deeply") from error
    except ValueError as error:  # a TOMLDecodeError, or an integer of thousands of digits
        raise _not_toml(path, error) from error
    base = path.absolute().parent
    for section, values in tree.items():
        where = places.of(section)
        if section not in KEYS:
            raise ConfigError(f"{where}: {_unknown_section(section, values)}")
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: {section} is a section: write [{section}] on a line and its keys below")
        for key, value in values.items():
            where = places.of(section, key)
            if key not in KEYS[section]:
                raise ConfigError(f"{where}: {_unknown_key(section, key)}")
            yield f"{section}.{key}", _Given(value, where, base)


def _not_toml(path: Path, error: ValueError) -> ConfigError:
    message = str(error)
    line = _TOML_LINE.search(message)
    place = f"{path}:{line[1]}" if line else str(path)
    why = next((words for part, words in _TOML_REASONS if part in message), "write each key = value on its own line")
    return ConfigError(f"{place}: not TOML: {why}")


def _read_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"can't read the configuration {path}: {error.strerror}") from error
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{path}: the file is larger than {_MOST_BYTES} bytes, so it is not a configuration")
    try:
        return content.removeprefix(BOM).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from error


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, _Given]]:
    for name, text in environ.items():
        section, separator, key = name.removeprefix(_PREFIX).lower().partition("__")
        if not (name.startswith(_PREFIX) and separator and section in KEYS):
            continue
        where = f"the environment's {name}"
        if key not in KEYS[section]:
            raise ConfigError(f"{where}: {_unknown_key(section, key)}")
        if name != name.upper():
            raise ConfigError(f"{where}: write it in capitals, {name.upper()}")
        yield f"{section}.{key}", _Given(_read_text(KEYS[section][key], text), where, Path.cwd())


def _read_text(annotation: object, text: str) -> object:
    """Return a variable's value: the text itself if the key takes a string, else the text read as TOML."""
    kind = inspect.type_info(annotation)
    if isinstance(kind, inspect.UnionType):
        if not text:
            return None
        kinds = with_values(kind)
        # The key takes one value or a list: no single value begins with a bracket.
        several = next((each for each in kinds if isinstance(each, inspect.VarTupleType)), None)
        is_list = several is not None and text.lstrip().startswith("[")
        kind = several if is_list and several is not None else next(each for each in kinds if each is not several)
    if isinstance(kind, inspect.StrType | inspect.CustomType | inspect.EnumType | inspect.LiteralType):
        return text
    try:
        read = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # TOMLDecodeError is a ValueError
        return text
    return read["value"] if len(read) == 1 else text


def _convert(name: str, annotation: object, given: _Given) -> object:
    def to_path(_kind: type, value: object) -> Path:
        if not isinstance(value, str) or not value or "\0" in value:
            raise ValueError("not a path")
        return given.base / value

    try:
        value: object = msgspec.convert(given.value, annotation, dec_hook=to_path)
        finite = not isinstance(value, float) or math.isfinite(value)
    except msgspec.ValidationError:
        finite = False
    if finite:
        return value
    got = "" if name in _WITH_PASSWORDS else f", not {shortened(to_toml(given.value))}"
    raise ConfigError(f"{given.where}: {name} takes {accepted_form(inspect.type_info(annotation))}{got}")


def _contradictions(config: Config, given: Collection[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what the types don't check, as (keys concerned, what is wrong with the first of them).

    `given` are the keys that the file or the environment sets.
    """
    delivery = config.delivery
    hosts = [config.server.host] if isinstance(config.server.host, str) else config.server.host
    for host in hosts:
        if re.search(r"[\s/@\[\]]", host):
            yield ("server.host",), f"takes a host name or an IP address, or a list of them, not {to_toml(host)}"
    for name, above in (
        ("connect_timeout_seconds", "timeout_seconds"),
        ("warn_after_seconds", "disable_after_seconds"),
    ):
        lower, upper = getattr(delivery, name), getattr(delivery, above)
        if lower > upper:
            problem = f"is {to_toml(lower)}, and must not be above delivery.{above}, {to_toml(upper)}"
            yield (f"delivery.{name}", f"delivery.{above}"), problem
    for text in config.egress.allow_networks:
        if (wrong := _network_problem(text)) is not None:
            yield ("egress.allow_networks",), wrong
    if config.egress.proxy is not None and not _is_proxy(config.egress.proxy):
        yield ("egress.proxy",), "takes http://host:port or https://host:port, with user:password@ if it needs them"
    yield from _jwt_contradictions(config.jwt)
    yield from _journal_contradictions(config.journal, given)
    taken: dict[str, str] = {}
    for name, path in (
        ("journal.path", config.journal.path if config.journal.url is None else None),
        ("journal.password_file", config.journal.password_file),
        ("ingest.socket", config.ingest.socket),
        ("server.control_socket", config.server.control_socket),
        ("secrets.master_key_file", config.secrets.master_key_file),
        ("jwt.secret_file", config.jwt.secret_file),
    ):
        if path is not None and (other := taken.setdefault(os.path.normpath(path), name)) != name:
            yield (name, other), f"must not be the file of {other}: {path}"


def _journal_contradictions(journal: JournalConfig, given: Collection[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    if journal.url is None:
        for name in ("password_file", "node_name"):
            if getattr(journal, name) is not None:
                yield (f"journal.{name}",), "has no effect without journal.url: the journal is the file journal.path"
        return
    try:
        url = parse(journal.url)
    except DatabaseUrlError as error:
        yield ("journal.url",), str(error)
        return
    if "journal.path" in given:
        problem = "can't be set together with journal.url: the journal is either a file or a database, so remove one"
        yield ("journal.path", "journal.url"), problem
    if journal.max_bytes is not None:
        problem = "can't be set together with journal.url: only PostgreSQL can limit the size of its database"
        yield ("journal.max_bytes", "journal.url"), problem
    if journal.password_file is not None and url.password is not None:
        yield ("journal.password_file", "journal.url"), "can't be set together with a password in journal.url"


def _jwt_contradictions(jwt: JwtConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    files = [f"jwt.{name}" for name in JWT_KEY_FILES if getattr(jwt, name) is not None]
    pinned = [f"jwt.{name}" for name in ("issuer", "audience") if getattr(jwt, name) is not None]
    if len(files) > 1:
        yield (files[1], files[0]), f"can't be set together with {files[0]}: tokens are checked with one key file"
    if files and len(pinned) < 2:
        missing = "jwt.audience" if "jwt.issuer" in pinned else "jwt.issuer"
        yield (
            (missing, files[0]),
            f"must be set if {files[0]} is: only tokens with this issuer and audience are accepted",
        )
    if pinned and not files:
        yield (
            (pinned[0],),
            "has no effect without a key: set one of " + ", ".join(f"jwt.{name}" for name in JWT_KEY_FILES),
        )
    if not jwt.roles:
        yield ("jwt.roles",), "must name at least one value of the claim and its role"


def _network_problem(text: str) -> str | None:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        accepted = "takes networks such as 10.1.0.0/16 or fd00::/8"
        try:
            meant = f"; did you mean {ipaddress.ip_network(text, strict=False)}?"
        except ValueError:
            meant = ""
        return f"{accepted}, not {to_toml(text)}{meant}"
    return None


def _is_proxy(text: str) -> bool:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        return False
    rest = url.path.removeprefix("/") + url.query + url.fragment
    return url.scheme in {"http", "https"} and bool(url.hostname) and port != 0 and not rest and text.isprintable()


class _Places:
    """The line of each name in a file, found in one pass; ConfigError for a name of too many parts."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines: dict[str, int] = {}
        self._first_lines: dict[str, int] = {}  # of each section, or of its first key
        current = ""
        for number, line in enumerate(text.splitlines(), start=1):
            if _parts(line) > _MOST_PARTS:
                raise ConfigError(f"{path}:{number}: a name has more than {_MOST_PARTS} parts")
            if (found := _NAMED.match(line.strip())) is None:
                continue
            name = "".join(found["name"].split()).translate(_NO_MARKS)
            if found["header"]:
                current = name
            elif name.translate(_NO_SIGNS).isalnum():
                name = f"{current}.{name}" if current else name
            else:
                continue
            self._lines.setdefault(name, number)
            self._first_lines.setdefault(name.partition(".")[0], number)

    def of(self, section: str, key: str | None = None) -> str:
        """Return `file:line` of a key, or of its section if the key isn't found, or else the file."""
        wanted = section if key is None else f"{section}.{key}"
        number = self._lines.get(wanted, self._first_lines.get(section))
        return str(self._path) if number is None else f"{self._path}:{number}"


def _parts(line: str) -> int:
    """Return how many dotted parts a line's name may have; dots in quotes don't separate parts."""
    outside_quotes = line.partition("=")[0].replace("'", '"').split('"')[::2]
    return 1 + sum(part.count(".") for part in outside_quotes)


def _unknown_section(name: str, value: object) -> str:
    if not isinstance(value, dict):
        homes = [section for section, keys in KEYS.items() if name in keys]
        return f"{name} is in no section" + (f"; it belongs under [{homes[0]}]" if homes else "")
    return f"there is no section [{name}]; {name_hint(name, list(KEYS))}"


def _unknown_key(section: str, key: str) -> str:
    homes = [other for other, keys in KEYS.items() if key in keys]
    hint = f"it belongs under [{homes[0]}]" if homes else name_hint(key, list(KEYS[section]))
    return f"there is no key {section}.{key}; {hint}"
