"""Two changes at the same time on PostgreSQL: the second reads what the first has committed, and overwrites nothing."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace
from peewee import Database

from tests.journal.engines import add_deliveries, add_events, postgres_database
from tests.journal.harness import MASTER_KEY, VAULT
from tests.journal.test_both_engines import entry, new_webhook, same_ids
from tests.patience import wait_until
from tests.samples import AT
from webhookd.base.errors import ErrorCode, MasterKeyError, Rejected
from webhookd.base.models import (
    DeliveryStatus,
    DisabledReason,
    EndpointState,
    Ordering,
    ReplayKind,
    Role,
)
from webhookd.base.secret import Secret
from webhookd.crypto.vault import Vault
from webhookd.delivery.policy.clock_correction import Bounds, correct
from webhookd.journal import (
    BEGUN,
    EndpointChanges,
    EventTypeRow,
    KeptAnswer,
    KeyRow,
    QueuedAs,
    Selection,
)
from webhookd.journal.postgres import claims
from webhookd.journal.queries import (
    audit,
    clock_steps,
    deliveries,
    endpoints,
    event_types,
    events,
    idempotency,
    keys,
    locks,
    master_key,
    quotas,
    replays,
    retention,
    sealing,
)
from webhookd.journal.queries.schema import DeliveryTable, SequenceTable

T = TypeVar("T")

OTHER_KEY = Secret(bytes(range(1, 33)))
AGAIN: dict[str, Any] = {"force": False, "now": AT + 5000, "max_age_seconds": 60.0, "ordering": Ordering.STRICT}
QUEUED_AS = QueuedAs(at=AT + 5000, max_age_seconds=60.0, status=DeliveryStatus.PENDING)


class Pair:
    """Two connections to a database, of which one changes it while the other has not committed yet."""

    def __init__(self, one: Database, other: Database, watcher: Database) -> None:
        self._one = one
        self._other = other
        self._watcher = watcher

    def do(self, change: Callable[[Database], T]) -> T:
        """Make a change, alone."""
        with self._one.atomic():
            return change(self._one)

    def overlap(
        self,
        first: Callable[[Database], object],
        second: Callable[[Database], T],
        *,
        then: Callable[[Database], object] = lambda _: None,
    ) -> T:
        """Make two changes, and commit the first when the second waits for it or is done; return the second's result.

        Before that the first does `then`.
        """

        def run_second() -> T:
            with self._other.atomic():
                return second(self._other)

        with ThreadPoolExecutor(1) as threads:
            with self._one.atomic():
                first(self._one)
                running = threads.submit(run_second)
                wait_until(lambda: running.done() or self._waits())
                then(self._one)
            return running.result()

    def _waits(self) -> bool:
        pid = self._other.connection().info.backend_pid  # type: ignore[no-untyped-call]  # peewee's stub
        sql = f"SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted"  # noqa: S608 - a number
        return bool(self._watcher.execute_sql(sql).fetchone()[0])  # type: ignore[no-untyped-call]  # peewee's stub


@pytest.fixture
def pair(journal_database: str) -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(*(stack.enter_context(postgres_database(journal_database)) for _ in range(3)))


def queue(database: Database, count: int = 1, **fields: object) -> None:
    """Add a webhook with deliveries, each of an event of its own, that have expired by the time of the changes."""
    endpoints.insert(database, VAULT, new_webhook(1))
    add_deliveries(database, 1, add_events(database, count), **fields)


def succeed(database: Database, *pks: int) -> None:
    """Record an attempt's success as the writer does."""
    values = {"status": DeliveryStatus.SUCCEEDED, "next_attempt_at": None, "completed_at": AT, "trigger": "auto"}
    DeliveryTable.update(values).where(DeliveryTable.pk.in_(pks)).execute(database)


def column(database: Database, name: str) -> list[object]:
    """Return a column of all deliveries, by row number."""
    query = DeliveryTable.select(getattr(DeliveryTable, name)).order_by(DeliveryTable.pk)
    return [value for (value,) in query.tuples().execute(database)]


