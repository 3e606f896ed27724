"""Every error webhookd raises on purpose, named for what the caller can do about it.

What a remote receiver did is never here: that is data (`models.Outcome`). A `Rejected` is the answer to a caller who
asked for something that can't be done, whichever edge the asking came through; the others end the process, each with
the exit status that the command line promises.
"""

from enum import StrEnum
from http import HTTPStatus


class WebhookdError(Exception):
    """Root of the errors of this package; `exit_status` is what the command line ends with."""

    exit_status = 1


class CommandError(WebhookdError):
    """The command can't do what it was asked: a busy port, a lock held by another, a server that refuses."""


class ConfigError(WebhookdError):
    """A configuration that can't be used; the message names file, line, key and the accepted form."""

    exit_status = 2


class RouteError(WebhookdError):
    """A route that says nothing of who may call it: a bug that must not be served."""


class MasterKeyError(WebhookdError):
    """A master key that is missing, malformed, readable by others, or not the one the journal was made with."""

    exit_status = 2


class JournalError(WebhookdError):
    """The journal can't be trusted: foreign, damaged, newer than this program, or a sync has failed."""

    exit_status = 70


class ReadTimeoutError(WebhookdError):
    """A query for the admin API took longer than a reader may take."""


class ErrorCode(StrEnum):
    """The stable code of a rejected request, the same on the socket, in the API and in the client."""

    VALIDATION_ERROR = "VALIDATION_ERROR"
    MALFORMED_JSON = "MALFORMED_JSON"
    INVALID_CURSOR = "INVALID_CURSOR"
    URL_NOT_ALLOWED = "URL_NOT_ALLOWED"
    UNKNOWN_EVENT_TYPE = "UNKNOWN_EVENT_TYPE"
    UNAUTHORIZED = "UNAUTHORIZED"
    FORBIDDEN = "FORBIDDEN"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    REQUEST_TIMEOUT = "REQUEST_TIMEOUT"
    CONFLICT = "CONFLICT"
    PRECONDITION_FAILED = "PRECONDITION_FAILED"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    URI_TOO_LONG = "URI_TOO_LONG"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    IDEMPOTENCY_KEY_REUSED = "IDEMPOTENCY_KEY_REUSED"
    RATE_LIMITED = "RATE_LIMITED"
    REQUEST_HEADER_FIELDS_TOO_LARGE = "REQUEST_HEADER_FIELDS_TOO_LARGE"
    INTERNAL = "INTERNAL"
    NOT_IMPLEMENTED = "NOT_IMPLEMENTED"
    JOURNAL_FULL = "JOURNAL_FULL"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    GATEWAY_TIMEOUT = "GATEWAY_TIMEOUT"
    HTTP_VERSION_NOT_SUPPORTED = "HTTP_VERSION_NOT_SUPPORTED"

    @property
    def status(self) -> HTTPStatus:
        """The HTTP status that carries this code."""
        return _STATUS[self]


_STATUS = {
    ErrorCode.VALIDATION_ERROR: HTTPStatus.BAD_REQUEST,
    ErrorCode.MALFORMED_JSON: HTTPStatus.BAD_REQUEST,
    ErrorCode.INVALID_CURSOR: HTTPStatus.BAD_REQUEST,
    ErrorCode.URL_NOT_ALLOWED: HTTPStatus.BAD_REQUEST,
    ErrorCode.UNKNOWN_EVENT_TYPE: HTTPStatus.BAD_REQUEST,
    ErrorCode.UNAUTHORIZED: HTTPStatus.UNAUTHORIZED,
    ErrorCode.FORBIDDEN: HTTPStatus.FORBIDDEN,
    ErrorCode.QUOTA_EXCEEDED: HTTPStatus.FORBIDDEN,
    ErrorCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.METHOD_NOT_ALLOWED: HTTPStatus.METHOD_NOT_ALLOWED,
    ErrorCode.REQUEST_TIMEOUT: HTTPStatus.REQUEST_TIMEOUT,
    ErrorCode.CONFLICT: HTTPStatus.CONFLICT,
    ErrorCode.PRECONDITION_FAILED: HTTPStatus.PRECONDITION_FAILED,
    ErrorCode.PAYLOAD_TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ErrorCode.URI_TOO_LONG: HTTPStatus.REQUEST_URI_TOO_LONG,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    ErrorCode.IDEMPOTENCY_KEY_REUSED: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.RATE_LIMITED: HTTPStatus.TOO_MANY_REQUESTS,
    ErrorCode.REQUEST_HEADER_FIELDS_TOO_LARGE: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    ErrorCode.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
    ErrorCode.NOT_IMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    ErrorCode.JOURNAL_FULL: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.SHUTTING_DOWN: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.GATEWAY_TIMEOUT: HTTPStatus.GATEWAY_TIMEOUT,
    ErrorCode.HTTP_VERSION_NOT_SUPPORTED: HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
}


class Rejected(WebhookdError):  # noqa: N818 - it is an answer, and reads as one where it is raised
    """A request refused with a stable code.

    `detail` says what was wrong and how to mend it; `errors` are (JSON pointer, what is accepted there) pairs for a
    body; `retry_after_seconds` goes with the codes that ask the caller to come back.
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
