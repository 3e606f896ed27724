"""Check the promises when everything is delivered: compare the records of producers, receivers and journal."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import apsw

from tests.killing.producers import Ledger
from tests.killing.receivers import Exchange, Watched

_MOST_OF_A_KIND = 5


@dataclass
class Audit:
    """The broken promises, a few of each kind, and how many requests were repeated because of a kill."""

    problems: list[str] = field(default_factory=list)
    sent_again: int = 0

    def add(self, found: Iterable[str]) -> None:
        """Add the first problems of a kind, and the number of the others."""
        problems = list(found)
        self.problems += problems[:_MOST_OF_A_KIND]
        if len(problems) > _MOST_OF_A_KIND:
            self.problems.append(f"… and {len(problems) - _MOST_OF_A_KIND} more like this")


@dataclass(kw_only=True)
class Stored:
    """The deliveries and attempts of one webhook in the journal."""

    deliveries: dict[str, tuple[str, int, str]]
    """By delivery id: the event's id, the sequence, the status."""
    attempts: dict[tuple[str, int], int | None]
    """By delivery id and attempt number: the status of the answer."""


def audit(journal: Path, ledger: Ledger, watched: Sequence[Watched]) -> Audit:
    """Compare the acknowledged events, the requests of the receivers, and the journal, which no process has open."""
    result = Audit(problems=list(ledger.problems))
    connection = apsw.Connection(str(journal))
    try:
        bodies = dict(connection.execute("SELECT id, body FROM events"))
        stored = {each.name: _stored(connection, each) for each in watched}
    finally:
        connection.close()
    result.add(
        f"{event_id} was submitted and never answered"
        for event_id in ledger.submitted
        if event_id not in ledger.acknowledged
    )
    result.add(
        f"{event_id} was acknowledged and is not on disk" for event_id in ledger.acknowledged if event_id not in bodies
    )
    result.add(
        f"{event_id} is on disk and was never submitted" for event_id in bodies if event_id not in ledger.submitted
    )
    result.add(
        f"{event_id} was acknowledged with {count} deliveries instead of {len(watched)}"
        for event_id, count in ledger.acknowledged.items()
        if count != len(watched)
    )
    result.add(_altered(bodies, ledger))
    for each in watched:
        for check in (_undelivered, _altered_in_transit, _out_of_sequence, _out_of_order, _unrecorded, _repeated):
            result.add(f"{each.name}: {problem}" for problem in check(each, ledger, bodies, stored[each.name]))
        result.sent_again += _cut_off(each.exchanges).total()
        result.add(f"{each.name}: {problem}" for problem in each.unverified)
    return result


def _stored(connection: apsw.Connection, watched: Watched) -> Stored:
    tables = "FROM endpoints JOIN deliveries ON endpoint_pk = endpoints.pk"
    deliveries = connection.execute(
        f"SELECT deliveries.id, events.id, sequence, status {tables} JOIN events ON events.pk = event_pk "
        "WHERE endpoints.id = ?",
        (watched.webhook_id,),
    )
    found = {row[0]: (row[1], row[2], row[3]) for row in deliveries}
    attempts = connection.execute(
        f"SELECT deliveries.id, number, attempts.response_status {tables} "
        "JOIN attempts ON delivery_pk = deliveries.pk WHERE endpoints.id = ?",
        (watched.webhook_id,),
    )
    return Stored(deliveries=found, attempts={(row[0], row[1]): row[2] for row in attempts})


def _altered(bodies: dict[str, bytes], ledger: Ledger) -> Iterator[str]:
    for event_id, sent in ledger.submitted.items():
        body = bodies.get(event_id)
        begins, ends = b'{"id":"%s",' % event_id.encode(), b'"data":' + sent.data + b"}"
        if body is not None and not (body.startswith(begins) and body.endswith(ends)):
            yield f"{event_id} is on disk with other bytes"


def _undelivered(watched: Watched, ledger: Ledger, _bodies: dict[str, bytes], stored: Stored) -> Iterator[str]:
    delivered = {exchange.event for exchange in watched.exchanges if exchange.is_good}
    for event_id in ledger.acknowledged:
        if event_id not in delivered:
            yield f"{event_id} was acknowledged and never delivered"
    of_event = Counter(event_id for event_id, _, _ in stored.deliveries.values())
    yield from (f"{event_id} has {count} deliveries" for event_id, count in of_event.items() if count != 1)
    for delivery, (_, _, status) in stored.deliveries.items():
        if status != "succeeded":
            yield f"{delivery} is {status}"


def _altered_in_transit(watched: Watched, _ledger: Ledger, bodies: dict[str, bytes], _stored: Stored) -> Iterator[str]:
    for exchange in watched.exchanges:
        if exchange.event in bodies and exchange.request.body != bodies[exchange.event]:
            yield f"{exchange.event} arrived with other bytes"


