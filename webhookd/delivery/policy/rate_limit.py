"""The rate limit of one endpoint, a token bucket, and the ramp of its concurrency after an outage. Pure."""

from dataclasses import dataclass, replace

from webhookd.base.models import Ordering, Policy, RateLimit

RAMP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """A bucket of `limit.burst` tokens that gains `limit.per_second` of them a second.

    While it is `draining` a backlog it holds one token at most, so that a late wake-up isn't followed by a burst: at
    most `per_second` + 1 requests are then sent in any second.
    """

    limit: RateLimit
    tokens: float
    at: float
    draining: bool = False

    def ready_at(self, now: float) -> float:
        """Return when the next token is there: `now` or later."""
        missing = 1.0 - self.filled(now)
        return now if missing <= 0 else now + missing / self.limit.per_second

    def filled(self, now: float) -> float:
        """Return how many tokens there are."""
        capacity = 1.0 if self.draining else float(self.limit.burst)
        # A clock that is set back must not take tokens away, and rounding must not withhold a token.
        gained = max(now - self.at, 0.0) * self.limit.per_second
        return min(self.tokens + gained + 1e-9, capacity)

    def take(self, now: float) -> "TokenBucket":
        """Return the bucket less one token; call it where `ready_at(now) <= now`."""
        return replace(self, tokens=self.filled(now) - 1.0, at=now)

    def emptied(self, now: float) -> "TokenBucket":
        """Return the bucket at the end of an outage: empty, and saving no burst while the backlog drains."""
        return replace(self, tokens=0.0, at=now, draining=True)

    def drained(self, now: float) -> "TokenBucket":
        """Return the bucket once the backlog is sent: it may save tokens for a burst again."""
        return replace(self, tokens=self.filled(now), at=now, draining=False)

    def resized(self, limit: RateLimit, now: float) -> "TokenBucket":
        """Return the bucket with another limit; it keeps its tokens as far as they fit."""
        return replace(self, limit=limit, tokens=min(self.filled(now), float(limit.burst)), at=now)

    def shifted(self, seconds: float) -> "TokenBucket":
        """Return the bucket after the clock was set by so many seconds."""
        return replace(self, at=self.at + seconds)


def new_bucket(limit: RateLimit, now: float) -> TokenBucket:
    """Return a bucket with one token and no burst yet, since it isn't known what was sent before a restart."""
    return TokenBucket(limit=limit, tokens=1.0, at=now, draining=True)


def allowed_in_flight(policy: Policy, recovered_at: float | None, now: float) -> tuple[int, float | None]:
    """Return how many requests may be in flight, and when one more may be (None: no more than that).

    In strict order it is one. Otherwise it grows from 1 right after an outage to `concurrency` 10 s later, unless the
    endpoint has a rate limit, whose bucket is then empty.
    """
    if policy.ordering is Ordering.STRICT:
        return 1, None
    if recovered_at is None or policy.rate_limit is not None or policy.concurrency == 1:
        return policy.concurrency, None
    share = (now - recovered_at) / RAMP_SECONDS
    if not 0 <= share < 1:
        return policy.concurrency, None
    allowed = 1 + int((policy.concurrency - 1) * share)
    return allowed, recovered_at + RAMP_SECONDS * allowed / (policy.concurrency - 1)
