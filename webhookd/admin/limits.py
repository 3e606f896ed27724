"""How fast one API key may ask: a token bucket for each, told in the answers by the RateLimit headers.

The headers are those of the IETF's draft-ietf-httpapi-ratelimit-headers (revisions 8 to 10). The buckets run on the
loop's own clock, which nobody sets.
"""

import ipaddress
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import trio

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import RateLimit
from webhookd.delivery.policy.rate_limit import TokenBucket

POLICY_HEADER = "ratelimit-policy"
LIMIT_HEADER = "ratelimit"
MOST_BUCKETS = 4096
_POLICY = '"key"'
_IPV6_SITE_BITS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What a request has left of its key's limit; `retry_after_seconds` is set where it came too early."""

    limit: RateLimit
    remaining: int
    full_in_seconds: int
    retry_after_seconds: int | None = None

    def check(self) -> None:
        """Raise Rejected RATE_LIMITED where the request came too early."""
        if self.retry_after_seconds is not None:
            raise Rejected(
                ErrorCode.RATE_LIMITED,
                f"this key may ask {self.limit.per_second:g} times a second (server.rate_limit_per_second)",
                retry_after_seconds=self.retry_after_seconds,
            )

    def headers(self) -> Mapping[str, str]:
        """Return the two headers: the rule, and what is left of it."""
        window = max(1, math.ceil(self.limit.burst / self.limit.per_second))
        return {
            POLICY_HEADER: f"{_POLICY};q={self.limit.burst};w={window}",
            LIMIT_HEADER: f"{_POLICY};r={self.remaining};t={self.full_in_seconds}",
        }


class RateLimits:
    """The buckets, one for each key that has asked lately; without a rate everything passes.

    Their number is bounded: the one that was taken from the longest ago makes room, and is full when it comes again.
    """

    def __init__(self, per_second: float | None, burst: int, clock: Callable[[], float] = trio.current_time) -> None:
        self._limit = None if per_second is None else RateLimit(per_second=per_second, burst=burst)
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}

    def take(self, key_id: str) -> Quota | None:
        """Count one request of a key, in one step; None where nothing is limited."""
        limit = self._limit
        if limit is None:
            return None
        now = self._clock()
        bucket = self._buckets.get(key_id) or TokenBucket(limit=limit, tokens=float(limit.burst), at=now)
        ready_at = bucket.ready_at(now)
        if ready_at <= now:
            bucket = bucket.take(now)
            self._put(key_id, bucket)
        retry_after = math.ceil(ready_at - now) if ready_at > now else None
        gained = (now - bucket.at) * limit.per_second
        tokens = min(bucket.tokens + gained, float(limit.burst))
        return Quota(
            limit=limit,
            remaining=0 if retry_after is not None else int(tokens),
            full_in_seconds=max(math.ceil((limit.burst - tokens) / limit.per_second), retry_after or 0),
            retry_after_seconds=retry_after,
        )

    def _put(self, key_id: str, bucket: TokenBucket) -> None:
        self._buckets.pop(key_id, None)
        self._buckets[key_id] = bucket  # behind all others
        if len(self._buckets) > MOST_BUCKETS:
            del self._buckets[next(iter(self._buckets))]


def site_of(address: str) -> str:
    """Return what one client can't have many of: an IPv4 address, or the /64 that an IPv6 host is given."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a Unix socket has none
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:  # on a listener for both
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, _IPV6_SITE_BITS), strict=False))