def publish(database: Database) -> None:
    """Publish an event to the webhook as the writer does."""
    locks.lock_line(database, 1)
    add_deliveries(database, 1, add_events(database, 1))


def retry(pk: int = 1) -> Callable[[Database], object]:
    return lambda database: deliveries.retry(database, pk, **AGAIN)


def selection(kind: ReplayKind) -> Selection:
    return Selection(
        endpoint_pk=1, kind=kind, since=AT, until=AT + 1e6, events=(), subscribed=("*",), organization_id=None
    )


def started(kind: ReplayKind) -> Callable[[Database], object]:
    """Return the change that starts a recover or replay of everything."""
    wanted = selection(kind)
    return lambda database: replays.start(database, wanted, replays.match(database, wanted), "rpl_1", AT)


def step(kind: ReplayKind) -> Callable[[Database], Any]:
    return lambda database: replays.step(database, "rpl_1", selection(kind), QUEUED_AS, same_ids(1))


def test_a_retry_after_a_success_is_refused(pair: Pair) -> None:
    """A delivery that succeeds meanwhile isn't sent again without `force`."""
    pair.do(queue)
    with pytest.raises(Rejected) as refused:
        pair.overlap(lambda database: succeed(database, 1), retry())
    assert refused.value.code is ErrorCode.CONFLICT
    assert pair.do(lambda database: column(database, "status")) == ["succeeded"]


def test_a_retry_does_not_end_the_back_off_of_what_is_parked(pair: Pair) -> None:
    """The head of a queue that is parked meanwhile stays so until its own time."""
    pair.do(lambda database: queue(database, 2, next_attempt_at=AT + 9000, backoff_step=1))
    parked = DeliveryTable.update({"status": DeliveryStatus.PARKED}).where(DeliveryTable.pk == 1)
    pair.overlap(parked.execute, retry(2))
    assert pair.do(lambda database: column(database, "next_attempt_at")) == [AT + 9000, AT + 5000]


def test_what_ends_or_is_retried_does_not_expire(pair: Pair) -> None:
    """A delivery that succeeds, or is queued again with a new age, isn't recorded as too old."""
    pair.do(lambda database: queue(database, 2))

    def first(database: Database) -> None:
        succeed(database, 1)
        retry(2)(database)

    assert pair.overlap(first, lambda database: deliveries.expire(database, [1, 2], AT + 5000)) == []
    assert pair.do(lambda database: column(database, "status")) == ["succeeded", "pending"]


def test_what_ends_is_not_canceled(pair: Pair) -> None:
    """Of a deleted webhook's queue, a delivery that succeeds meanwhile keeps its result."""
    pair.do(lambda database: queue(database, 3))
    cancel = partial(deliveries.cancel, endpoint_pk=1, now=AT + 5000, limit=10)
    assert pair.overlap(lambda database: succeed(database, 2), cancel) == 2
    assert pair.do(lambda database: column(database, "status")) == ["canceled", "succeeded", "canceled"]


def test_what_is_retried_is_not_recovered_too(pair: Pair) -> None:
    """A failed delivery that is retried by hand meanwhile is queued once, by hand."""
    pair.do(lambda database: queue(database, 2, status="failed", next_attempt_at=None))
    pair.do(started(ReplayKind.RECOVER))
    row = pair.overlap(retry(), step(ReplayKind.RECOVER))
    assert (row.queued, row.status) == (1, "done")
    assert pair.do(lambda database: column(database, "trigger")) == ["manual", "recover"]


def test_a_replay_and_a_publish_share_the_sequence(pair: Pair) -> None:
    """Deliveries that are replayed and published at the same time have sequences without a gap or a repeat."""
    pair.do(lambda database: queue(database, 3))
    pair.do(started(ReplayKind.REPLAY))
    assert pair.overlap(publish, step(ReplayKind.REPLAY)).queued == 3
    assert pair.do(lambda database: column(database, "sequence")) == [1, 2, 3, 4, 5, 6, 7]
    assert pair.do(last_sequence) == 7


def last_sequence(database: Database) -> int:
    [[last]] = SequenceTable.select(SequenceTable.last).tuples().execute(database)
    return int(last)


