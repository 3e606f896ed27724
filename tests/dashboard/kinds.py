"""The webhooks of the day, with their health and organization."""

import msgspec

from webhookd.base.models import Ordering, PolicyOverrides, RateLimit


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook and its day: `failing` and `slow` are shares of its attempts, `queue` its pending deliveries."""

    name: str
    url: str
    events: tuple[str, ...]
    organization: str | None = None
    failing: float = 0.0
    error: str = "http_5xx"
    status: int | None = 500
    seconds: float = 0.08
    weight: float = 1.0
    queue: int = 0
    breaker: str = "closed"
    active: bool = True
    reason: str | None = None
    overrides: PolicyOverrides = PolicyOverrides()


KINDS = (
    Kind(name="Billing", url="https://billing.acme.example/hooks", events=("subscription.*",), organization="acme"),
    Kind(name="CRM sync", url="https://crm.acme.example/in", events=("user.*",), organization="acme", seconds=0.4),
    Kind(
        name="Data warehouse",
        url="https://warehouse.acme.example/v1/collect/events/from/webhookd",
        events=("*",),
        organization="acme",
        failing=0.5,
        queue=340,
        breaker="open",
    ),
    Kind(
        name="Mail",
        url="https://mail.globex.example/notify",
        events=("user.created", "user.email_verified"),
        organization="globex",
        failing=0.12,
        error="timeout",
        status=None,
        seconds=2.2,
    ),
    Kind(
        name="Search index",
        url="https://search.globex.example/index",
        events=("user.*", "organization.*"),
        organization="globex",
        seconds=0.02,
        weight=3,
        overrides=PolicyOverrides(
            ordering=Ordering.NONE, concurrency=16, rate_limit=RateLimit(per_second=50, burst=100)
        ),
    ),
    Kind(
        name="Legacy ERP",
        url="https://erp.globex.example/cgi-bin/receive.pl",
        events=("organization.*",),
        organization="globex",
        failing=0.9,
        error="http_4xx",
        status=404,
        active=False,
        reason="failing",
        queue=25,
    ),
    Kind(name="Audit archive", url="https://archive.example/webhooks", events=("user.*", "subscription.*"), weight=2),
    Kind(
        name="Disabled by hand",
        url="https://disabled.example/",
        events=("user.deleted",),
        active=False,
        reason="manual",
    ),
    Kind(
        name="Refuses some",
        url="https://strict.example/receive",
        events=("user.updated",),
        failing=0.04,
        error="refused",
        status=422,
    ),
)
