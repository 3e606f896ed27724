"""Conditional requests (RFC 9110 section 13): If-Match and If-None-Match against the ETag of an object.

A condition is checked in the step that reads or changes the object, so no other change can come between the check and
the change. A header that is no list of entity tags is refused: to ignore it could do what its sender wants to prevent.
"""

from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus

from quart import Response
from werkzeug.datastructures import Headers

from webhookd.base.errors import ErrorCode, Rejected

IF_MATCH, IF_NONE_MATCH, ETAG = "If-Match", "If-None-Match", "ETag"

_BLANK, _COMMA, _QUOTE, _WEAK = " \t", ",", '"', "W/"


class AnyTag(Enum):
    """The value `*`: any entity tag."""

    TAG = "*"


Tags = tuple[str, ...] | AnyTag


@dataclass(frozen=True, slots=True)
class Preconditions:
    """The conditions of a request: None without the header; a weak tag keeps its `W/`."""

    match: Tags | None = None
    none_match: Tags | None = None

    def check_change(self, tag: str | None) -> None:
        """Raise Rejected PRECONDITION_FAILED unless the object with this tag may be changed; None: it doesn't exist."""
        self.check_read(tag)
        if self.none_match is not None and tag is not None and _is_among(tag, self.none_match, is_weak=True):
            raise _failed(f"{IF_NONE_MATCH} matches the present {ETAG} {tag}")

    def check_read(self, tag: str | None) -> None:
        """Raise Rejected PRECONDITION_FAILED unless the object with this tag may be read."""
        if self.match is None or (tag is not None and _is_among(tag, self.match, is_weak=False)):
            return
        if tag is None:
            raise _failed(f"{IF_MATCH} is set, but there is no such object")
        raise _failed(
            f"it was changed since you read it: its {ETAG} is {tag} now. Read it again, then make your change"
        )

    def is_known(self, tag: str) -> bool:
        """Whether the caller has the version with this tag already."""
        return self.none_match is not None and _is_among(tag, self.none_match, is_weak=True)

    def check_untagged(self) -> None:
        """Raise Rejected PRECONDITION_FAILED if the request names a tag, for a path without ETags."""
        if self.match is not None and self.match is not AnyTag.TAG:
            raise _failed(f"nothing at this path has an {ETAG}: leave {IF_MATCH} out")


NO_PRECONDITIONS = Preconditions()


def read_preconditions(headers: Headers) -> Preconditions:
    """Return the conditions of a request; Rejected VALIDATION_ERROR for a header that is no list of entity tags."""
    match, none_match = (headers.getlist(name) for name in (IF_MATCH, IF_NONE_MATCH))
    return Preconditions(
        match=_tags(IF_MATCH, ",".join(match)) if match else None,
        none_match=_tags(IF_NONE_MATCH, ",".join(none_match)) if none_match else None,
    )


def tag_of(version: str) -> str:
    """Return the entity tag of a version, which must contain no quote and no space."""
    return f'"{version}"'


def unchanged(tag: str) -> Response:
    """Return the empty 304 answer for a caller that has the version with this tag."""
    response = Response(b"", HTTPStatus.NOT_MODIFIED, {ETAG: tag})
    response.headers.pop("content-type")
    return response


def _is_among(tag: str, tags: Tags, *, is_weak: bool) -> bool:
    """Compare strongly, or weakly, which ignores `W/` (RFC 9110 section 8.8.3.2). Our own tags are strong."""
    if isinstance(tags, AnyTag):
        return True
    return tag in (tuple(each.removeprefix(_WEAK) for each in tags) if is_weak else tags)


def _tags(name: str, text: str) -> Tags:
    if text.strip(_BLANK) == AnyTag.TAG.value:
        return AnyTag.TAG
    found: list[str] = []
    place, is_apart = 0, True
    while place < len(text):
        if text[place] in _BLANK + _COMMA:
            is_apart = is_apart or text[place] == _COMMA
            place += 1
            continue
        opening = place + (len(_WEAK) if text.startswith(_WEAK, place) else 0)
        closing = text.find(_QUOTE, opening + 1) if text.startswith(_QUOTE, opening) else -1
        if not is_apart or closing < 0:
            raise _no_tags(name)
        found.append(text[place : closing + 1])
        place, is_apart = closing + 1, False
    if not found:
        raise _no_tags(name)
    return tuple(found)


def _no_tags(name: str) -> Rejected:
    return Rejected(
        ErrorCode.VALIDATION_ERROR,
        f"the header {name} takes * or the {ETAG} of an answer with its quotes, several with commas between them",
    )


def _failed(detail: str) -> Rejected:
    return Rejected(ErrorCode.PRECONDITION_FAILED, detail)
