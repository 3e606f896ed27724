"""Where webhookd may connect to, by the URL and the resolver's answers. Pure, except `check_for_saving`.

Only this module parses URLs, and strictly: a URL that two parsers could read differently is refused. The check is made
when a webhook is saved and again at each connect, on the very addresses that are dialled, so DNS rebinding fails.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Protocol
from unicodedata import normalize
from urllib.parse import quote

import idna
import trio

from webhookd.base.errors import ConfigError, ErrorCode, Rejected
from webhookd.config import EgressConfig
from webhookd.delivery.egress.addresses import Address, interleaved, is_in, is_public, parse_network

MAX_URL_CHARACTERS = 2048
SAVING_SECONDS = 2.0
MAX_NAME_CHARACTERS = 253
MAX_DIALED = 16
MAX_ANSWERS = 256  # of a name; its owner decides how many there are, and each is checked
MAX_CACHED_URLS = 4096

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<target>[^#]*)(?P<fragment>#.*)?")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\xa0\\\s\ud800-\udfff]")  # surrogates can't be encoded
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LONGEST_LABEL = 63
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_SAFE_IN_TARGET = "/%:@!$&'()*+,;=?[]~"
_DEFAULT_PORTS = {"https": 443, "http": 80}
# fmt: off
_INTERNAL_NAMES = frozenset({
    "localhost", "local", "internal", "localdomain", "lan", "home", "corp", "intranet", "arpa", "onion", "invalid",
    "test",
})
# https://fetch.spec.whatwg.org/#port-blocking
_BAD_PORTS = frozenset({
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104,
    109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515,
    526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049,
    3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
})
# fmt: on


class BlockedError(Exception):
    """A URL or address that must not be dialled; the text says why."""


@dataclass(frozen=True, slots=True)
class DialTarget:
    """The target of a URL: `host` is an ASCII name or a numeric address without brackets, `raw` the path and query.

    `internal_name` says why the name is refused, unless all its addresses are in allowed networks.
    """

    scheme: str
    host: str
    port: int
    raw: str
    address: Address | None
    internal_name: str | None

    @property
    def is_default_port(self) -> bool:
        """Whether the port is the scheme's default."""
        return self.port == _DEFAULT_PORTS[self.scheme]

    @property
    def authority(self) -> str:
        """The value of the Host header (RFC 9110 section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.is_default_port else f"{host}:{self.port}"


class Resolver(Protocol):
    """Resolves names."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Return the numeric addresses of a name; OSError if there are none."""
        ...


class EgressPolicy:
    """The operator's policy; `own` are the machine's own addresses, which are refused like internal addresses."""

    def __init__(self, config: EgressConfig, own: Collection[Address] = ()) -> None:
        self.own = frozenset(own)
        self._read = lru_cache(maxsize=MAX_CACHED_URLS)(_parse)  # the same few URLs are parsed at each request
        self._schemes = ("https", "http") if config.allow_http else ("https",)
        self._ports = frozenset(config.ports)
        self._resolves_elsewhere = config.proxy is not None
        try:
            self._allowed = tuple(parse_network(network) for network in config.allow_networks)
        except ValueError as error:
            raise ConfigError("egress.allow_networks takes networks such as 10.1.0.0/16 or fd00::/8") from error

    def parse(self, url: str) -> DialTarget:
        """Return the target of a URL; BlockedError if this policy refuses the URL or a literal address in it."""
        target = self._read(url)
        if target.scheme not in self._schemes:
            accepted = " or ".join(f"{scheme}://" for scheme in self._schemes)
            raise BlockedError(f"the URL must start with {accepted}")
        if self._ports and target.port not in self._ports:
            raise BlockedError(f"port {target.port} is not one of egress.ports")
        if not self._ports and target.port in _BAD_PORTS:
            raise BlockedError(f"port {target.port} belongs to another protocol")
        if target.address is not None:
            self.check_address(target.address)
        elif target.internal_name is not None and (self._resolves_elsewhere or not self._allowed):
            raise BlockedError(target.internal_name)
        return target

    def check(self, target: DialTarget, answers: Sequence[str]) -> list[Address]:
        """Return the addresses to dial, in order; BlockedError if a single answer must not be dialled.

        At most 256 answers are accepted, and all are checked. At most 16 are returned, the two families alternating.
        """
        if len(answers) > MAX_ANSWERS:
            raise BlockedError(f"the name has {len(answers)} addresses; at most {MAX_ANSWERS} are accepted")
        addresses = [_parse_address(answer) for answer in answers]
        for address in addresses:
            self.check_address(address)
        if target.internal_name is not None and not all(is_in(address, self._allowed) for address in addresses):
            raise BlockedError(target.internal_name)
        return interleaved(addresses)[:MAX_DIALED]

    def check_address(self, address: Address) -> None:
        """Raise BlockedError for an address that must not be dialled."""
        if is_in(address, self._allowed):
            return
        if not is_public(address):
            raise BlockedError(f"{address} is not a public address")
        if address in self.own:
            raise BlockedError(f"{address} is this machine's own address")

    async def check_for_saving(self, url: str, resolver: Resolver) -> None:
        """Raise Rejected URL_NOT_ALLOWED for a URL that must not be dialled.

        A name that doesn't resolve within 2 s is accepted, since its attempts will show that.
        """
        try:
            target = self.parse(url)
            if target.address is None and not self._resolves_elsewhere:
                answers: Sequence[str] = ()
                with trio.move_on_after(SAVING_SECONDS):
                    try:
                        answers = await resolver.resolve(target.host, target.port)
                    except OSError:
                        return
                if answers:
                    self.check(target, answers)
        except BlockedError as error:
            raise Rejected(
                ErrorCode.URL_NOT_ALLOWED, f"/url: {error}", errors=(("/url", f"a public receiver: {error}"),)
            ) from error


