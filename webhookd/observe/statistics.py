"""Counts by period and by whom they concern, of which the charts of the last hour and day are drawn.

Counting is a look-up and a few additions, for each webhook and the minute that is running. What else is told (an
organization, the whole server, a quarter of an hour) is summed up when somebody asks or the minute has passed. A row
is always the whole of its period, so writing it twice is writing it once.
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

from msgspec import Struct

from webhookd.base.models import AttemptRecord, DeliveryError, DeliveryStatus, Endpoint

MINUTE, QUARTER, HOUR = 60, 900, 3600
SERVER = "*"  # which no organization's id can be

# Fine where receivers usually answer; a percentile is guessed between two of these.
LATENCIES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 15, 30)
_NO_LATENCIES = [0] * (len(LATENCIES) + 1)

# Looking up a member of an enum costs as much as counting.
_INTERRUPTED, _TIMEOUT, _FAILED = DeliveryError.INTERRUPTED, DeliveryError.TIMEOUT, DeliveryStatus.FAILED


class Counts(Struct, array_like=True):
    """What happened in a period.

    `events` were accepted, `delivered` deliveries succeeded, `failures` attempts did not, and `failed` deliveries were
    given up. `latencies` counts the attempts that were answered or timed out, up to each bound of LATENCIES and above.
    """

    events: int = 0
    delivered: int = 0
    failures: int = 0
    failed: int = 0
    latencies: list[int] = []

    def add(self, other: "Counts") -> None:
        """Add what another counted."""
        self.events += other.events
        self.delivered += other.delivered
        self.failures += other.failures
        self.failed += other.failed
        if other.latencies:
            ours = self.latencies or _NO_LATENCIES
            self.latencies = [one + more for one, more in zip(ours, other.latencies, strict=True)]

    def observe(self, seconds: float) -> None:
        """Count a latency."""
        if not self.latencies:
            self.latencies = _NO_LATENCIES.copy()
        self.latencies[bisect_left(LATENCIES, seconds)] += 1

    def quantile_seconds(self, share: float) -> float | None:
        """Return the latency that this share of the attempts stayed within, None without any.

        Within a bucket values are taken to lie evenly; above the last bound all that is known is that bound.
        """
        wanted = sum(self.latencies) * share
        if not wanted:
            return None
        upto, low = 0, 0.0
        for bound, count in zip(LATENCIES, self.latencies, strict=False):
            if count and upto + count >= wanted:
                return low + (bound - low) * (wanted - upto) / count
            upto, low = upto + count, bound
        return LATENCIES[-1]


class Key(NamedTuple):
    """Which row: the length of its period, its start, and whom it concerns.

    Minutes and quarters of an hour are of the server or an organization (its id), hours of a webhook (its id).
    """

    seconds: int
    at: int
    subject: str


CountsRow = tuple[Key, Counts]


class Tally:
    """The counts of a server; every method is one synchronous step on the loop. Times are epoch seconds."""

    def __init__(self) -> None:
        self._minute = 0
        self._ends_at = 0.0
        self._events: dict[str | None, int] = {}
        self._webhooks: dict[str, tuple[str | None, Counts]] = {}
        self._rows: dict[Key, Counts] = {}
        self._unsaved: set[Key] = set()

    def accept(self, organization_id: str | None, at: float) -> None:
        """Count an event that is on disk."""
        if at >= self._ends_at:
            self._turn(at)
        self._events[organization_id] = self._events.get(organization_id, 0) + 1

    def attempt(self, endpoint: Endpoint, record: AttemptRecord) -> None:
        """Count an attempt; one that was cut off counts for nothing."""
        outcome, error = record.outcome, record.error
        if error is _INTERRUPTED:
            return
        counts = self._of(endpoint, record.started_at + outcome.duration_seconds)
        if error is None:
            counts.delivered += 1
        else:
            counts.failures += 1
        if record.status is _FAILED:
            counts.failed += 1
        if outcome.status is not None or error is _TIMEOUT:
            counts.observe(outcome.duration_seconds)

    def expire(self, endpoint: Endpoint, at: float) -> None:
        """Count a delivery that was given up by age."""
        self._of(endpoint, at).failed += 1

    def adopt(self, stored: Iterable[CountsRow]) -> None:
        """Go on from rows of periods that are still running, as a server before this one left them."""
        self._fold()
        for key, counts in stored:
            counts.add(self._rows.get(key, Counts()))
            self._rows[key] = counts

    def take(self, now: float) -> list[CountsRow]:
        """Return the rows that have changed since they were taken last, and forget those of periods that have ended.

        The rows are this object's own: encode them before it counts on.
        """
        self._turn(now)
        taken = [(key, self._rows[key]) for key in sorted(self._unsaved)]
        self._unsaved.clear()
        self._rows = {key: counts for key, counts in self._rows.items() if key.at + key.seconds > now}
        return taken

    def put_back(self, taken: Iterable[CountsRow]) -> None:
        """Take back rows that could not be saved, for the next time."""
        for key, counts in taken:
            # One of a period that is still running has been counted on.
            self._rows.setdefault(key, counts)
            self._unsaved.add(key)

    def present(self, now: float) -> "dict[Key, Counts]":
        """Return the rows that are held: of all running periods, and what has not been saved yet."""
        self._turn(now)
        return self._rows

    def _of(self, endpoint: Endpoint, at: float) -> Counts:
        if at >= self._ends_at:
            self._turn(at)
        known = self._webhooks.get(endpoint.id)
        if known is None:
            known = self._webhooks[endpoint.id] = (endpoint.organization_id, Counts())
        return known[1]

    def _turn(self, at: float) -> None:
        """Sum up the minute that has run so far, and go on with the one of `at`; a clock set back stays in it."""
        self._fold()
        self._minute = max(self._minute, int(at) // MINUTE * MINUTE)
        self._ends_at = self._minute + MINUTE

    def _fold(self) -> None:
        for organization_id, events in self._events.items():
            self._sum_up(organization_id, Counts(events=events))
        for webhook_id, (organization_id, counts) in self._webhooks.items():
            self._sum_up(organization_id, counts)
            self._add(Key(HOUR, self._minute // HOUR * HOUR, webhook_id), counts)
        self._events.clear()
        self._webhooks.clear()

    def _sum_up(self, organization_id: str | None, counts: Counts) -> None:
        for subject in (SERVER,) if organization_id is None else (SERVER, organization_id):
            for seconds in (MINUTE, QUARTER):
                self._add(Key(seconds, self._minute // seconds * seconds, subject), counts)

    def _add(self, key: Key, counts: Counts) -> None:
        self._rows.setdefault(key, Counts()).add(counts)
        self._unsaved.add(key)
