"""The columns of a delivery that changes outside of an attempt: queued again, expired or canceled. Pure."""

from webhookd.base.models import DeliveryError, DeliveryStatus, Trigger

Values = dict[str, object]


def queued_again(trigger: Trigger, at: float, max_age_seconds: float, *, is_parked: bool = False) -> Values:
    """Return the columns of a delivery that is due again at `at`; its age and refusals start from 0."""
    return {
        "status": DeliveryStatus.PARKED if is_parked else DeliveryStatus.PENDING,
        "trigger": trigger,
        "refusals": 0,
        "backoff_step": 0,
        "next_attempt_at": at,
        "expires_at": at + max_age_seconds,
        "completed_at": None,
        "error": None,
    }


def expired(at: float) -> Values:
    """Return the columns of a delivery that is older than it may be."""
    return _ended(DeliveryStatus.FAILED, at) | {"error": DeliveryError.EXPIRED}


def canceled(at: float) -> Values:
    """Return the columns of a delivery of a deleted webhook; its last error is unchanged."""
    return _ended(DeliveryStatus.CANCELED, at)


def _ended(status: DeliveryStatus, at: float) -> Values:
    return {"status": status, "completed_at": at, "next_attempt_at": None}
