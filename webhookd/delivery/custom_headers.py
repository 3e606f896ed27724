"""Custom request headers of a webhook: which may be set, and which are never sent. Pure.

`RESERVED` is the one list of names that a webhook can't set. A header that was saved before its name was reserved isn't
sent, so a request never has two headers of one name.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from msgspec import Struct

from webhookd.base.event_format import invalid
from webhookd.base.validation import shortened, step

T = TypeVar("T")

MOST_HEADERS = 32
MOST_BYTES = 8192

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 section 5.6.2
_VALUE = re.compile(r"[\x20-\x7e]*")


class Reserved(Struct, frozen=True, kw_only=True):
    """Names, and beginnings of names, that are reserved for one reason."""

    reason: str
    names: tuple[str, ...] = ()
    beginnings: tuple[str, ...] = ()


RESERVED = (
    Reserved(
        reason="webhookd sends it itself",
        names=("user-agent", "traceparent", "tracestate"),
        beginnings=("content-", "webhook-", "x-webhook-"),
    ),
    Reserved(
        reason="it belongs to the connection",
        names=(
            "host",
            "connection",
            "keep-alive",
            "transfer-encoding",
            "te",
            "trailer",
            "upgrade",
            "http2-settings",
            "expect",
        ),
        beginnings=("proxy-",),
    ),
    Reserved(
        reason="receivers and what stands before them believe what it says of the client",
        names=("forwarded", "cookie"),
        beginnings=("x-forwarded-",),
    ),
    Reserved(reason="programs under CGI take it for their own setting HTTP_PROXY (httpoxy)", names=("proxy",)),
)

_NAMES = {name: each for each in RESERVED for name in each.names}
_BEGINNINGS = {beginning: each for each in RESERVED for beginning in each.beginnings}


def folded(name: str) -> str:
    """Return a name in the form in which names are compared: in lower case (RFC 9110 section 5.1).

    Only ASCII names: some letters outside ASCII become ASCII letters in lower case.
    """
    return name.lower() if name.isascii() else name


def reserved(name: str) -> Reserved | None:
    """Return why a name is reserved, or None. To CGI and WSGI, `Content_Length` is `Content-Length` too."""
    plain = folded(name).replace("_", "-")
    if plain in _NAMES:
        return _NAMES[plain]
    return next((each for beginning, each in _BEGINNINGS.items() if plain.startswith(beginning)), None)


def sent(headers: Iterable[tuple[str, T]]) -> tuple[tuple[str, T], ...]:
    """Return the headers that are sent: those whose names aren't reserved."""
    return tuple((name, value) for name, value in headers if reserved(name) is None)


def as_stored(given: Mapping[str, object], stored: Collection[str]) -> dict[str, object]:
    """Return a merge patch of the headers, with each name in its stored spelling if it has one.

    Rejected VALIDATION_ERROR for a name that is given twice.
    """
    known = {folded(name): name for name in stored}
    _check_distinct(given)
    return {known.get(folded(name), name): value for name, value in given.items()}


def check(headers: Mapping[str, str]) -> None:
    """Raise Rejected VALIDATION_ERROR, with an entry for each, if custom headers must not be sent."""
    if len(headers) > MOST_HEADERS:
        raise invalid((("/headers", f"at most {MOST_HEADERS} headers, and these are {len(headers)}"),))
    errors = [
        (_pointer(name), complaint)
        for name, value in headers.items()
        if (complaint := _complaint(name, value)) is not None
    ]
    size = sum(len(name) + len(value) for name, value in headers.items())
    if size > MOST_BYTES:
        errors.append(("/headers", f"at most {MOST_BYTES} characters in all, names and values, and these have {size}"))
    if errors:
        raise invalid(tuple(errors))
    _check_distinct(headers)


def _check_distinct(names: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(folded(name), name)) != name:
            given = shortened(other)
            accepted = f"a header's name counts without regard to case, and {given} is given already: leave one out"
            raise invalid(((_pointer(name), accepted),))


def _complaint(name: str, value: str) -> str | None:
    if _TOKEN.fullmatch(name) is None:
        return "a header's name is letters, digits and any of !#$%&'*+-.^_`|~"
    if (why := reserved(name)) is not None:
        return f"this name is reserved, since {why.reason}: choose another one, such as X-{shortened(name)}"
    if _VALUE.fullmatch(value) is None:
        return "a header's value is printable ASCII; encode other characters, such as by %C3%A9"
    if value != value.strip():
        return "a header's value neither begins nor ends with a space"
    return None


def _pointer(name: str) -> str:
    return f"/headers{step(name)}"
