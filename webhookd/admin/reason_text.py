"""Why no request to a webhook is in flight, in one sentence for the API, dashboard and command line. Pure."""

from math import ceil

from webhookd.base.clock import iso
from webhookd.base.models import DisabledReason
from webhookd.dispatch.health import Cause, EndpointHealth, Reason

_PLAIN = {
    Cause.NOTHING_QUEUED: "Nothing queued",
    Cause.NO_NODE: "Waiting for a node: none drives this webhook at present",
    Cause.RATE_LIMITED: "Waiting for a rate token",
    Cause.DUE: "About to send",
}


def reason_text(health: EndpointHealth) -> str | None:
    """Return the sentence; None while a request is in flight."""
    reason = health.reason
    if reason is None:
        return None
    match reason.cause:
        case Cause.DISABLED:
            return f"Held: {_disabled(health)}"
        case Cause.HALTED:
            crash = f"last with {reason.error}; tried again within 15 minutes"
            return f"Halted: sending crashed too often inside webhookd, {crash}"
        case Cause.PAUSED:
            cause = "Retry-After" if (reason.error or "").endswith("Retry-After") else reason.error
            return f"Paused by {cause} until {iso(reason.until or health.at)}"
        case Cause.CIRCUIT_OPEN:
            faults = "1 fault" if health.consecutive_failures == 1 else f"{health.consecutive_failures} faults"
            probe = f"next probe {_in(reason.until or health.at, health.at)}"
            return f"Circuit open after {faults}, last: {reason.error}; {probe}"
        case Cause.BACKING_OFF:
            return f"Backing off {_after_failure(health, reason)}"
        case Cause.ONLY_PARKED:
            return f"Only parked deliveries are left {_after_failure(health, reason)}"
        case Cause.DUE_ELSEWHERE:
            name = None if health.driver is None else health.driver.name
            return f"Due at the node {name}, which alone knows whether a request is in flight"
        case cause:
            return _PLAIN[cause]


def _after_failure(health: EndpointHealth, reason: Reason) -> str:
    return f"after a failure, last: {reason.error}; next attempt {_in(reason.until or health.at, health.at)}"


def _disabled(health: EndpointHealth) -> str:
    since = "" if health.failing_since is None else f" as failing since {iso(health.failing_since)}"
    match health.disabled_reason:
        case DisabledReason.FAILING:
            return f"disabled{since}"
        case DisabledReason.GONE:
            return "disabled because the receiver answered 410 Gone"
        case DisabledReason.RECEIVER:
            return "disabled because the receiver asked for it"
        case _:
            return "disabled by hand"


def _in(at: float, now: float) -> str:
    seconds = max(ceil(at - now), 0)
    if seconds < 120:
        return f"in {seconds} s"
    return f"in {ceil(seconds / 60)} min" if seconds < 7200 else f"at {iso(at)}"
