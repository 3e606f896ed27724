"""What a delivery's row becomes outside of an attempt: queued again, or ended. Pure."""

from webhookd.base.models import DeliveryError, DeliveryStatus, Trigger

Values = dict[str, object]


def queued_again(trigger: Trigger, at: float, max_age_seconds: float, *, is_parked: bool = False) -> Values:
    """Return the columns of a delivery that is sent again from `at` on; its age and refusals start again."""
    return {
        "status": (DeliveryStatus.PARKED if is_parked else DeliveryStatus.PENDING).value,
        "trigger": trigger.value,
        "refusals": 0,
        "backoff_step": 0,
        "next_attempt_at": at,
        "expires_at": at + max_age_seconds,
        "completed_at": None,
        "error": None,
    }


def expired(at: float) -> Values:
    """Return the columns of a delivery whose age has passed."""
    return _ended(DeliveryStatus.FAILED, at) | {"error": DeliveryError.EXPIRED.value}


def canceled(at: float) -> Values:
    """Return the columns of a delivery of a deleted webhook; what failed last stays as it is."""
    return _ended(DeliveryStatus.CANCELED, at)


def _ended(status: DeliveryStatus, at: float) -> Values:
    return {"status": status.value, "completed_at": at, "next_attempt_at": None}
