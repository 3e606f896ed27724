"""What is counted on the way: plain numbers that cost a fraction of a microsecond each.

All counting is done on the loop, so nothing here locks. How the numbers look to a scraper is no business of this
module's: it knows no library, and neither do the places that count.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from webhookd.base.models import AcceptedEvent, AttemptRecord, DeliveryStatus, Endpoint, Trigger
from webhookd.observe.statistics import Tally

SUCCESS = "success"

# Looking up a member of an enum costs as much as counting.
_AUTO, _FAILED = Trigger.AUTO, DeliveryStatus.FAILED

_DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30)
_LAGS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21_600, 86_400)
_COMMITS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_BATCHES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


class Histogram:
    """How often values fell up to each bound; the last count is of those above them all."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value; one that equals a bound is within it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Measures:
    """The counts of one process since it started; made by whoever wires it, and handed to those who count.

    `refused` and `attempts` are by stable codes, which are few: nothing that a caller can choose becomes a key. The
    `tally` tells webhooks and organizations apart, by periods, for the charts.
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
        self.tally = Tally()

    def refuse(self, code: str) -> None:
        """Count an event that was not taken."""
        self.refused[code] += 1

    def accept(self, event: AcceptedEvent) -> None:
        """Count an event that is on disk."""
        self.accepted += 1
        self.tally.accept(event.organization_id, event.accepted_at)

    def attempted(self, endpoint: Endpoint, record: AttemptRecord) -> None:
        """Count an attempt; the first of a delivery also says how long its event waited for it."""
        self.tally.attempt(endpoint, record)
        self.attempts[SUCCESS if record.error is None else record.error.value] += 1
        self.durations.observe(record.outcome.duration_seconds)
        if record.number == 1 and record.trigger is _AUTO:
            lag_seconds = record.started_at - record.delivery.created_at
            self.lags.observe(lag_seconds if lag_seconds > 0 else 0.0)  # the clock may have been set back
        if record.status is _FAILED:
            self.failed_deliveries += 1

    def expired(self, endpoint: Endpoint, at: float) -> None:
        """Count a delivery whose age has passed."""
        self.failed_deliveries += 1
        self.tally.expire(endpoint, at)

    def committed(self, operations: int, seconds: float) -> None:
        """Count a transaction that is on disk."""
        self.batches.observe(operations)
        self.commits.observe(seconds)
