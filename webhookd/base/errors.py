"""The errors that webhookd raises, named for what the caller can do about them.

A receiver's failure is not an error but data (`models.Outcome`). `Rejected` is the answer to a request that can't be
carried out, over the API, the socket or the command line. The others end the process with their exit status.
"""

from enum import StrEnum
from http import HTTPStatus
from typing import Self


class WebhookdError(Exception):
    """Base of all errors of webhookd; `exit_status` is the exit status of a command that ends with it."""

    exit_status = 1


class CommandError(WebhookdError):
    """The command can't be carried out: a port is in use, another process holds the lock, the server refuses."""


class ConfigError(WebhookdError):
    """The configuration can't be used; the message names file, line, key and what is accepted."""

    exit_status = 2


class RouteError(WebhookdError):
    """A route declares no permission: a bug, with which the server must not start."""


class MasterKeyError(WebhookdError):
    """The master key is missing, malformed, readable by other users, or not the journal's."""

    exit_status = 2


class JournalError(WebhookdError):
    """The journal can't be trusted: it is not webhookd's, damaged, of a newer version, or a sync has failed."""

    exit_status = 70


class ReadTimeoutError(WebhookdError):
    """A query of the admin API took longer than its time limit."""


class ErrorCode(StrEnum):
    """The stable code of a refused request, the same on the socket, in the API and in the client.

    `status` is the HTTP status that goes with it.
    """

    _value_: str
    status: HTTPStatus

    def __new__(cls, code: str, status: HTTPStatus) -> Self:
        """Create a member from its code and status."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.status = status
        return member

    VALIDATION_ERROR = "VALIDATION_ERROR", HTTPStatus.BAD_REQUEST
    MALFORMED_JSON = "MALFORMED_JSON", HTTPStatus.BAD_REQUEST
    INVALID_CURSOR = "INVALID_CURSOR", HTTPStatus.BAD_REQUEST
    URL_NOT_ALLOWED = "URL_NOT_ALLOWED", HTTPStatus.BAD_REQUEST
    UNKNOWN_EVENT_TYPE = "UNKNOWN_EVENT_TYPE", HTTPStatus.BAD_REQUEST
    UNAUTHORIZED = "UNAUTHORIZED", HTTPStatus.UNAUTHORIZED
    FORBIDDEN = "FORBIDDEN", HTTPStatus.FORBIDDEN
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED", HTTPStatus.FORBIDDEN
    NOT_FOUND = "NOT_FOUND", HTTPStatus.NOT_FOUND
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED", HTTPStatus.METHOD_NOT_ALLOWED
    REQUEST_TIMEOUT = "REQUEST_TIMEOUT", HTTPStatus.REQUEST_TIMEOUT
    CONFLICT = "CONFLICT", HTTPStatus.CONFLICT
    PRECONDITION_FAILED = "PRECONDITION_FAILED", HTTPStatus.PRECONDITION_FAILED
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE", HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    URI_TOO_LONG = "URI_TOO_LONG", HTTPStatus.REQUEST_URI_TOO_LONG
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE", HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    IDEMPOTENCY_KEY_REUSED = "IDEMPOTENCY_KEY_REUSED", HTTPStatus.UNPROCESSABLE_ENTITY
    RATE_LIMITED = "RATE_LIMITED", HTTPStatus.TOO_MANY_REQUESTS
    REQUEST_HEADER_FIELDS_TOO_LARGE = "REQUEST_HEADER_FIELDS_TOO_LARGE", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    INTERNAL = "INTERNAL", HTTPStatus.INTERNAL_SERVER_ERROR
    NOT_IMPLEMENTED = "NOT_IMPLEMENTED", HTTPStatus.NOT_IMPLEMENTED
    JOURNAL_FULL = "JOURNAL_FULL", HTTPStatus.SERVICE_UNAVAILABLE
    JOURNAL_UNREACHABLE = "JOURNAL_UNREACHABLE", HTTPStatus.SERVICE_UNAVAILABLE
    KEYS_OUTDATED = "KEYS_OUTDATED", HTTPStatus.SERVICE_UNAVAILABLE
    SHUTTING_DOWN = "SHUTTING_DOWN", HTTPStatus.SERVICE_UNAVAILABLE
    GATEWAY_TIMEOUT = "GATEWAY_TIMEOUT", HTTPStatus.GATEWAY_TIMEOUT
    HTTP_VERSION_NOT_SUPPORTED = "HTTP_VERSION_NOT_SUPPORTED", HTTPStatus.HTTP_VERSION_NOT_SUPPORTED


class Rejected(WebhookdError):  # noqa: N818 - it is an answer, and reads as one where it is raised
    """A request is refused with a stable code.

    `detail` says what is wrong and how to fix it. `errors` lists (JSON pointer, what is accepted there) for a body.
    `retry_after_seconds` is set for the codes after which the caller should try again.
    """

    def __init__(
        self,
        code: ErrorCode,
        detail: str,
        *,
        errors: tuple[tuple[str, str], ...] = (),
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = errors
        self.retry_after_seconds = retry_after_seconds
