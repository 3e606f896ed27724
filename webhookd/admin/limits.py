"""Rate limits of API keys: a token bucket for each key, and the RateLimit headers of answers.

The headers are those of the IETF's draft-ietf-httpapi-ratelimit-headers (revisions 8 to 10). The buckets use the event
loop's clock, which nobody can set.
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
    """The rest of a key's limit after a request; `retry_after_seconds` is set if the request exceeds the limit."""

    limit: RateLimit
    remaining: int
    full_in_seconds: int
    retry_after_seconds: int | None = None

    def check(self) -> None:
        """Raise Rejected RATE_LIMITED if the request exceeds the limit."""
        if self.retry_after_seconds is not None:
            raise Rejected(
                ErrorCode.RATE_LIMITED,
                f"this key may send {self.limit.per_second:g} requests a second (server.rate_limit_per_second)",
                retry_after_seconds=self.retry_after_seconds,
            )

    def headers(self) -> Mapping[str, str]:
        """Return the two headers, with the limit and with the rest of it."""
        window = max(1, math.ceil(self.limit.burst / self.limit.per_second))
        return {
            POLICY_HEADER: f"{_POLICY};q={self.limit.burst};w={window}",
            LIMIT_HEADER: f"{_POLICY};r={self.remaining};t={self.full_in_seconds}",
        }


class RateLimits:
    """The buckets, one for each recently used key; without a rate nothing is limited.

    Their number is bounded: a new bucket replaces the one that is unused the longest, whose key then starts with a full
    bucket.
    """

    def __init__(self, per_second: float | None, burst: int, clock: Callable[[], float] = trio.current_time) -> None:
        self._limit = None if per_second is None else RateLimit(per_second=per_second, burst=burst)
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}

    def take(self, key_id: str) -> Quota | None:
        """Count one request of a key, in one step; None if nothing is limited."""
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
        tokens = bucket.filled(now)
        return Quota(
            limit=limit,
            remaining=0 if retry_after is not None else int(tokens),
            full_in_seconds=max(math.ceil((limit.burst - tokens) / limit.per_second), retry_after or 0),
            retry_after_seconds=retry_after,
        )

    def _put(self, key_id: str, bucket: TokenBucket) -> None:
        self._buckets.pop(key_id, None)
        self._buckets[key_id] = bucket  # as the most recent one
        if len(self._buckets) > MOST_BUCKETS:
            del self._buckets[next(iter(self._buckets))]


def site_of(address: str) -> str:
    """Return the address by which a client is counted: an IPv4 address, or the /64 network of an IPv6 host."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a Unix socket has no address
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:  # on a listener for both families
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, _IPV6_SITE_BITS), strict=False))
