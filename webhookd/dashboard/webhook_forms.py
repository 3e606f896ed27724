"""Converts between the form of a webhook and the document of the API. Pure.

A field has the name of its place in the document, such as `retry/maxRefusals`. An invalid number stays text, so that
the API's own check reports it.
"""

from collections.abc import Mapping, Sequence
from typing import cast

from webhookd.base.event_format import invalid
from webhookd.dashboard.formatting import capitalized
from webhookd.dashboard.forms import Form

Document = dict[str, object]

TEXTS = ("url", "description")
CHOICES = ("ordering", "whenInactive")
NUMBERS = (
    "concurrency",
    "timeoutSeconds",
    "breakerThreshold",
    "rateLimit/perSecond",
    "rateLimit/burst",
    "retry/jitter",
    "retry/maxRefusals",
    "retry/maxAgeSeconds",
    "retry/parkAfter",
)
OTHERS = ("events", "retry/delays", "metadata", "headers", "signature/form", "organizationId", "secret")
FIELDS = frozenset((*TEXTS, *CHOICES, *NUMBERS, *OTHERS))


def document_of(form: Form) -> Document:
    """Return the document of a form, without the empty fields, for which the server's defaults apply.

    Rejected VALIDATION_ERROR for a header or metadata that is given twice, and for too many lines.
    """
    document: Document = {}
    for name in (*TEXTS, *CHOICES, "signature/form", "organizationId", "secret"):
        if form.text(name):
            _put(document, name, form.text(name))
    for name in NUMBERS:
        if form.text(name):
            _put(document, name, _number(form.text(name)))
    if form.text("retry/delays"):
        _put(document, "retry/delays", [_number(part) for part in form.entries("retry/delays")])
    document["events"] = form.entries("events")
    document["isActive"] = "isActive" in form
    if "signature/ed25519" in form:
        _put(document, "signature/ed25519", True)
    for name, separator in (("metadata", "="), ("headers", ":")):
        if pairs := _pairs(name, form.lines(name), separator):
            document[name] = pairs
    document.setdefault("url", "")
    return document


def fields_of(document: Mapping[str, object]) -> dict[str, str]:
    """Return the form's fields of a document, without headers, whose values are not shown."""
    fields: dict[str, str] = {}
    for name in (*TEXTS, *CHOICES, *NUMBERS, "signature/form"):
        value = _find(document, name)
        if value is not None:
            fields[name] = f"{value:g}" if isinstance(value, float) else str(value)
    fields["events"] = "\n".join(cast("list[str]", document.get("events", [])))
    delays = cast("list[float]", _find(document, "retry/delays") or [])
    fields["retry/delays"] = ", ".join(f"{seconds:g}" for seconds in delays)
    metadata = cast("Mapping[str, str]", document.get("metadata", {}))
    fields["metadata"] = "\n".join(f"{name}={value}" for name, value in metadata.items())
    for name, is_set in (
        ("isActive", document.get("isActive")),
        ("signature/ed25519", _find(document, "signature/ed25519")),
    ):
        if is_set:
            fields[name] = "on"
    return fields


def difference(before: object, after: object) -> Document:
    """Return the merge patch (RFC 7396) that turns `before` into `after`."""
    old = cast("Mapping[str, object]", before)
    new = cast("Mapping[str, object]", after)
    patch: Document = {name: None for name in old if name not in new}
    for name, value in new.items():
        known = old.get(name)
        if isinstance(value, Mapping) and isinstance(known, Mapping):
            if inner := difference(known, value):
                patch[name] = inner
        elif known != value:
            patch[name] = value
    return patch


def by_field(problems: Mapping[str, str]) -> dict[str, str]:
    """Return problems by the field that shows them; those of no field are under the empty name."""
    found: dict[str, str] = {}
    for pointer, detail in problems.items():
        place = pointer
        while place and place not in FIELDS:
            place = place.rpartition("/")[0]
        rest = pointer[len(place) :].strip("/")
        text = capitalized(detail)
        if place == "events" and rest.isdigit():
            text = f"Line {int(rest) + 1}: {detail}"
        elif rest and place:
            text = f"{rest}: {detail}"
        found[place] = f"{found[place]}; {text}" if place in found else text
    return found


def _pairs(field: str, lines: Sequence[str], separator: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for line in lines:
        name, _, value = (part.strip() for part in line.partition(separator))
        if name in pairs:
            raise invalid(((f"/{field}", f"{name} is given twice: leave one out"),))
        pairs[name] = value
    return pairs


def _number(text: str) -> object:
    try:
        return int(text)
    except ValueError:
        try:
            value = float(text)
        except ValueError:
            return text
    return value if abs(value) < 1e15 else text  # not "nan" or "inf" either


def _put(document: Document, place: str, value: object) -> None:
    *above, name = place.split("/")
    for step in above:
        document = cast("Document", document.setdefault(step, {}))
    document[name] = value


def _find(document: Mapping[str, object], place: str) -> object:
    found: object = document
    for step in place.split("/"):
        if not isinstance(found, Mapping):
            return None
        found = found.get(step)
    return found