def _parse(url: str) -> DialTarget:
    if len(url) > MAX_URL_CHARACTERS:
        raise BlockedError(f"the URL has {len(url)} characters; at most {MAX_URL_CHARACTERS} are accepted")
    if _FORBIDDEN.search(url):
        raise BlockedError("the URL contains a space, a control character or a backslash")
    found = _URL.fullmatch(url)
    if found is None:
        raise BlockedError("this is not an absolute URL such as https://receiver.example/hook")
    scheme, authority = found["scheme"].lower(), found["authority"]
    if found["fragment"] is not None:
        raise BlockedError("the URL must have no fragment (#)")
    if "@" in authority:
        raise BlockedError("the URL must have no user name or password; send credentials in a custom header")
    if scheme not in _DEFAULT_PORTS:
        raise BlockedError("the URL must start with https://")
    host, colon, port = _split(authority)
    if colon and (_PORT.fullmatch(port) is None or int(port) > 65535):
        raise BlockedError("the URL's port must be a plain number from 1 to 65535")
    raw = quote(found["target"], safe=_SAFE_IN_TARGET)
    raw = raw if raw.startswith("/") else "/" + raw
    number = int(port) if port else _DEFAULT_PORTS[scheme]
    if host.startswith("["):
        address = _parse_ipv6(host[1:-1])
        return DialTarget(scheme, str(address), number, raw, address, None)
    return _named(scheme, host, number, raw)


def _split(authority: str) -> tuple[str, str, str]:
    """Split host, colon and port; an address in brackets keeps them."""
    if authority.startswith("["):
        literal, bracket, rest = authority.partition("]")
        if not bracket or rest[:1] not in {"", ":"}:
            raise BlockedError("the URL's IPv6 address must stand in [ ] with nothing but a port behind it")
        return literal + bracket, rest[:1], rest[1:]
    return authority.partition(":")


def _named(scheme: str, host: str, port: int, raw: str) -> DialTarget:
    host = host.removesuffix(".")
    if "%" in host:
        raise BlockedError("the URL's host must not be percent-encoded")
    # Before IDNA, whose work grows faster than the name; and after it, when the name has its final length.
    if not host or len(host) > MAX_NAME_CHARACTERS:
        raise BlockedError(f"the URL has no host, or one of more than {MAX_NAME_CHARACTERS} characters")
    # In a name that isn't ASCII all labels follow IDNA, the ASCII ones too: httpx refuses an underscore in them.
    labels = [_ascii_label(label, is_idna=not host.isascii()) for label in host.split(".")]
    name = ".".join(labels)
    if len(name) > MAX_NAME_CHARACTERS:
        raise BlockedError(f"the URL's host has more than {MAX_NAME_CHARACTERS} characters in its ASCII form")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            address = IPv4Address(name)
        except AddressValueError as error:
            raise BlockedError("the URL's host is a number but no dotted quad such as 192.0.2.1") from error
        return DialTarget(scheme, name, port, raw, address, None)
    if labels[-1].startswith("xn--") and idna.ulabel(labels[-1]).isdecimal():
        raise BlockedError("the URL's host is a number in digits that are not ASCII's")
    internal = None
    if len(labels) == 1 or labels[-1] in _INTERNAL_NAMES:
        internal = f"{name} is a name of an internal network"
    return DialTarget(scheme, name, port, raw, None, internal)


def _ascii_label(label: str, *, is_idna: bool) -> str:
    """Return a label of a name in its ASCII form.

    `str.lower` is used for ASCII only: some letters outside it, such as the Kelvin sign, become ASCII letters.
    """
    if label.isascii():
        label = label.lower()
        if not is_idna and not label.startswith("xn--"):
            if _LABEL.fullmatch(label) is None:
                raise BlockedError(f"the URL's host has a part that is no name: {label or 'an empty one'}")
            return label
    else:
        label = _lowered(label)
    try:
        # IDNA 2008, with no mapping but to lower case: a label that is mapped to another name is refused.
        encoded = idna.alabel(idna.ulabel(label)).decode()
    except (idna.IDNAError, UnicodeError) as error:
        raise BlockedError(
            f"the URL's host has a part that is no internationalized name (IDNA 2008): {label[:_LONGEST_LABEL]}; write "
            "it in small letters, or in the form that begins with xn--"
        ) from error
    if label.isascii() and encoded != label:
        raise BlockedError("the URL's host has a part that is no internationalized name in its one spelling")
    return encoded


def _lowered(label: str) -> str:
    """Return a label in lower case if lower-casing is all that UTS 46 does to it; else unchanged.

    All parsers must get the same result. So a letter stays unchanged, and is then refused, if its lower case is ASCII,
    is several letters or depends on the next one (the final sigma), or if it has a compatibility form.
    """
    small = label.lower()
    if small == label:
        return label
    try:
        mapped = idna.uts46_remap(label, std3_rules=False, transitional=False)
    except idna.IDNAError:
        return label
    is_plain = len(small) == len(label) and normalize("NFKC", label) == label
    return small if is_plain and small == mapped else label


def _parse_ipv6(text: str) -> IPv6Address:
    try:
        if "%" in text:
            raise BlockedError("the URL's address must have no zone")
        return IPv6Address(text)
    except AddressValueError as error:
        raise BlockedError("what stands in [ ] is no IPv6 address") from error


def _parse_address(text: str) -> Address:
    try:
        return IPv6Address(text) if ":" in text else IPv4Address(text)
    except AddressValueError as error:
        raise BlockedError("the name resolved to something that is no address") from error
