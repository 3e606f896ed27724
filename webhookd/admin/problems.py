"""Errors as RFC 9457 problem documents, the only form of errors of this API."""

from http import HTTPStatus

from msgspec import Struct
from werkzeug.exceptions import HTTPException

from webhookd.admin.bodies import BodyTimeout
from webhookd.base.errors import ErrorCode, Rejected

MEDIA_TYPE = "application/problem+json"
REQUEST_ID_HEADER = "x-request-id"
AUTHENTICATE = 'Bearer realm="webhookd"'

_WORDS = {
    HTTPStatus.NOT_FOUND: "there is nothing at this path",
    HTTPStatus.METHOD_NOT_ALLOWED: "this path doesn't take this method; the header Allow names those that it takes",
    HTTPStatus.REQUEST_TIMEOUT: "the request wasn't complete in time",
}


class FieldProblem(Struct, frozen=True):
    """A wrong field of the request: its JSON pointer (RFC 6901) and what is accepted there."""

    pointer: str
    detail: str


class Problem(Struct, frozen=True, kw_only=True, rename="camel"):
    """The body of an error."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: tuple[FieldProblem, ...] = ()


def problem_of(refused: Rejected, request_id: str, status: HTTPStatus | None = None) -> Problem:
    """Return the document for a refusal; `status` is its code's unless it is given."""
    status = status or refused.code.status
    return Problem(
        type=f"urn:webhookd:error:{refused.code.value}",
        title=status.phrase,
        status=status.value,
        detail=refused.detail,
        code=refused.code.value,
        request_id=request_id,
        errors=tuple(FieldProblem(pointer, detail) for pointer, detail in refused.errors),
    )


def problem_of_status(status: HTTPStatus, detail: str, request_id: str) -> Problem:
    """Return the document for an HTTP status without an error code: its code is the first one with that status.

    For a status that no code has, the code is VALIDATION_ERROR (below 500) or INTERNAL.
    """
    codes = (code for code in ErrorCode if code.status is status)
    other = ErrorCode.VALIDATION_ERROR if status < HTTPStatus.INTERNAL_SERVER_ERROR else ErrorCode.INTERNAL
    return problem_of(Rejected(next(codes, other), detail), request_id, status)


def words_of(error: HTTPException) -> tuple[HTTPStatus, str]:
    """Return the status and the detail of an error of a library; its own description is used only if it is ours."""
    status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    if isinstance(error, BodyTimeout):
        return status, error.description or _WORDS[status]
    return status, _WORDS.get(status, f"the request can't be answered ({status.phrase})")