@pytest.mark.parametrize("kind", list(ReplayKind))
def test_a_stop_holds_against_a_step(pair: Pair, kind: ReplayKind) -> None:
    """A step that begins before a stop commits queues nothing, and the stop stays."""
    pair.do(lambda database: queue(database, 2, status="failed", next_attempt_at=None))
    pair.do(started(kind))
    row = pair.overlap(lambda database: replays.stop(database, 1, "rpl_1"), step(kind))
    assert (row.status, row.queued) == ("stopped", 0)


def test_two_replays_can_not_both_be_the_last(pair: Pair) -> None:
    """Of two that are started at the same time, the one above the bound is refused."""
    pair.do(queue)
    wanted = selection(ReplayKind.REPLAY)

    def start(number: int, database: Database) -> object:
        return replays.start(database, wanted, replays.match(database, wanted), f"rpl_{number}", AT)

    for number in range(replays.MOST_RUNNING - 1):
        pair.do(partial(start, number))
    with pytest.raises(Rejected):
        pair.overlap(partial(start, 98), partial(start, 99))


@pytest.mark.parametrize("audited", [True, False])
def test_the_audit_chain_can_not_fork(pair: Pair, audited: bool) -> None:
    """Entries that are appended at the same time follow each other in one chain."""

    def append(number: int, database: Database) -> None:
        if audited:
            insert = audit.recorded(endpoints.insert, entry(), endpoints.about)
            insert(database, VAULT, new_webhook(number))
        else:
            audit.append(database, entry(), f"x{number}", None)

    pair.overlap(partial(append, 1), partial(append, 2))
    chain = pair.do(audit.verify)
    assert (chain.entries, chain.broken) == (2, None)


def test_a_quota_holds(pair: Pair) -> None:
    """Of two webhooks or keys that are added at the same time, the one above the quota is refused."""

    def webhook(number: int, database: Database) -> object:
        return quotas.insert_endpoint(database, VAULT, new_webhook(number, organization_id="acme"), most=1)

    def key(number: int, database: Database) -> object:
        return quotas.insert_key(database, new_key(number, "acme"), most=1)

    for add in (webhook, key):
        with pytest.raises(Rejected) as refused:
            pair.overlap(partial(add, 1), partial(add, 2))
        assert refused.value.code is ErrorCode.QUOTA_EXCEEDED


def new_key(number: int, organization_id: str | None = None) -> KeyRow:
    return KeyRow(
        id=f"key_{number}",
        role=Role.ADMIN,
        name="",
        organization_id=organization_id,
        key_hash=bytes([number]) * 32,
        created_at=AT,
        expires_at=None,
    )


def test_there_is_one_first_key(pair: Pair) -> None:
    """Of two first keys at the same time, one is stored; of two revocations of it, one is carried out."""

    def insert(number: int, database: Database) -> bool:
        return keys.insert_first(database, new_key(number), entry())

    assert pair.overlap(partial(insert, 1), partial(insert, 2)) is False
    assert [key.id for key in pair.do(keys.all)] == ["key_1"]

    def revoke(database: Database) -> object:
        return keys.revoke(database, "key_1", None)

    with pytest.raises(Rejected):
        pair.overlap(revoke, revoke)


def test_an_event_type_is_put_twice(pair: Pair) -> None:
    """Of two that put the same new name, the second replaces it; the bound on all of them holds."""
    size = event_types.MOST_BYTES // 2 + 1

    def put(name: str, text: str, database: Database) -> object:
        return event_types.put(database, EventTypeRow(name=name, description=text), AT)

    pair.overlap(partial(put, "a", "x"), partial(put, "a", "y"))
    found = pair.do(lambda database: event_types.find(database, "a"))
    assert found is not None
    assert found.description == "y"
    with pytest.raises(Rejected):
        pair.overlap(partial(put, "b", "x" * size), partial(put, "c", "x" * size))
    seen: list[EventTypeRow | None] = []
    pair.overlap(partial(put, "a", "z"), lambda database: event_types.delete(database, "a", condition=seen.append))
    assert [row.description for row in seen if row is not None] == ["z"]


