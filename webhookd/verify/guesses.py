"""The results of common mistakes with a secret, the signed content or a body, to be tried one by one. Pure.

Each comes with a sentence that names the mistake and says how to fix it.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator, Mapping

from webhookd.base.json_text import depth

STANDARD_HEADER = "webhook-signature"
OTHER_HEADER = "x-webhook-signature"

_MOST_PARSED_BYTES = 32_768
_MOST_PARSED_DEPTH = 16
_SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix alone is no secret


def other_keys(secret: str, *, decoded: bool) -> Iterator[tuple[str, bytes]]:
    """Yield the keys that result from mistakes with the secret, each with the mistake."""
    readings: list[tuple[str, str]] = []
    plain = secret.strip().strip("'\"").strip()
    if plain != secret:
        readings.append(("the secret has white space or quotes around it; remove them", plain))
    core = plain.removeprefix(_SECRET_PREFIX)
    if core == plain:
        readings.append(("the secret lacks its prefix; put whsec_ before it", _SECRET_PREFIX + core))
    if (unwrapped := from_base64(core)) is not None and unwrapped.startswith(_SECRET_PREFIX.encode()):
        mistake = "the secret is base64 of the secret (as in a Kubernetes Secret); decode it once"
        readings.append((mistake, unwrapped.decode("latin-1").strip()))
    if re.fullmatch(r"(?:[0-9a-fA-F]{2})+", core):
        mistake = "the secret is in hex; use it as it was shown: whsec_ and base64"
        readings.append((mistake, _SECRET_PREFIX + base64.b64encode(bytes.fromhex(core)).decode()))
    standard = core.rstrip("=").replace("-", "+").replace("_", "/")
    standard += "=" * (-len(standard) % 4)
    if standard != core:
        mistake = "the secret's base64 was changed (URL-safe letters or lost padding); use it as it was shown"
        readings.append((mistake, _SECRET_PREFIX + standard))
    for mistake, reading in readings:
        key = from_base64(reading.removeprefix(_SECRET_PREFIX)) if decoded else reading.encode()
        if key is not None:
            yield mistake, key
    whole, bytes_ = (_SECRET_PREFIX + core).encode(), from_base64(core)
    if decoded:
        mistake = (
            f"the sender used the whole secret string as key, as for {OTHER_HEADER}; here the key is the decoded bytes"
        )
        yield mistake, whole
    elif bytes_ is not None:
        mistake = (
            f"the sender used the decoded bytes as key, as for {STANDARD_HEADER}; here the key is the whole string"
        )
        yield mistake, bytes_
    yield "the sender used the secret's text without its prefix as key", core.encode()


def other_prefixes(
    event_id: str, timestamp: str, headers: Mapping[str, str], body: bytes
) -> Iterator[tuple[str, bytes]]:
    """Yield what a sender may have signed before the body by mistake, each with the mistake."""
    own = re.match(rb'\s*\{\s*"id"\s*:\s*"([A-Za-z0-9_-]{1,64})"', body)
    if own and own[1] != event_id.encode():
        mistake = f"the signature is for {own[1].decode()}, the body's id, but webhook-id is {event_id!r}"
        yield mistake, own[1] + f".{timestamp}.".encode()
    times = {"webhook-timestamp": headers.get("webhook-timestamp", "")}
    if claimed := re.match(r"t=([0-9]+)", headers.get(OTHER_HEADER, "")):
        times[f"t of {OTHER_HEADER}"] = claimed[1]
    for where, text in times.items():
        if text != timestamp:
            mistake = f"the signature is for the time in {where} ({text}), not for {timestamp}"
            yield mistake, f"{event_id}.{text}.".encode()
            yield mistake, f"{text}.".encode()
    if timestamp:
        yield "the sender signed id.timestamp.body", f"{event_id}.{timestamp}.".encode()
        yield "the sender signed timestamp.body, without the id", f"{timestamp}.".encode()
    yield "the sender signed the body alone, without id and time", b""


def other_bodies(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what the body may have been before it was changed, each with the mistake."""
    yield "a newline at the end of the body was cut off", body + b"\n"
    yield "a newline at the end of the body was cut off", body + b"\r\n"
    yield "white space was added around the body", body.strip()
    yield "a byte order mark was put before the body", body.removeprefix(b"\xef\xbb\xbf")
    yield "the body's line ends were changed to CRLF", body.replace(b"\r\n", b"\n")
    yield "the body's line ends were changed to LF", body.replace(b"\n", b"\r\n")
    if (decoded := from_base64(body.decode("latin-1").strip())) is not None:
        yield "the body is in base64 (a gateway's encoding); decode it first", decoded
    for wrong in ("latin-1", "cp1252"):
        try:
            yield f"the body was decoded as {wrong} and encoded as UTF-8", body.decode().encode(wrong)
        except UnicodeError:
            continue
    # Writing deep JSON takes long, and anyone can send a wrong signature: bound the work.
    if len(body) > _MOST_PARSED_BYTES or depth(body) > _MOST_PARSED_DEPTH:
        return
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return
    if isinstance(parsed, str):
        yield "the body was wrapped in a JSON string", parsed.encode("utf-8", "surrogatepass")
        return
    for dump in _WRITERS:
        yield "the body was parsed and written again as JSON", dump(parsed)
        if isinstance(parsed, dict) and isinstance(parsed.get("data"), dict):
            yield "the body was parsed and written again as JSON", _envelope(parsed, dump)


def _writer(separators: tuple[str, str], *, ascii_only: bool, indent: int | None = None) -> Callable[[object], bytes]:
    encoder = json.JSONEncoder(separators=separators, ensure_ascii=ascii_only, indent=indent)
    return lambda value: encoder.encode(value).encode("utf-8", "surrogatepass")


_WRITERS = tuple(
    _writer(separators, ascii_only=ascii_only, indent=indent)
    for ascii_only in (False, True)
    for separators, indent in (((",", ":"), None), ((", ", ": "), None), ((",", ": "), 2), ((",", ": "), 4))
)


def _envelope(parsed: dict[str, object], dump: Callable[[object], bytes]) -> bytes:
    """Write webhookd's envelope as the server does: its fields compact and in order, `data` by `dump`."""
    compact = _WRITERS[0]
    fields = [name for name in ("id", "type", "timestamp", "data", "organizationId") if name in parsed]
    parts = [compact(name) + b":" + (dump if name == "data" else compact)(parsed[name]) for name in fields]
    return b"{" + b",".join(parts) + b"}"


def from_base64(text: str) -> bytes | None:
    """Decode padded standard base64; None for anything else."""
    try:
        return base64.b64decode(text.encode("latin-1", "replace"), validate=True)
    except (binascii.Error, ValueError):
        return None
