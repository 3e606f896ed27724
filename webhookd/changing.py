"""A change of a webhook by hand as one transaction: its settings or secrets, and what `renew` makes of its past."""

from msgspec import Struct

from webhookd.delivery.renewal import Renewal, renew
from webhookd.hidden import Secret
from webhookd.journal import Database, EndpointChanges, endpoints
from webhookd.models import Endpoint
from webhookd.secrets import Vault


class Change(Struct, frozen=True, kw_only=True):
    """An endpoint as it has been changed; `renewal` None leaves its past as it is."""

    endpoint: Endpoint
    renewal: Renewal | None


def update(
    database: Database,
    vault: Vault,
    endpoint_id: str,
    changes: EndpointChanges,
    now: float,
    *,
    condition: endpoints.Condition | None,
) -> Change:
    """Change what `changes` names; raises as `endpoints.update`."""
    before = endpoints.get(database, endpoint_id)
    headers = _headers(database, vault, before, now)
    after = endpoints.update(database, vault, endpoint_id, changes, now, condition=condition)
    return _renewed(database, before, after, now, has_new_secrets=headers != _headers(database, vault, after, now))


def rotate(
    database: Database,
    vault: Vault,
    endpoint_id: str,
    now: float,
    *,
    secret: Secret[str],
    secret_hint: str,
    overlap_seconds: float,
    condition: endpoints.Condition | None,
) -> Change:
    """Make `secret` the current one; raises as `endpoints.rotate`."""
    before = endpoints.get(database, endpoint_id)
    after = endpoints.rotate(
        database, vault, endpoint_id, secret, secret_hint, overlap_seconds, now, condition=condition
    )
    return _renewed(database, before, after, now, has_new_secrets=True)


def _headers(database: Database, vault: Vault, endpoint: Endpoint, now: float) -> list[tuple[str, str]]:
    credentials = endpoints.credentials(database, vault, endpoint.pk, now)
    assert credentials is not None  # noqa: S101 - it isn't deleted in this transaction
    return [(name, value.reveal()) for name, value in credentials.headers]


def _renewed(database: Database, before: Endpoint, after: Endpoint, now: float, *, has_new_secrets: bool) -> Change:
    state = endpoints.state(database, after.pk)
    renewal = renew(before, after, state, now, has_new_secrets=has_new_secrets)
    if renewal is not None:
        endpoints.set_state(database, after.pk, renewal.state)
        endpoints.hasten(database, after.pk, renewal.due_at)
    return Change(endpoint=after, renewal=renewal)