def test_a_change_of_settings_is_checked_after_the_one_before(pair: Pair) -> None:
    """The condition gets the webhook as the first change leaves it, and each change has a version of its own."""
    pair.do(lambda database: endpoints.insert(database, VAULT, new_webhook(1)))
    seen: list[str] = []

    def update(text: str, database: Database) -> float:
        return endpoints.update(
            database,
            VAULT,
            "wh_1",
            EndpointChanges(description=text),
            AT,
            condition=lambda before: seen.append(before.description),
        ).updated_at

    second = pair.overlap(partial(update, "first"), partial(update, "second"))
    assert (seen, second) == (["", "first"], AT + 1.002)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (EndpointChanges(is_active=False), DisabledReason.MANUAL),
        (EndpointChanges(description="x"), DisabledReason.GONE),
    ],
)
def test_a_disabled_webhook_keeps_its_reason(pair: Pair, changes: EndpointChanges, reason: DisabledReason) -> None:
    """A webhook that a user disables isn't disabled again by its responses, and its version never goes back."""
    pair.do(lambda database: endpoints.insert(database, VAULT, new_webhook(1)))
    after = pair.overlap(
        lambda database: endpoints.update(database, VAULT, "wh_1", changes, AT + 50),
        lambda database: endpoints.disable(database, 1, DisabledReason.GONE, AT + 9, forgiven=0),
    )
    assert (after.disabled_reason, after.updated_at >= AT + 50) == (reason, True)


def test_a_rotation_keeps_its_secrets(pair: Pair) -> None:
    """A rotation under way loses neither secret to the deletion of expired ones, nor to a new master key."""
    pair.do(lambda database: endpoints.insert(database, VAULT, new_webhook(1)))

    def rotate(secret: str, now: float, database: Database) -> None:
        endpoints.rotate(database, VAULT, "wh_1", Secret(secret), "", 60.0, now)

    pair.do(partial(rotate, "second", AT))
    assert (
        pair.overlap(
            partial(rotate, "third", AT + 100), lambda database: sealing.delete_expired(database, [1], AT + 110)
        )
        == 0
    )
    vault = Vault(MASTER_KEY)
    vault.seal_with(OTHER_KEY)
    pair.overlap(partial(rotate, "fourth", AT + 200), lambda database: sealing.reseal(database, vault, None, 10))
    opened = pair.do(lambda database: endpoints.credentials(database, Vault(OTHER_KEY), 1, AT + 201))
    assert opened is not None
    assert (opened.secret, opened.previous_secret) == (Secret("fourth"), Secret("third"))


def test_a_resealed_answer_is_the_last_one(pair: Pair) -> None:
    """An answer that is kept while the answers are resealed isn't replaced by an older one."""
    answer = KeptAnswer(caller="c", route="r", key="k", body_hash=bytes(32), status=200, sealed=b"", created_at=AT)
    pair.do(lambda database: idempotency.keep(database, VAULT, answer, b"first"))
    vault = Vault(MASTER_KEY)
    vault.seal_with(OTHER_KEY)
    pair.overlap(
        lambda database: idempotency.keep(database, VAULT, answer, b"second"),
        lambda database: idempotency.reseal(database, vault, None, 10),
    )
    found = pair.do(lambda database: idempotency.find(database, "c", "r", "k", AT))
    assert found is not None
    assert idempotency.unseal(Vault(OTHER_KEY), found) == b"second"


