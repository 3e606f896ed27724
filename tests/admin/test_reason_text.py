"""The sentence that says why nothing is being sent."""

import pytest

from webhookd.admin.reason_text import reason_text
from webhookd.base.models import BreakerState
from webhookd.dispatch.health import Cause, EndpointHealth, Reason


@pytest.mark.parametrize(("faults", "words"), [(1, "1 fault"), (2, "2 faults"), (5, "5 faults")])
def test_an_open_circuit_says_how_many_faults_opened_it(faults: int, words: str) -> None:
    """After a change the count begins again, so a circuit may have opened after one fault."""
    health = EndpointHealth(
        at=1000.0,
        breaker=BreakerState.OPEN,
        sending=False,
        reason=Reason(cause=Cause.CIRCUIT_OPEN, until=1040.0, error="HTTP 500"),
        disabled_reason=None,
        queued=1,
        parked=0,
        oldest_pending_at=900.0,
        next_attempt_at=1040.0,
        consecutive_failures=faults,
        failing_since=900.0,
        last_success_at=None,
        last_failure_at=990.0,
    )
    assert reason_text(health) == f"Circuit open after {words}, last: HTTP 500; next probe in 40 s"
