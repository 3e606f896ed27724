"""Reads the server's answers: result lines, and HTTP answers without results. Pure."""

import json
from collections.abc import Mapping
from http import HTTPStatus

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import PublishResult
from webhookd.base.retry_after import read_retry_after

# These refuse the request or the connection, not an event: a later request may succeed.
_TRY_AGAIN_CODES = frozenset(
    {
        *("SHUTTING_DOWN", "RATE_LIMITED", "JOURNAL_FULL", "JOURNAL_UNREACHABLE", "KEYS_OUTDATED"),
        *("REQUEST_TIMEOUT", "QUOTA_EXCEEDED"),
    }
)
_TRY_AGAIN_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


class Lost(Exception):  # noqa: N818 - internal: the state of a connection
    """The connection can't be used any more: send what is unanswered on another one, after `retry_after_seconds`."""

    def __init__(self, reason: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


def read_line(line: bytes) -> PublishResult | Rejected:
    """Return an event's result or refusal; Lost for a refusal that is not about the event, and for any other line."""
    try:
        answer = json.loads(line)
        if answer["ok"]:
            return PublishResult(id=answer["id"], deliveries=answer["deliveries"], duplicate=answer["duplicate"])
        code, message = str(answer["error"]["code"]), str(answer["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Lost(f"not a result: {line[:80]!r}") from error
    if code in _TRY_AGAIN_CODES:
        raise Lost(message)
    return _rejected(code, message)


def read_failure(status: int, headers: Mapping[str, str], body: bytes, now: float) -> Lost | Rejected:
    """Return the outcome of all events of a request that was not answered with 200; `now` is epoch seconds."""
    code, message = _read_problem(status, body)
    if status in _TRY_AGAIN_STATUSES:
        wait = read_retry_after([headers.get("retry-after", "")], [headers.get("date", "")], now)
        return Lost(f"HTTP {status}: {message}", wait or 0.0)
    return _rejected(code, message)


def _rejected(code: str, message: str) -> Rejected:
    if code not in ErrorCode.__members__:
        return Rejected(ErrorCode.INTERNAL, f"{code}: {message}")
    return Rejected(ErrorCode[code], message)


def _read_problem(status: int, body: bytes) -> tuple[str, str]:
    """Return code and text of an RFC 9457 problem, or substitutes for the answer of a proxy."""
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return ErrorCode.PAYLOAD_TOO_LARGE.value, "the request is too large for the server or a proxy before it"
    try:
        problem = json.loads(body)
        return str(problem["code"]), str(problem["detail"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"HTTP {status}", "the answer is not webhookd's; is the URL right?"
