"""The plan of a batch, before anything is written: duplicates, sequences, row numbers, a full store."""

from tests.journal.harness import event
from webhookd.base.models import DeliveryStatus, PublishResult, Target
from webhookd.journal.operations import Publish
from webhookd.journal.planning import Numbers, Plan, plan


def publish(event_id: str, *endpoint_pks: int, insists: bool = False) -> Publish:
    targets = tuple(Target(endpoint_pk=pk, status=DeliveryStatus.PENDING, max_age_seconds=60) for pk in endpoint_pks)
    return Publish(event(event_id), targets, lambda _: None, flow=None, insists=insists, may_repeat=True)


def planned(*publishes: Publish, is_full: bool = False) -> Plan:
    return plan(
        publishes,
        known={"old": (None, 3)},
        sequences={1: 10, 2: 20},
        numbers=Numbers(event=100, delivery=200),
        is_full=is_full,
        new_delivery_id=lambda: "dlv",
    )


def test_sequences_and_row_numbers_go_on_from_the_last() -> None:
    """Each endpoint has its own sequence over the batch, and a deleted target takes no number."""
    made = planned(publish("a", 1, 2), publish("b", 1, 9), publish("c", 1))
    rows = [(pk, [(each.pk, each.endpoint_pk, each.sequence) for each in queued]) for pk, _, queued in made.stored]
    assert rows == [(101, [(201, 1, 11), (202, 2, 21)]), (102, [(203, 1, 12)]), (103, [(204, 1, 13)])]
    assert (made.sequences, made.numbers) == ({1: 13, 2: 21}, Numbers(event=103, delivery=204))


def test_a_duplicate_is_answered_and_not_stored() -> None:
    """An id that is stored already, or is twice in the batch, has the answer of the first."""
    made = planned(publish("old", 1), publish("new", 1, 2), publish("new", 1))
    assert [pk for pk, _, _ in made.stored] == [101]
    assert [answer for _, answer in made.answered] == [
        PublishResult(id="old", deliveries=3, duplicate=True),
        PublishResult(id="new", deliveries=2, duplicate=True),
    ]


def test_a_full_store_takes_only_what_insists() -> None:
    """While the store is full an event is refused, and an event about an attempt is stored."""
    made = planned(publish("refused", 1), publish("told", 1, insists=True), is_full=True)
    assert [each.event.id for _, each, _ in made.stored] == ["told"]
    assert [each.event.id for each, _ in made.answered] == ["refused"]
