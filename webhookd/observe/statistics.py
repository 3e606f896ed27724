"""Statistics: counts by period and by subject (server, organization or webhook), for the charts of the last day.

Counting an attempt is a look-up and a few additions: it changes only the current minute's counts of its webhook. These
are added to the rows of the organization, the server and the longer periods when the minute ends or a reader asks. A
row always holds the total of its period, so it may be written to the journal any number of times.
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

from msgspec import Struct

from webhookd.base.models import AttemptRecord, DeliveryError, DeliveryStatus, Endpoint

MINUTE, QUARTER, HOUR = 60, 900, 3600
SERVER = "*"  # the subject of the whole server; an organization's id has no asterisk

# In seconds, closer together where receivers usually answer: a percentile is interpolated between two of these.
LATENCIES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 15, 30)
_NO_LATENCIES = [0] * (len(LATENCIES) + 1)

# Looking up a member of an enum takes as long as counting.
_INTERRUPTED, _TIMEOUT, _FAILED = DeliveryError.INTERRUPTED, DeliveryError.TIMEOUT, DeliveryStatus.FAILED


class Counts(Struct, array_like=True):
    """What happened in a period.

    `events` were accepted, `delivered` deliveries succeeded, `failures` attempts and `failed` deliveries failed.
    `latencies` is a histogram of the attempts that were answered or timed out: a count for each bound of LATENCIES, and
    one for those above the last; empty if there were none.
    """

    events: int = 0
    delivered: int = 0
    failures: int = 0
    failed: int = 0
    latencies: list[int] = []

    def add(self, other: "Counts") -> None:
        """Add another period's counts."""
        self.events += other.events
        self.delivered += other.delivered
        self.failures += other.failures
        self.failed += other.failed
        if other.latencies:
            ours = self.latencies or _NO_LATENCIES
            self.latencies = [one + more for one, more in zip(ours, other.latencies, strict=True)]

    def observe(self, seconds: float) -> None:
        """Count an attempt's duration."""
        if not self.latencies:
            self.latencies = _NO_LATENCIES.copy()
        self.latencies[bisect_left(LATENCIES, seconds)] += 1

    def quantile_seconds(self, share: float) -> float | None:
        """Return the latency within which this share of the attempts ended, or None if there were none.

        It is interpolated within a bucket of the histogram. Above the last bound it is that bound.
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
    """The key of a row: the length and the start of its period, in epoch seconds, and its subject.

    The subject is SERVER or an organization's id for minutes and quarters of an hour, and a webhook's id for hours.
    """

    seconds: int
    at: int
    subject: str


CountsRow = tuple[Key, Counts]


class RunningStatistics:
    """The counts that are held in memory; call its methods on the event loop. Times are epoch seconds."""

    def __init__(self) -> None:
        self._minute = 0
        self._ends_at = 0.0
        self._events: dict[str | None, int] = {}
        self._webhooks: dict[str, tuple[str | None, Counts]] = {}
        self._rows: dict[Key, Counts] = {}
        self._unsaved: set[Key] = set()

    def accept(self, organization_id: str | None, at: float) -> None:
        """Count an accepted event."""
        if at >= self._ends_at:
            self._advance(at)
        self._events[organization_id] = self._events.get(organization_id, 0) + 1

    def attempt(self, endpoint: Endpoint, record: AttemptRecord) -> None:
        """Count an attempt, unless it was interrupted by a stop of the server."""
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
        """Count a delivery that failed because it was too old."""
        self._of(endpoint, at).failed += 1

    def adopt(self, stored: Iterable[CountsRow]) -> None:
        """Continue from the rows of the current periods that an earlier run of the server has saved."""
        self._add_minute()
        for key, counts in stored:
            counts.add(self._rows.get(key, Counts()))
            self._rows[key] = counts

    def take(self, now: float) -> list[CountsRow]:
        """Return the rows that changed since the last call, and drop the rows of periods that have ended.

        The rows are not copied: encode them before anything else is counted.
        """
        self._advance(now)
        taken = [(key, self._rows[key]) for key in sorted(self._unsaved)]
        self._unsaved.clear()
        self._rows = {key: counts for key, counts in self._rows.items() if key.at + key.seconds > now}
        return taken

    def put_back(self, taken: Iterable[CountsRow]) -> None:
        """Put rows back that could not be saved; the next `take` returns them again."""
        for key, counts in taken:
            # A current period may have been counted further: its row here is newer.
            self._rows.setdefault(key, counts)
            self._unsaved.add(key)

    def rows(self, now: float) -> dict[Key, Counts]:
        """Return the rows of the current periods, and those that are not saved yet."""
        self._advance(now)
        return self._rows

    def _of(self, endpoint: Endpoint, at: float) -> Counts:
        if at >= self._ends_at:
            self._advance(at)
        known = self._webhooks.get(endpoint.id)
        if known is None:
            known = self._webhooks[endpoint.id] = (endpoint.organization_id, Counts())
        return known[1]

    def _advance(self, at: float) -> None:
        """Add the current minute to its rows, and continue with the minute of `at` unless that is earlier."""
        self._add_minute()
        self._minute = max(self._minute, int(at) // MINUTE * MINUTE)
        self._ends_at = self._minute + MINUTE

    def _add_minute(self) -> None:
        for organization_id, events in self._events.items():
            self._add_shared(organization_id, Counts(events=events))
        for webhook_id, (organization_id, counts) in self._webhooks.items():
            self._add_shared(organization_id, counts)
            self._add(Key(HOUR, self._minute // HOUR * HOUR, webhook_id), counts)
        self._events.clear()
        self._webhooks.clear()

    def _add_shared(self, organization_id: str | None, counts: Counts) -> None:
        for subject in (SERVER,) if organization_id is None else (SERVER, organization_id):
            for seconds in (MINUTE, QUARTER):
                self._add(Key(seconds, self._minute // seconds * seconds, subject), counts)

    def _add(self, key: Key, counts: Counts) -> None:
        self._rows.setdefault(key, Counts()).add(counts)
        self._unsaved.add(key)