def test_one_of_two_requests_with_a_key_is_carried_out(pair: Pair) -> None:
    """Of two nodes that get a request with the same Idempotency-Key at the same time, one works on it.

    The other one says that it is under way as long as the first one is a node, and cut off after that. A day later, or
    after a refusal, the key is free.
    """
    begun = KeptAnswer(caller="c", route="r", key="k", body_hash=bytes(32), status=BEGUN, sealed=b"", created_at=AT)

    def claim(process: str, at: float = AT) -> Callable[[Database], KeptAnswer | None]:
        return lambda database: claims.claim(database, replace(begun, created_at=at), process)

    add_node = "INSERT INTO nodes VALUES ('node_a.1', 'a', 1, clock_timestamp() + make_interval(secs => %s))"
    pair.do(lambda database: database.execute_sql(add_node, (3600,)))  # type: ignore[no-untyped-call]  # peewee's stub
    assert pair.overlap(claim("node_a"), claim("node_b")) == replace(begun, is_running=True)
    pair.do(lambda database: claims.give_up(database, "c", "r", "k"))
    assert pair.do(claim("node_b")) == begun
    assert pair.do(claim("node_b", AT + idempotency.KEPT_SECONDS)) is None
    pair.do(lambda database: idempotency.keep(database, VAULT, replace(begun, status=409), b""))
    assert pair.do(claim("node_a")) is None
    assert pair.do(claim("node_b")) == replace(begun, is_running=True)
    pair.do(lambda database: database.execute_sql("DELETE FROM nodes"))  # type: ignore[no-untyped-call]  # as above
    assert pair.do(claim("node_b")) == begun
    forgotten = pair.overlap(lambda database: idempotency.forget(database, "c", "r", "k"), claim("node_b"))
    assert forgotten is None


def test_there_is_one_master_key(pair: Pair) -> None:
    """Of two keys that a new journal is given at the same time, the second is refused."""
    with pytest.raises(MasterKeyError):
        pair.overlap(
            lambda database: master_key.adopt_master_key(database, MASTER_KEY),
            lambda database: master_key.adopt_master_key(database, OTHER_KEY),
        )


def test_retention_keeps_what_is_queued_again(pair: Pair) -> None:
    """An event one of whose deliveries is being queued again isn't deleted."""
    pair.do(lambda database: queue(database, 3, status="failed", next_attempt_at=None))
    assert pair.overlap(retry(), lambda database: retention.prune(database, AT + 9000, 100)).rows == 4
    assert pair.do(lambda database: events.message(database, 1)).body == b"{1}"


def test_a_delivery_that_retention_deletes_is_not_retried(pair: Pair) -> None:
    """A retry of a delivery that is being deleted is refused."""
    pair.do(lambda database: queue(database, 3, status="failed", next_attempt_at=None))

    with pytest.raises(Rejected) as refused:
        pair.overlap(lambda database: retention.prune(database, AT + 9000, 2), retry())
    assert refused.value.code is ErrorCode.NOT_FOUND


@pytest.mark.parametrize("kind", list(ReplayKind))
def test_retention_keeps_what_a_replay_queues(pair: Pair, kind: ReplayKind) -> None:
    """An event that a recover or replay is queueing isn't deleted, nor is the delivery."""
    pair.do(lambda database: queue(database, 2, status="failed", next_attempt_at=None))
    pair.do(started(kind))
    assert pair.overlap(step(kind), lambda database: retention.prune(database, AT + 9000, 100)).rows == 0
    assert pair.do(lambda database: column(database, "status")).count("pending") == 2
    assert pair.do(lambda database: events.message(database, 1)).body == b"{1}"


@pytest.mark.parametrize("kind", list(ReplayKind))
def test_a_replay_leaves_out_what_retention_deletes(pair: Pair, kind: ReplayKind) -> None:
    """A step queues nothing of events that are being deleted."""
    pair.do(lambda database: queue(database, 3, status="failed", next_attempt_at=None))
    pair.do(started(kind))
    row = pair.overlap(lambda database: retention.prune(database, AT + 2.5, 100), step(kind))
    assert (row.queued, row.status) == (1, "done")
    left = pair.do(lambda database: events.page(database, None, limit=9, cursor=None, after=None)).items
    assert [event.pk for event in left] == [3]
    assert set(pair.do(lambda database: column(database, "event_pk"))) == {3}


def test_a_corrected_state_is_the_last_one(pair: Pair) -> None:
    """A correction of a webhook's times keeps what an attempt records meanwhile, and brings back no delivery."""
    pair.do(lambda database: queue(database, 2, next_attempt_at=AT + 9000, backoff_step=1))
    bounds = Bounds(retry_seconds=300.0, throttled_seconds=600.0, age_seconds=3000.0)

    def record(database: Database) -> None:
        endpoints.set_state(database, 1, EndpointState(consecutive_faults=7))
        succeed(database, 1)

    pair.overlap(record, lambda database: clock_steps.bring_in(database, 1, bounds, lambda: AT))
    assert pair.do(lambda database: endpoints.state(database, 1)).consecutive_faults == 7
    assert pair.do(lambda database: column(database, "next_attempt_at")) == [None, AT + 300]


