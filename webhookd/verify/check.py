"""Checks the signature and time of a request, and names the likely mistake if they are wrong.

Signatures are compared in constant time, before the timestamp is checked. After a mismatch the common mistakes are
tried one by one. If the signature matches under one of them, the error names it; the request is still rejected.
"""

import hmac
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from webhookd.base.errors import WebhookdError
from webhookd.delivery.signing import SecretError, secret_key
from webhookd.verify.guesses import OTHER_HEADER, STANDARD_HEADER, from_base64, other_bodies, other_keys, other_prefixes

_HEX_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_FIRST_MILLISECONDS = 100_000_000_000  # as seconds this is the year 5138
_MOST_TOKENS = 32
_RAW_BODY = "verify the raw bytes of the request, before anything parses them"


class Headers(Protocol):
    """Headers of any framework: a dict, or another object with `items`."""

    def items(self) -> Iterable[tuple[str, str]]:
        """Return names and values."""
        ...


class Mistake(StrEnum):
    """The kind of mistake, for programs; the error's text explains it."""

    HEADER_MISSING = "header_missing"
    HEADER_MALFORMED = "header_malformed"
    TIMESTAMP_MALFORMED = "timestamp_malformed"
    TIMESTAMP_TOO_OLD = "timestamp_too_old"
    TIMESTAMP_TOO_NEW = "timestamp_too_new"
    SECRET_MALFORMED = "secret_malformed"  # noqa: S105 - a name
    SECRET_FORM = "secret_form"  # noqa: S105 - a name
    SCHEME = "scheme"
    OTHER_MESSAGE = "other_message"
    BODY_PARSED = "body_parsed"
    BODY_CHANGED = "body_changed"
    NO_MATCH = "no_match"


_SAYS_LITTLE = frozenset({Mistake.NO_MATCH, Mistake.SECRET_MALFORMED, Mistake.SCHEME})


class VerificationError(WebhookdError):
    """The request can't be trusted; the text names the likely mistake and how to fix it."""

    def __init__(self, mistake: Mistake, detail: str) -> None:
        super().__init__(detail)
        self.mistake = mistake


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was verified: `header` is the one checked. `event_id` and `timestamp` are None if it doesn't sign them."""

    header: str
    event_id: str | None
    timestamp: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    """What a signature header claims: one of `digests` is the HMAC of `prefix` and the body."""

    header: str
    digests: tuple[bytes, ...]
    prefix: bytes
    other_prefixes: tuple[tuple[str, bytes], ...]
    uses_decoded_key: bool


def verify(
    secret: str | Sequence[str],
    headers: Headers,
    body: bytes | str,
    tolerance_seconds: float | None = 300,
    now: float | None = None,
) -> Verified:
    """Check one request and return what its signature proves; VerificationError if it is wrong.

    Names of `headers` are not case-sensitive. `webhook-signature` is checked if it is present, else
    `x-webhook-signature` in any of its forms. `secret` is the webhook's `whsec_…`, or its `whpk_…` public key for the
    v1a signature. If there are several, such as the new and the previous secret during a rotation, one must match. The
    timestamp may differ from `now` (epoch seconds, default: the machine's clock) by `tolerance_seconds` either way;
    None disables this check. The forms that sign only the body have no timestamp: an old request can be replayed, so
    reject ids that you have seen before.
    """
    raw = _raw_body(body)
    found = _normalized(headers)
    moment = time.time() if now is None else now
    secrets = [secret] if isinstance(secret, str) else list(secret)
    if not secrets:
        raise VerificationError(Mistake.SECRET_MALFORMED, "there is no secret to check with")
    errors: list[VerificationError] = []
    for each in secrets:
        try:
            return _verify_one(each, found, raw, tolerance_seconds, moment)
        except VerificationError as error:
            errors.append(error)
    # The error for another webhook's secret explains nothing; the one for the right secret says what is wrong.
    raise next((error for error in errors if error.mistake not in _SAYS_LITTLE), errors[0])


def _verify_one(
    secret: str, found: Mapping[str, str], raw: bytes, tolerance_seconds: float | None, moment: float
) -> Verified:
    if STANDARD_HEADER in found:
        event_id, timestamp = _required(found, "webhook-id"), _required(found, "webhook-timestamp")
        sent_at = _parse_timestamp("webhook-timestamp", timestamp)
        value = found[STANDARD_HEADER]
        if secret.strip().startswith("whpk_"):
            _check_ed25519(secret.strip(), value, f"{event_id}.{timestamp}.".encode(), raw)
        else:
            _check(secret, _standard_claim(value, event_id, timestamp, found, raw), raw)
        _check_time(sent_at, moment, tolerance_seconds)
        return Verified(header=STANDARD_HEADER, event_id=event_id, timestamp=sent_at)
    if OTHER_HEADER in found:
        claim, claimed_at = _other_claim(found[OTHER_HEADER], found, raw)
        _check(secret, claim, raw)
        if claimed_at is not None:
            _check_time(claimed_at, moment, tolerance_seconds)
        return Verified(header=OTHER_HEADER, event_id=None, timestamp=claimed_at)
    raise _no_signature(found)


