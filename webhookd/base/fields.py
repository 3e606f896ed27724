"""Types of the fields that a client may set, with their bounds: in the API, on the socket and in the configuration.

msgspec checks the bounds and patterns when it decodes. `validation` describes them in error messages.
"""

from typing import Annotated

from msgspec import Meta

EVENT_TYPE_PATTERN = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\Z"
ORGANIZATION_PATTERN = r"^[A-Za-z0-9_.:-]{1,64}\Z"
# W3C Trace Context, section 3.2: version, trace, parent and flags.
TRACEPARENT_PATTERN = r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z"
EVENT_ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}\Z"

ACCEPTS = "accepts"
"""The key of `Meta.extra` whose value describes what a type takes, in place of its pattern."""

_TYPE_WORDS = "words of letters, digits, _ and - joined by dots, such as user.created, of at most 128 characters"
_TIME_WORDS = "an ISO-8601 time with a zone, such as 2025-01-31T12:00:00.000Z"
EventTypeName = Annotated[
    str, Meta(min_length=1, max_length=128, pattern=EVENT_TYPE_PATTERN, extra={ACCEPTS: _TYPE_WORDS})
]
EventId = Annotated[str, Meta(pattern=EVENT_ID_PATTERN, extra={ACCEPTS: "1 to 64 letters, digits, _ and -"})]
OrganizationId = Annotated[
    str, Meta(pattern=ORGANIZATION_PATTERN, extra={ACCEPTS: "1 to 64 letters, digits, _ . : and -"})
]
Traceparent = Annotated[
    str,
    Meta(
        pattern=TRACEPARENT_PATTERN,
        extra={ACCEPTS: "a W3C traceparent, such as 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
    ),
]
Time = Annotated[str, Meta(max_length=40, extra_json_schema={"format": "date-time"}, extra={ACCEPTS: _TIME_WORDS})]

# Settings of the delivery policy: the same bounds hold for the server's defaults and for one webhook.
DelaySeconds = Annotated[float, Meta(ge=0.01, le=604_800)]
RetryDelays = Annotated[tuple[DelaySeconds, ...], Meta(min_length=1, max_length=50)]
Jitter = Annotated[float, Meta(ge=0, le=1)]
MaxRefusals = Annotated[int, Meta(ge=1, le=1000)]
MaxAgeSeconds = Annotated[float, Meta(ge=1, le=2_592_000)]
ParkAfter = Annotated[int, Meta(ge=1, le=1000)]
TimeoutSeconds = Annotated[float, Meta(ge=1, le=30)]
BreakerThreshold = Annotated[int, Meta(ge=1, le=1000)]
RatePerSecond = Annotated[float, Meta(ge=0.01, le=10_000)]
RateBurst = Annotated[int, Meta(ge=1, le=10_000)]
Concurrency = Annotated[int, Meta(ge=1, le=256)]
