"""What a change by hand forgives an endpoint: one pure decision, taken in the change's own transaction.

The journal's rows (the endpoint's state, the times that its queue waits for) and the lane both follow what it returns.
What an attempt has to say that began before such a change is for `retry.decide`.
"""

from msgspec import Struct

from webhookd.base.models import Endpoint, EndpointState
from webhookd.delivery.policy import breaker


class Forgiveness(Struct, frozen=True, kw_only=True):
    """An endpoint's state from now on; what it has queued is due at `due_at`, whatever back-off it was in."""

    state: EndpointState
    due_at: float


def forgive(
    before: Endpoint, after: Endpoint, state: EndpointState, now: float, *, has_new_secrets: bool
) -> Forgiveness | None:
    """Return what a change from `before` to `after` forgives; None where what is sent, and where to, is the same.

    Another URL, other headers, secrets or signatures, and a webhook that is enabled again are tried at once. Where
    there was an outage it is forgotten; one that was disabled begins as after an outage, since events have piled up.
    """
    is_enabled = after.is_active and not before.is_active
    is_other = before.url != after.url or before.signature != after.signature or has_new_secrets
    if not (is_enabled or is_other):
        return None
    had_outage = state.is_unhealthy or state.failing_since is not None
    if is_enabled or (after.is_active and had_outage):
        state = breaker.forgiven(state)
    return Forgiveness(state=state, due_at=now)