def _raw_body(body: object) -> bytes:
    if isinstance(body, str):
        return body.encode("utf-8", "surrogateescape")
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    raise VerificationError(Mistake.BODY_PARSED, f"the body is a {type(body).__name__}, already parsed; {_RAW_BODY}")


def _normalized(headers: Headers) -> dict[str, str]:
    # WSGI and PHP name a header HTTP_WEBHOOK_ID.
    return {name.lower().replace("_", "-").removeprefix("http-"): value.strip() for name, value in headers.items()}


def _required(headers: Mapping[str, str], name: str) -> str:
    if not headers.get(name):
        raise VerificationError(
            Mistake.HEADER_MISSING,
            f"the header {name} is missing, and {STANDARD_HEADER} signs it; pass all headers of the request",
        )
    return headers[name]


def _no_signature(headers: Mapping[str, str]) -> VerificationError:
    others = sorted(name for name in headers if "signature" in name)
    seen = f"; there is {', '.join(others)}, another sender's scheme" if others else ""
    return VerificationError(
        Mistake.HEADER_MISSING,
        f"neither {STANDARD_HEADER} nor {OTHER_HEADER} is among the {len(headers)} headers{seen}; "
        "a proxy or framework may drop or rename them",
    )


def _parse_timestamp(where: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,20}", text):
        raise VerificationError(
            Mistake.TIMESTAMP_MALFORMED, f"{where} is {text[:40]!r}; it must be a number: whole unix seconds"
        )
    return int(text)


def _check_time(sent_at: int, now: float, tolerance_seconds: float | None) -> None:
    if tolerance_seconds is None:
        return
    age = now - sent_at
    if abs(age) <= tolerance_seconds:
        return
    unit = " (it looks like milliseconds; it must be seconds)" if sent_at >= _FIRST_MILLISECONDS else ""
    if age > 0:
        raise VerificationError(
            Mistake.TIMESTAMP_TOO_OLD,
            f"the signature is right, but {age:.0f} s old, and {tolerance_seconds:.0f} s are allowed: a replay, "
            "a queue before this check, or a wrong clock on this machine",
        )
    raise VerificationError(
        Mistake.TIMESTAMP_TOO_NEW,
        f"the signature is right, but {-age:.0f} s in the future, and {tolerance_seconds:.0f} s are allowed: is this "
        f"machine's clock right?{unit}",
    )


def _standard_claim(value: str, event_id: str, timestamp: str, headers: Mapping[str, str], body: bytes) -> _Claim:
    digests = []
    for token in value.split()[:_MOST_TOKENS]:
        version, _, text = token.partition(",")
        if version == "v1" and (digest := from_base64(text)) is not None and len(digest) == 32:
            digests.append(digest)
    claim = _Claim(
        header=STANDARD_HEADER,
        digests=tuple(digests),
        prefix=f"{event_id}.{timestamp}.".encode(),
        other_prefixes=tuple(other_prefixes(event_id, timestamp, headers, body)),
        uses_decoded_key=True,
    )
    if not digests:
        raise _unreadable(value, claim)
    return claim


def _other_claim(value: str, headers: Mapping[str, str], body: bytes) -> tuple[_Claim, int | None]:
    pairs = [pair.strip().partition("=") for pair in value.split(",")[:_MOST_TOKENS]]
    times = [text for name, _, text in pairs if name == "t"]
    hexes = [text for name, _, text in pairs if name == "v1"]
    if times and hexes:
        sent_at = _parse_timestamp(f"t of {OTHER_HEADER}", times[0])
        prefix = f"{times[0]}.".encode()
    else:
        sent_at, prefix = None, b""
        hexes = [value.removeprefix("sha256=")]
    event_id, timestamp = headers.get("webhook-id", ""), times[0] if times else headers.get("webhook-timestamp", "")
    claim = _Claim(
        header=OTHER_HEADER,
        digests=tuple(bytes.fromhex(text) for text in hexes if _HEX_DIGEST.fullmatch(text)),
        prefix=prefix,
        other_prefixes=tuple(other_prefixes(event_id, timestamp, headers, body)),
        uses_decoded_key=False,
    )
    if not claim.digests:
        raise _unreadable(value, claim)
    return claim, sent_at


