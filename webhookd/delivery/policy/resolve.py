"""The delivery policy of a webhook: its own settings, and the server's defaults for the rest."""

from typing import TypeVar

from webhookd.base.models import DeliveryStatus, Endpoint, Policy, PolicyOverrides, RateLimit, WhenInactive
from webhookd.config import DeliveryConfig

_T = TypeVar("_T")


def resolve(overrides: PolicyOverrides, defaults: DeliveryConfig) -> Policy:
    """Return the policy of a webhook; a setting that it doesn't have is the server's."""
    retry = overrides.retry
    return Policy(
        ordering=_or(overrides.ordering, defaults.ordering),
        concurrency=_or(overrides.concurrency, defaults.concurrency),
        rate_limit=overrides.rate_limit or _default_rate(defaults),
        timeout_seconds=_or(overrides.timeout_seconds, defaults.timeout_seconds),
        delays=_or(retry.delays, defaults.retry_delays),
        jitter=_or(retry.jitter, defaults.retry_jitter),
        max_refusals=_or(retry.max_refusals, defaults.max_refusals),
        max_age_seconds=_or(retry.max_age_seconds, defaults.max_age_seconds),
        park_after=_or(retry.park_after, defaults.park_after),
        breaker_threshold=_or(overrides.breaker_threshold, defaults.breaker_threshold),
        when_inactive=_or(overrides.when_inactive, defaults.when_inactive),
        disable_after_seconds=defaults.disable_after_seconds,
        warn_after_seconds=defaults.warn_after_seconds,
    )


def queued_status(endpoint: Endpoint, policy: Policy) -> DeliveryStatus:
    """Return the status of a new delivery: `CANCELED` if the webhook is disabled and drops its events."""
    drops = not endpoint.is_active and policy.when_inactive is WhenInactive.DROP
    return DeliveryStatus.CANCELED if drops else DeliveryStatus.PENDING


def _default_rate(defaults: DeliveryConfig) -> RateLimit | None:
    if defaults.rate_limit_per_second is None:
        return None
    return RateLimit(per_second=defaults.rate_limit_per_second, burst=defaults.rate_limit_burst)


def _or(own: _T | None, default: _T) -> _T:
    return default if own is None else own
