"""Errors as RFC 9457 problem documents, the one shape in which this API says no."""

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
    """One place in the request that was wrong: a JSON pointer (RFC 6901) and what is accepted there."""

    pointer: str
    detail: str


class Problem(Struct, frozen=True, kw_only=True, rename="camel"):
    """The body of every error answer."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: tuple[FieldProblem, ...] = ()


def problem_of(refused: Rejected, request_id: str) -> Problem:
    """Return the document for a refusal."""
    return _problem(
        refused.code.value,
        refused.code.status,
        refused.detail,
        request_id,
        tuple(FieldProblem(pointer, detail) for pointer, detail in refused.errors),
    )


def problem_of_status(status: HTTPStatus, detail: str, request_id: str) -> Problem:
    """Return the document for a status that was decided before any code: the first code of that status goes with it.

    Where a library answers with a status that no code has, the code is VALIDATION_ERROR or INTERNAL, by its hundred.
    """
    codes = [code for code in ErrorCode if code.status is status]
    other = ErrorCode.VALIDATION_ERROR if status < HTTPStatus.INTERNAL_SERVER_ERROR else ErrorCode.INTERNAL
    return _problem(next(iter(codes), other).value, status, detail, request_id, ())


def words_of(error: HTTPException) -> tuple[HTTPStatus, str]:
    """Return the status of a library's refusal, and what to say of it: a description is told where it is ours alone."""
    status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    if isinstance(error, BodyTimeout):
        return status, error.description or _WORDS[status]
    return status, _WORDS.get(status, f"the request can't be answered ({status.phrase})")


def _problem(code: str, status: HTTPStatus, detail: str, request_id: str, errors: tuple[FieldProblem, ...]) -> Problem:
    return Problem(
        type=f"urn:webhookd:error:{code}",
        title=status.phrase,
        status=status.value,
        detail=detail,
        code=code,
        request_id=request_id,
        errors=errors,
    )