def test_a_back_off_that_ends_is_no_back_off(pair: Pair) -> None:
    """Ending the back-offs of a queue changes no delivery that has succeeded meanwhile."""
    pair.do(lambda database: queue(database, 2, next_attempt_at=AT + 9000, backoff_step=1))
    pair.overlap(lambda database: succeed(database, 1), lambda database: endpoints.end_backoffs(database, 1, AT + 5000))
    assert pair.do(lambda database: column(database, "next_attempt_at")) == [None, AT + 5000]


WAITING = {"next_attempt_at": AT + 9000, "backoff_step": 1}
FAILED = {"status": "failed", "next_attempt_at": None}


def correct_queue(database: Database) -> None:
    bounds = Bounds(retry_seconds=9.0, throttled_seconds=9.0, age_seconds=9.0)
    clock_steps.correct_queue(database, 1, correct(EndpointState(), bounds, AT))


@pytest.mark.parametrize(
    ("queued", "change"),
    [
        (WAITING, lambda database: deliveries.expire(database, [2, 1], AT + 5000)),
        (WAITING, lambda database: deliveries.cancel(database, 1, AT + 5000, 10)),
        (WAITING, lambda database: endpoints.end_backoffs(database, 1, AT + 5000)),
        (WAITING, correct_queue),
        (FAILED, step(ReplayKind.RECOVER)),
    ],
    ids=["expire", "cancel", "end_backoffs", "correct_queue", "recover"],
)
def test_rows_are_locked_in_the_order_of_their_key(
    pair: Pair, queued: dict[str, Any], change: Callable[[Database], object]
) -> None:
    """A change that waits for one delivery holds none with a higher number, so that no two wait for each other."""
    pair.do(lambda database: queue(database, 2, **queued))
    pair.do(started(ReplayKind.RECOVER))
    # The first row is last in the table, and in each index.
    later = {name: getattr(DeliveryTable, name) + 9 for name in ("next_attempt_at", "created_at", "expires_at")}
    last = DeliveryTable.update(later | {"sequence": 3}).where(DeliveryTable.pk == 1)
    pair.do(last.execute)
    pair.overlap(partial(touch, 1), change, then=partial(touch, 2))


@pytest.mark.parametrize(
    ("queued", "change"),
    [
        (WAITING, retry()),
        (WAITING, lambda database: deliveries.cancel(database, 1, AT + 5000, 10)),
        (WAITING, correct_queue),
        (FAILED, step(ReplayKind.RECOVER)),
    ],
    ids=["retry", "cancel", "correct_queue", "recover"],
)
def test_a_queue_is_locked_before_its_deliveries(
    pair: Pair, queued: dict[str, Any], change: Callable[[Database], object]
) -> None:
    """A change that waits for a queue holds none of its deliveries."""
    pair.do(lambda database: queue(database, 1, **queued))
    pair.do(started(ReplayKind.RECOVER))
    pair.overlap(lambda database: locks.lock_line(database, 1), change, then=partial(touch, 1))


def touch(pk: int, database: Database) -> None:
    DeliveryTable.update({"attempts": DeliveryTable.attempts + 1}).where(DeliveryTable.pk == pk).execute(database)


def test_an_audited_change_locks_the_log_first(pair: Pair) -> None:
    """A change that waits for the audit log holds no row that the one before it may still change."""
    pair.do(lambda database: endpoints.insert(database, VAULT, new_webhook(1)))
    update = audit.recorded(endpoints.update, entry(), endpoints.about)
    changes = EndpointChanges(description="x")
    pair.overlap(
        lambda database: audit.append(database, entry(), "x", None),
        lambda database: update(database, VAULT, "wh_1", changes, AT),
        then=lambda database: endpoints.update(database, VAULT, "wh_1", changes, AT),
    )
    assert pair.do(audit.last_sequence) == 2
