"""The process's metrics: plain numbers, each of which costs a fraction of a microsecond to count.

All counting is done on the event loop, so nothing here locks. `admin/prometheus.py` formats the numbers for Prometheus;
this module and the code that counts need no library for it.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from webhookd.base.models import AcceptedEvent, AttemptRecord, DeliveryStatus, Endpoint, Trigger
from webhookd.observe.statistics import RunningStatistics

SUCCESS = "success"

# Looking up a member of an enum costs as much as counting.
_AUTO, _FAILED = Trigger.AUTO, DeliveryStatus.FAILED

_DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30)
_LAGS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21_600, 86_400)
_COMMITS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_BATCHES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


class Histogram:
    """The number of values up to each bound; the last count is of the values above the highest bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value; a value that equals a bound is within it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Measures:
    """The counts of one process since it started.

    `refused` and `attempts` are counted by stable code. There are few of those: nothing that a caller chooses becomes a
    key. `statistics` counts the same by period, webhook and organization, for the charts.
    """

    def __init__(self) -> None:
        self.accepted = 0
        self.duplicates = 0
        self.refused: Counter[str] = Counter()
        self.attempts: Counter[str] = Counter()
        self.failed_deliveries = 0
        self.durations = Histogram(_DURATIONS)
        self.lags = Histogram(_LAGS)
        self.commits = Histogram(_COMMITS)
        self.batches = Histogram(_BATCHES)
        self.commits_without_room = 0
        self.statistics = RunningStatistics()

    def refuse(self, code: str) -> None:
        """Count an event that was refused, by its error code."""
        self.refused[code] += 1

    def accept(self, event: AcceptedEvent) -> None:
        """Count an accepted event, once it is on disk."""
        self.accepted += 1
        self.statistics.accept(event.organization_id, event.accepted_at)

    def attempted(self, endpoint: Endpoint, record: AttemptRecord) -> None:
        """Count an attempt; a delivery's first also gives the lag between the event and its first request."""
        self.statistics.attempt(endpoint, record)
        self.attempts[SUCCESS if record.error is None else record.error.value] += 1
        self.durations.observe(record.outcome.duration_seconds)
        if record.number == 1 and record.trigger is _AUTO:
            lag_seconds = record.started_at - record.delivery.created_at
            self.lags.observe(lag_seconds if lag_seconds > 0 else 0.0)  # the clock may have been set back
        if record.status is _FAILED:
            self.failed_deliveries += 1

    def expired(self, endpoint: Endpoint, at: float) -> None:
        """Count a delivery that failed because it was too old."""
        self.failed_deliveries += 1
        self.statistics.expire(endpoint, at)

    def committed(self, operations: int, seconds: float) -> None:
        """Count a committed transaction."""
        self.batches.observe(operations)
        self.commits.observe(seconds)
