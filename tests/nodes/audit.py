"""Check the promises when everything is delivered: compare producers, receivers, witness and journal.

Whether a request came late is told without comparing durations. A node sends the next request on a connection once it
has the answer to the one before, which the receiver sends after it has recorded that one. So of two requests that are
recorded after another node took the slot, the second one was also begun after that, however slow the machine is.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tests.nodes.producers import Ledger
from tests.nodes.receivers import Watched
from tests.nodes.witness import Owners, Witness

_MOST_OF_A_KIND = 4
_ROUNDING_SECONDS = 0.002  # the times of attempts are rounded
_LONGEST_WINDOW = 60


@dataclass
class Audit:
    """The broken promises, a few of each kind, and how many requests were repeated, and how many came late."""

    problems: list[str] = field(default_factory=list)
    repeated: int = 0
    late: int = 0

    def add(self, found: Iterable[str]) -> None:
        """Add the first problems of a kind, and the number of the others."""
        problems = list(found)
        self.problems += problems[:_MOST_OF_A_KIND]
        if len(problems) > _MOST_OF_A_KIND:
            self.problems.append(f"… and {len(problems) - _MOST_OF_A_KIND} more like this")


@dataclass(kw_only=True)
class Stored:
    """The deliveries of one webhook in the journal by id, and its attempts, each with the time at which it began."""

    deliveries: dict[str, tuple[str, int, str]]
    attempts: dict[tuple[str, int], tuple[int | None, float]]


def audit(
    witness: Witness, ledger: Ledger, watched: Sequence[Watched], feed: Sequence[str], *, interruptions: int
) -> Audit:
    """Compare everything; `interruptions` is how often a node has given up all its webhooks by itself."""
    result = Audit(problems=list(ledger.problems))
    result.add(witness.problems())
    stored = {str(event_id) for (event_id,) in witness.ask("SELECT id FROM events")}
    result.add(f"{event_id} was acknowledged and is not stored" for event_id in ledger.acknowledged - stored)
    result.add(f"{event_id} is stored and was never submitted" for event_id in stored - ledger.submitted.keys())
    result.add(f"{event_id} is missing in the feed" for event_id in stored - set(feed))
    result.add(f"{event_id} is {number} times in the feed" for event_id, number in Counter(feed).items() if number > 1)
    owners = Owners(witness.takes())
    for each in watched:
        found = _stored(witness, each)
        changes = owners.from_dead(each.slot) + interruptions
        for check in (_undelivered, out_of_order, _unrecorded):
            result.add(f"{each.path}: {problem}" for problem in check(each, ledger, found))
        result.add(f"{each.path}: {problem}" for problem in too_fast(each, owners, found))
        repeats = Counter(exchange.attempt for exchange in each.exchanges)
        repeated = repeats.total() - len(repeats)
        result.repeated += repeated
        if repeated > changes * each.concurrency:
            result.add(
                [f"{each.path}: {repeated} requests were repeated, {each.concurrency} each of {changes} times may"]
            )
        late = late_requests(each, owners)
        result.late += late.total()
        result.add(
            f"{each.path}: {number} late requests on connection {connection} of {process}, after {node} had the webhook"
            for (connection, process, node, _), number in late.items()
            if number > 1
        )
    return result


def _stored(witness: Witness, watched: Watched) -> Stored:
    deliveries = witness.ask(
        "SELECT deliveries.id, events.id, sequence, status FROM deliveries JOIN events ON events.pk = event_pk "
        "WHERE endpoint_pk = %s",
        watched.pk,
    )
    attempts = witness.ask(
        "SELECT deliveries.id, number, attempts.response_status, started_at FROM deliveries "
        "JOIN attempts ON delivery_pk = deliveries.pk WHERE endpoint_pk = %s",
        watched.pk,
    )
    return Stored(
        deliveries={row[0]: row[1:] for row in deliveries},  # type: ignore[misc]  # the columns are of its types
        attempts={(row[0], row[1]): row[2:] for row in attempts},  # type: ignore[misc]  # as above
    )


def _undelivered(watched: Watched, ledger: Ledger, stored: Stored) -> Iterator[str]:
    """Check that what was acknowledged has arrived, and has one delivery that has ended."""
    delivered = {exchange.event for exchange in watched.exchanges if exchange.is_good}
    of_event = Counter(event_id for event_id, _, _ in stored.deliveries.values())
    for event_id in ledger.acknowledged:
        if ledger.submitted[event_id].type != watched.event_type:
            continue
        if event_id not in delivered:
            yield f"{event_id} was acknowledged and never delivered"
        if of_event[event_id] != 1:
            yield f"{event_id} has {of_event[event_id]} deliveries"
    for delivery, (_, _, status) in stored.deliveries.items():
        if status != "succeeded":
            yield f"{delivery} is {status}"


def out_of_order(watched: Watched, ledger: Ledger, stored: Stored) -> Iterator[str]:
    """Check that sequences have no gap and follow each producer, and that in strict order firsts follow sequences."""
    sequences = sorted(sequence for _, sequence, _ in stored.deliveries.values())
    if sequences != list(range(1, len(sequences) + 1)):
        yield f"its sequences have gaps or repeats: {len(sequences)} of them, the last is {sequences[-1]}"
    last: dict[str, int] = {}
    for _, event_id in sorted((sequence, event_id) for event_id, sequence, _ in stored.deliveries.values()):
        sent = ledger.submitted[event_id]
        if sent.number < last.get(sent.producer, -1):
            yield f"{event_id} has a later sequence than {sent.producer}-{last[sent.producer]}"
        last[sent.producer] = sent.number
    if watched.ordering == "strict":
        firsts = list(dict.fromkeys(exchange.sequence for exchange in watched.exchanges))
        for before, after in pairwise(firsts):
            if after != before + 1:
                yield f"{after} was first sent after {before}"


def _unrecorded(watched: Watched, _: Ledger, stored: Stored) -> Iterator[str]:
    made = {exchange.attempt for exchange in watched.exchanges}
    for delivery, number in made - stored.attempts.keys():
        yield f"attempt {number} of {delivery} was made and is not recorded"
    for (delivery, number), (status, _at) in stored.attempts.items():
        if status is not None and (delivery, number) not in made:
            yield f"attempt {number} of {delivery} is recorded as answered {status} and was never made"


def too_fast(watched: Watched, owners: Owners, stored: Stored) -> Iterator[str]:
    """Check the rate limit, by the times at which nodes began the recorded attempts.

    A node begins with one token, since it doesn't know what another one has sent. A request that had a token before may
    have waited for its body.
    """
    if watched.rate is None:
        return
    times = sorted(at for _, at in stored.attempts.values())
    for first, begin in enumerate(times):
        for last in range(first + watched.burst, min(first + _LONGEST_WINDOW, len(times))):
            end = times[last]
            taken = owners.between(watched.slot, begin, end)
            allowed = watched.burst + watched.concurrency + taken + watched.rate * (end - begin + _ROUNDING_SECONDS)
            if last - first + 1 > allowed:
                yield f"{last - first + 1} requests began in {end - begin:.3f} s, and {allowed:.1f} may"
                return


def late_requests(watched: Watched, owners: Owners) -> Counter[tuple[int, str, str, float]]:
    """Count the requests of each connection that came after another node had taken the slot."""
    late: Counter[tuple[int, str, str, float]] = Counter()
    for exchange in watched.exchanges:
        take = owners.at(watched.slot, exchange.at)
        if exchange.process is None or take is None or take.node is None:
            continue
        if take.node.partition(".")[0] != exchange.process:
            late[exchange.connection, exchange.process, take.node, take.at] += 1
    return late
