"""What a change of a webhook forgives its endpoint: one pure decision, made in the change's own transaction.

The result is applied to the journal's rows (the endpoint's state and the times in its queue) and to the lane. How an
attempt counts that began before the change is decided in `retry.decide`.
"""

import msgspec
from msgspec import Struct

from webhookd.base.models import Endpoint, EndpointState
from webhookd.delivery.policy import breaker


class Forgiveness(Struct, frozen=True, kw_only=True):
    """An endpoint's new state; its queued deliveries are due at `due_at`, whatever their back-off was."""

    state: EndpointState
    due_at: float


def forgive(
    before: Endpoint, after: Endpoint, state: EndpointState, now: float, *, has_new_secrets: bool
) -> Forgiveness | None:
    """Return what a change from `before` to `after` forgives; None if the requests and their URL stay the same.

    After another URL, other headers, secrets or signatures, and after it is enabled, a webhook is tried at once. The
    state of an outage is reset. A webhook that is enabled begins as after an outage, since it may have a backlog.
    """
    is_enabled = after.is_active and not before.is_active
    is_other = before.url != after.url or before.signature != after.signature or has_new_secrets
    if not (is_enabled or is_other):
        return None
    had_outage = state.is_unhealthy or state.failing_since is not None
    if is_enabled or (after.is_active and had_outage):
        state = breaker.forgiven(state)
    elif before.url != after.url:
        state = msgspec.structs.replace(state, recovered_at=None)  # the ramp was the old receiver's
    return Forgiveness(state=msgspec.structs.replace(state, forgiven=state.forgiven + 1), due_at=now)