def _unreadable(value: str, claim: _Claim) -> VerificationError:
    expected = {
        STANDARD_HEADER: "v1,<base64>, one or more, separated by one space",
        OTHER_HEADER: "t=<seconds>,v1=<hex>, or <hex>, or sha256=<hex>",
    }[claim.header]
    if claim.header == STANDARD_HEADER and re.match(r"(t=|sha256=|[0-9a-fA-F]{64}$)", value):
        return VerificationError(
            Mistake.SCHEME, f"{STANDARD_HEADER} holds the value of {OTHER_HEADER}; pass each header under its own name"
        )
    if claim.header == OTHER_HEADER and re.match(r"v1a?,", value):
        return VerificationError(
            Mistake.SCHEME, f"{OTHER_HEADER} holds the value of {STANDARD_HEADER}; pass each header under its own name"
        )
    if claim.header == STANDARD_HEADER and value.startswith("v1a,"):
        return VerificationError(Mistake.SCHEME, "there is only a v1a signature; verify it with the whpk_ public key")
    return VerificationError(
        Mistake.HEADER_MALFORMED, f"{claim.header} is {value[:60]!r}; its form is {expected}, copied whole"
    )


def _check(secret: str, claim: _Claim, body: bytes) -> None:
    """Raise VerificationError with the likely mistake unless the claim holds with `secret`."""
    if claim.uses_decoded_key:
        try:
            key: bytes | None = secret_key(secret)
            reason = ""
        except SecretError as error:
            key, reason = None, str(error)
    else:
        key, reason = secret.encode(), ""
    if key is not None and _holds(key, claim.prefix + body, claim.digests):
        return
    raise _explain(secret, key, claim, body) or (
        VerificationError(Mistake.SECRET_MALFORMED, f"the secret can't be used: {reason}")
        if key is None
        else _no_match(body)
    )


def _holds(key: bytes, content: bytes, digests: tuple[bytes, ...]) -> bool:
    expected = hmac.digest(key, content, "sha256")
    return any(hmac.compare_digest(expected, digest) for digest in digests)


def _no_match(body: bytes) -> VerificationError:
    if not body:
        return VerificationError(
            Mistake.BODY_CHANGED, f"the body is empty: something read it before this check; {_RAW_BODY}"
        )
    return VerificationError(
        Mistake.NO_MATCH,
        "no signature matches: the secret is another webhook's or was rotated, or the body was changed; "
        f"copy the secret again, and {_RAW_BODY}",
    )


def _explain(secret: str, key: bytes | None, claim: _Claim, body: bytes) -> VerificationError | None:
    content = claim.prefix + body
    keys = list(other_keys(secret, decoded=claim.uses_decoded_key))
    for mistake, other in keys:
        if _holds(other, content, claim.digests):
            return VerificationError(Mistake.SECRET_FORM, mistake)
    right = [key] if key is not None else []
    for mistake, prefix in claim.other_prefixes:
        for each in (*right, *(other for _, other in keys)):
            if _holds(each, prefix + body, claim.digests):
                return VerificationError(Mistake.OTHER_MESSAGE, mistake)
    for mistake, original in other_bodies(body):
        for each in right:
            if _holds(each, claim.prefix + original, claim.digests):
                return VerificationError(Mistake.BODY_CHANGED, f"{mistake}; {_RAW_BODY}")
    return None


def _check_ed25519(public: str, value: str, prefix: bytes, body: bytes) -> None:
    point = from_base64(public.removeprefix("whpk_"))
    if point is None or len(point) != 32:
        raise VerificationError(Mistake.SECRET_MALFORMED, "a public key is whpk_ and the base64 of 32 bytes")
    tokens = [token.partition(",") for token in value.split()[:_MOST_TOKENS]]
    signatures = [from_base64(text) for version, _, text in tokens if version == "v1a"]
    if not signatures:
        raise VerificationError(
            Mistake.SCHEME, "there is no v1a signature; the webhook has to ask for it with signature.ed25519 = true"
        )
    key = Ed25519PublicKey.from_public_bytes(point)

    def holds(content: bytes) -> bool:
        return any(_is_signed(key, signature, content) for signature in signatures if signature is not None)

    if holds(prefix + body):
        return
    for mistake, original in other_bodies(body):
        if holds(prefix + original):
            raise VerificationError(Mistake.BODY_CHANGED, f"{mistake}; {_RAW_BODY}")
    raise _no_match(body)


def _is_signed(key: Ed25519PublicKey, signature: bytes, content: bytes) -> bool:
    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True
