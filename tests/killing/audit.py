"""What was promised, checked once all is at rest: the producers' account, the receivers' and the journal's against
each other.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import apsw

from tests.killing.producers import Ledger
from tests.killing.receivers import Heard, Watched

_MOST_OF_A_KIND = 5


@dataclass
class Audit:
    """What was broken, a few of each kind, and how many requests were made again because of a kill."""

    problems: list[str] = field(default_factory=list)
    sent_again: int = 0

    def add(self, found: Iterable[str]) -> None:
        """Take in the first problems of a kind, and how many more there are."""
        problems = list(found)
        self.problems += problems[:_MOST_OF_A_KIND]
        if len(problems) > _MOST_OF_A_KIND:
            self.problems.append(f"… and {len(problems) - _MOST_OF_A_KIND} more like this")


@dataclass(kw_only=True)
class Stored:
    """What the journal holds of one webhook."""

    deliveries: dict[str, tuple[str, int, str]]
    """By id: the event's id, the sequence, the status."""
    attempts: dict[tuple[str, int], int | None]
    """By delivery and number: the status of the answer."""


def audit(journal: Path, ledger: Ledger, watched: Sequence[Watched]) -> Audit:
    """Compare what was acknowledged, what receivers heard, and what a journal holds that nobody has open."""
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
        for check in (_undelivered, _altered_on_the_way, _out_of_sequence, _out_of_order, _unrecorded, _repeated):
            result.add(f"{each.name}: {problem}" for problem in check(each, ledger, bodies, stored[each.name]))
        result.sent_again += _cut_off(each.heard).total()
        result.add(f"{each.name}: {problem}" for problem in each.unverified)
    return result


def _stored(connection: apsw.Connection, watched: Watched) -> Stored:
    of_it = "FROM endpoints JOIN deliveries ON endpoint_pk = endpoints.pk"
    deliveries = connection.execute(
        f"SELECT deliveries.id, events.id, sequence, status {of_it} JOIN events ON events.pk = event_pk "
        "WHERE endpoints.id = ?",
        (watched.webhook_id,),
    )
    found = {row[0]: (row[1], row[2], row[3]) for row in deliveries}
    attempts = connection.execute(
        f"SELECT deliveries.id, number, attempts.response_status {of_it} "
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
    delivered = {heard.event for heard in watched.heard if heard.is_good}
    for event_id in ledger.acknowledged:
        if event_id not in delivered:
            yield f"{event_id} was acknowledged and never delivered"
    of_event = Counter(event_id for event_id, _, _ in stored.deliveries.values())
    yield from (f"{event_id} has {count} deliveries" for event_id, count in of_event.items() if count != 1)
    for delivery, (_, _, status) in stored.deliveries.items():
        if status != "succeeded":
            yield f"{delivery} is {status}"


def _altered_on_the_way(watched: Watched, _ledger: Ledger, bodies: dict[str, bytes], _stored: Stored) -> Iterator[str]:
    for heard in watched.heard:
        if heard.event in bodies and heard.request.body != bodies[heard.event]:
            yield f"{heard.event} came with other bytes"


def _out_of_sequence(watched: Watched, _ledger: Ledger, _bodies: dict[str, bytes], stored: Stored) -> Iterator[str]:
    sequences = sorted(sequence for _, sequence, _ in stored.deliveries.values())
    if sequences != list(range(1, len(sequences) + 1)):
        yield f"its sequences have gaps or repeats: {len(sequences)} of them, the last is {sequences[-1]}"
    for heard in watched.heard:
        known = stored.deliveries.get(heard.attempt[0])
        if known is None or known[:2] != (heard.event, heard.sequence):
            yield f"{heard.attempt[0]} came as {heard.event}, {heard.sequence}, and on disk it is {known}"


def _out_of_order(watched: Watched, ledger: Ledger, _bodies: dict[str, bytes], _stored: Stored) -> Iterator[str]:
    """In a line each goes out first once the one before was answered well, and one producer's events in their order."""
    lines: dict[str, list[Heard]] = defaultdict(list)
    for heard in watched.heard:
        key = ledger.submitted[heard.event].key if heard.event in ledger.submitted else None
        if watched.ordering == "strict":
            lines["all"].append(heard)
        elif watched.ordering == "key" and key is not None:
            lines[key].append(heard)
    for name, line in lines.items():
        last_begun = 0
        begun: set[int] = set()
        ended: set[int] = set()
        for heard in line:
            if heard.sequence not in begun:
                if begun and (heard.sequence < last_begun or last_begun not in ended):
                    how = "had ended" if last_begun in ended else "had not ended"
                    yield f"in line {name}, {heard.sequence} came behind {last_begun}, which {how}"
                begun.add(heard.sequence)
                last_begun = heard.sequence
            if heard.is_good:
                ended.add(heard.sequence)
    made = sorted({(heard.sequence, heard.event) for heard in watched.heard})
    last: dict[str, int] = {}
    for _, event_id in made:
        producer, _, number = event_id.partition("-")
        if int(number) < last.get(producer, -1):
            yield f"{event_id} has a later sequence than {producer}-{last[producer]}"
        last[producer] = int(number)


def _unrecorded(watched: Watched, _ledger: Ledger, _bodies: dict[str, bytes], stored: Stored) -> Iterator[str]:
    """A request is on record, what is on record was made, and attempts are numbered from 1."""
    asked = {heard.attempt for heard in watched.heard}
    for delivery, number in asked - stored.attempts.keys():
        yield f"attempt {number} of {delivery} was made and is not on record"
    for (delivery, number), status in stored.attempts.items():
        if status is not None and (delivery, number) not in asked:
            yield f"attempt {number} of {delivery} is on record as answered {status} and was never made"
    for delivery, count in Counter(delivery for delivery, _ in stored.attempts).items():
        if {(delivery, number) for number in range(1, count + 1)} - stored.attempts.keys():
            yield f"the attempts of {delivery} are not numbered from 1 to {count}"


def _repeated(watched: Watched, _ledger: Ledger, _bodies: dict[str, bytes], _stored: Stored) -> Iterator[str]:
    """A request was made again for a kill, or because no byte had come back; never more than were in flight."""
    asked: dict[tuple[str, int], list[Heard]] = defaultdict(list)
    for heard in watched.heard:
        asked[heard.attempt].append(heard)
    for (delivery, number), times in asked.items():
        for earlier, later in pairwise(times):
            if earlier.life == later.life and not earlier.was_swallowed:
                yield f"attempt {number} of {delivery} was made twice in one life"
    cut_off = _cut_off(watched.heard)
    for life, count in cut_off.items():
        if count > watched.concurrency:
            yield f"{count} requests were made again after life {life}, and {watched.concurrency} may be in flight"
    good = Counter(heard.attempt[0] for heard in watched.heard if heard.is_good)
    if good.total() - len(good) > cut_off.total():
        yield f"{good.total() - len(good)} deliveries succeeded more than once, and kills explain fewer"


def _cut_off(heard: Sequence[Heard]) -> Counter[int]:
    """Return how many attempts of each life were made again in a later one."""
    asked: dict[tuple[str, int], set[int]] = defaultdict(set)
    for each in heard:
        asked[each.attempt].add(each.life)
    return Counter(life for lives in asked.values() for life in sorted(lives)[:-1])
