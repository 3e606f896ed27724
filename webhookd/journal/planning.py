"""Plan a batch of events before anything is written: its duplicates, rows, sequences and results.

Pure: the caller passes what is stored already, and writes the plan in one transaction.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import AcceptedEvent, PublishResult, QueuedDelivery, Target, Trigger
from webhookd.journal.operations import Publish

FULL_RETRY_SECONDS = 5
UNREACHABLE_RETRY_SECONDS = 5

Stored = tuple[str | None, int]
"""A stored event's organization and number of deliveries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """The last row numbers that were assigned."""

    event: int
    delivery: int


@dataclass(slots=True, kw_only=True)
class Plan:
    """The rows to write and the answers to operations that write nothing; `settle` sets the operations' results.

    `sequences` are the new last sequences, by the row numbers of the endpoints that get deliveries, and `expiries` the
    times after which none of these deliveries expires.
    """

    numbers: Numbers
    stored: list[tuple[int, Publish, list[QueuedDelivery]]] = field(default_factory=list)
    answered: list[tuple[Publish, PublishResult | Rejected]] = field(default_factory=list)
    sequences: dict[int, int] = field(default_factory=dict)
    expiries: dict[int, float] = field(default_factory=dict)


def plan(
    publishes: Sequence[Publish],
    *,
    known: Mapping[str, Stored],
    sequences: Mapping[int, int],
    numbers: Numbers,
    is_full: bool,
    new_delivery_id: Callable[[], str],
) -> Plan:
    """Return the plan for publishing these events in this order.

    `known` are the events among them that are stored already, by id. `sequences` are the last sequences of the
    endpoints: a target without one has been deleted and gets no delivery. If the store `is_full`, only events that
    insist are stored.
    """
    event_pk, delivery_pk = numbers.event, numbers.delivery
    seen, last, expiries = dict(known), dict[int, int](), dict[int, float]()
    planned = Plan(numbers=numbers)
    for publish in publishes:
        event = publish.event
        if (stored := seen.get(event.id)) is not None:
            planned.answered.append((publish, answer_to_repeated(event, stored)))
            continue
        if is_full and not publish.insists:
            planned.answered.append((publish, full()))
            continue
        event_pk += 1
        queued: list[QueuedDelivery] = []
        for target in publish.targets:
            before = last.get(target.endpoint_pk, sequences.get(target.endpoint_pk))
            if before is not None:
                delivery_pk += 1
                last[target.endpoint_pk] = before + 1
                delivery = queued_delivery(
                    delivery_pk, event_pk, event, target, delivery_id=new_delivery_id(), sequence=before + 1
                )
                expiries[target.endpoint_pk] = max(delivery.expires_at, expiries.get(target.endpoint_pk, 0.0))
                queued.append(delivery)
        planned.stored.append((event_pk, publish, queued))
        seen[event.id] = (event.organization_id, len(queued))
    planned.sequences, planned.expiries = last, expiries
    planned.numbers = Numbers(event=event_pk, delivery=delivery_pk)
    return planned


def settle(planned: Plan) -> None:
    """Set each operation's result, inside the transaction that writes the plan."""
    for event_pk, publish, queued in planned.stored:
        publish.event_pk, publish.queued, publish.error = event_pk, queued, None
        publish.result = PublishResult(id=publish.event.id, deliveries=len(queued), duplicate=False)
    for publish, answer in planned.answered:
        publish.event_pk, publish.queued, publish.result, publish.error = None, (), None, None
        if isinstance(answer, Rejected):
            publish.error = answer
        else:
            publish.result = answer


def full() -> Rejected:
    """Return the rejection of an event for which there is no room."""
    return Rejected(
        ErrorCode.JOURNAL_FULL,
        "the journal has no room for more events; send it again later",
        retry_after_seconds=FULL_RETRY_SECONDS,
    )


def unreachable() -> Rejected:
    """Return the rejection of a request while the database of the journal can't be reached."""
    return Rejected(
        ErrorCode.JOURNAL_UNREACHABLE,
        "the journal's database can't be reached; send it again later, with the same id",
        retry_after_seconds=UNREACHABLE_RETRY_SECONDS,
    )


def answer_to_repeated(event: AcceptedEvent, stored: Stored) -> PublishResult | Rejected:
    """Return the answer to an event whose id is stored already."""
    organization_id, count = stored
    if organization_id == event.organization_id:
        return PublishResult(id=event.id, deliveries=count, duplicate=True)
    return Rejected(
        ErrorCode.CONFLICT, f"the id {event.id} belongs to an event of another organization: choose another"
    )


def queued_delivery(
    pk: int, event_pk: int, event: AcceptedEvent, target: Target, *, delivery_id: str, sequence: int
) -> QueuedDelivery:
    """Return a new delivery of an event to a target."""
    return QueuedDelivery(
        pk=pk,
        id=delivery_id,
        endpoint_pk=target.endpoint_pk,
        event_pk=event_pk,
        ordering_key=event.ordering_key,
        sequence=sequence,
        status=target.status,
        trigger=Trigger.AUTO,
        attempts=0,
        refusals=0,
        backoff_step=0,
        next_attempt_at=event.accepted_at,
        created_at=event.accepted_at,
        expires_at=event.accepted_at + target.max_age_seconds,
    )
