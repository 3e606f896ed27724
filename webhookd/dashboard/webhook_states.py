"""The status of a webhook, in one or two words; the sentence that says why is made by `admin/reason_text.py`."""

from webhookd.base.models import BreakerState, DisabledReason, Endpoint
from webhookd.dispatch.health import Cause, EndpointHealth

_BY_CAUSE = {Cause.HALTED: ("halted", "bad"), Cause.PAUSED: ("paused", "warn")}


def condition(endpoint: Endpoint, health: EndpointHealth) -> tuple[str, str]:
    """Return the status and its tone: `good`, `busy`, `idle`, `warn` or `bad`."""
    if not endpoint.is_active:
        if endpoint.disabled_reason not in {None, DisabledReason.MANUAL}:
            return "auto-disabled", "bad"
        return "disabled", "warn" if health.queued or health.parked else "idle"
    if health.reason is not None and health.reason.cause in _BY_CAUSE:
        return _BY_CAUSE[health.reason.cause]
    if health.breaker is BreakerState.OPEN:
        return "circuit open", "bad"
    if health.breaker is BreakerState.HALF_OPEN:
        return "probing", "warn"
    if health.consecutive_failures:
        return "failing", "warn"
    if health.parked:
        return "parked", "warn"
    if health.sending:
        return "sending", "busy"
    if health.last_success_at is None and health.last_failure_at is None:
        return "new", "idle"
    return "healthy", "good"