def _out_of_sequence(watched: Watched, _ledger: Ledger, _bodies: dict[str, bytes], stored: Stored) -> Iterator[str]:
    sequences = sorted(sequence for _, sequence, _ in stored.deliveries.values())
    if sequences != list(range(1, len(sequences) + 1)):
        yield f"its sequences have gaps or repeats: {len(sequences)} of them, the last is {sequences[-1]}"
    for exchange in watched.exchanges:
        known = stored.deliveries.get(exchange.attempt[0])
        if known is None or known[:2] != (exchange.event, exchange.sequence):
            yield f"{exchange.attempt[0]} was sent as {exchange.event}, {exchange.sequence}, and on disk it is {known}"


def _out_of_order(watched: Watched, ledger: Ledger, _bodies: dict[str, bytes], _stored: Stored) -> Iterator[str]:
    """Check the order of sending.

    In a queue the first attempt of a delivery follows the success of the previous delivery. Sequences follow the order
    in which each producer submitted.
    """
    queues: dict[str, list[Exchange]] = defaultdict(list)
    for exchange in watched.exchanges:
        key = ledger.submitted[exchange.event].key if exchange.event in ledger.submitted else None
        if watched.ordering == "strict":
            queues["all"].append(exchange)
        elif watched.ordering == "key" and key is not None:
            queues[key].append(exchange)
    for name, queue in queues.items():
        last_begun = 0
        begun: set[int] = set()
        succeeded: set[int] = set()
        for exchange in queue:
            if exchange.sequence not in begun:
                if begun and (exchange.sequence < last_begun or last_begun not in succeeded):
                    state = "had succeeded" if last_begun in succeeded else "had not succeeded"
                    yield f"in queue {name}, {exchange.sequence} was sent after {last_begun}, which {state}"
                begun.add(exchange.sequence)
                last_begun = exchange.sequence
            if exchange.is_good:
                succeeded.add(exchange.sequence)
    sent = sorted({(exchange.sequence, exchange.event) for exchange in watched.exchanges})
    last: dict[str, int] = {}
    for _, event_id in sent:
        producer, _, number = event_id.partition("-")
        if int(number) < last.get(producer, -1):
            yield f"{event_id} has a later sequence than {producer}-{last[producer]}"
        last[producer] = int(number)


def _unrecorded(watched: Watched, _ledger: Ledger, _bodies: dict[str, bytes], stored: Stored) -> Iterator[str]:
    """Check that every request is recorded, every recorded attempt was made, and attempts are numbered from 1."""
    made = {exchange.attempt for exchange in watched.exchanges}
    for delivery, number in made - stored.attempts.keys():
        yield f"attempt {number} of {delivery} was made and is not recorded"
    for (delivery, number), status in stored.attempts.items():
        if status is not None and (delivery, number) not in made:
            yield f"attempt {number} of {delivery} is recorded as answered {status} and was never made"
    for delivery, count in Counter(delivery for delivery, _ in stored.attempts).items():
        if {(delivery, number) for number in range(1, count + 1)} - stored.attempts.keys():
            yield f"the attempts of {delivery} are not numbered from 1 to {count}"


def _repeated(watched: Watched, _ledger: Ledger, _bodies: dict[str, bytes], _stored: Stored) -> Iterator[str]:
    """Check that an attempt was repeated only after a kill or an empty answer, and no more often than kills explain."""
    made: dict[tuple[str, int], list[Exchange]] = defaultdict(list)
    for exchange in watched.exchanges:
        made[exchange.attempt].append(exchange)
    for (delivery, number), times in made.items():
        for earlier, later in pairwise(times):
            if earlier.life == later.life and not earlier.had_no_answer:
                yield f"attempt {number} of {delivery} was made twice in one life"
    cut_off = _cut_off(watched.exchanges)
    for life, count in cut_off.items():
        if count > watched.concurrency:
            yield f"{count} requests were repeated after life {life}, and only {watched.concurrency} may be in flight"
    good = Counter(exchange.attempt[0] for exchange in watched.exchanges if exchange.is_good)
    if good.total() - len(good) > cut_off.total():
        yield f"{good.total() - len(good)} deliveries succeeded more than once, and kills explain fewer"


def _cut_off(exchanges: Sequence[Exchange]) -> Counter[int]:
    """Return for each life how many of its attempts were repeated in a later life."""
    made: dict[tuple[str, int], set[int]] = defaultdict(set)
    for exchange in exchanges:
        made[exchange.attempt].add(exchange.life)
    return Counter(life for lives in made.values() for life in sorted(lives)[:-1])
