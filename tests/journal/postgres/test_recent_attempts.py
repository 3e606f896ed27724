"""The last attempts of all nodes, as each of them shows them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.admin.inprocess import OWN_UID, Api, Signer, api_of
from tests.journal.engines import add_deliveries, add_events
from tests.journal.harness import VAULT
from tests.journal.postgres.connections import connected, rows
from tests.journal.postgres.nodes import Open, endpoint_of
from tests.journal.test_both_engines import new_webhook
from tests.patience import until
from tests.samples import AT
from webhookd.base.models import BreakerState, DeliveryError, DeliveryStatus, EndpointState
from webhookd.journal.postgres import recent_attempts
from webhookd.journal.postgres.database import ConnectionRole, PostgresDatabase
from webhookd.journal.postgres.migrations import prepare
from webhookd.journal.postgres.partitions import day_of, make_days
from webhookd.journal.queries import endpoints
from webhookd.journal.queries.schema import DeliveryTable
from webhookd.observe.attempt_feed import MOST_KEPT, Place

OFTEN_SECONDS = 0.02


async def test_each_node_shows_the_attempts_of_all(open_nodes: Open, tmp_path: Path) -> None:
    """A request that one node has made is seen at another one, and so are the later ones after a cursor."""
    async with open_nodes() as nodes:
        one, other = await nodes.two()
        ours, theirs = await endpoint_of(one, at=one), await endpoint_of(other, at=one)
        number = len(await one.journal.webhooks.all())
        api = await api_of(one, tmp_path, Signer())
        await one.publish("first")
        await until(lambda: len(nodes.sender.sent) == number)
        first = await seen(api, number)
        assert {row["eventId"] for row in first} == {"first"}
        assert {ours.id, theirs.id} <= {row["webhookId"] for row in first}
        assert {row["status"] for row in first} == {"succeeded"}
        cursor = (await ask(api))["nextCursor"]
        await other.publish("second")
        later = await seen(api, number, f"?after={cursor}")
        assert {row["eventId"] for row in later} == {"second"}
        [row] = (await ask(api, f"?webhookId={theirs.id}&limit=1"))["data"]
        assert (row["eventId"], row["sequence"], row["breaker"], row["reused"]) == ("second", 2, "closed", None)


async def ask(api: Api, query: str = "") -> dict[str, Any]:
    answer = await api.ask("GET", f"/api/attempts{query}", None, uid=OWN_UID)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    assert not document["gap"]
    return document


async def seen(api: Api, number: int, query: str = "") -> list[dict[str, Any]]:
    """Wait until that many attempts are shown, and return them."""
    found: list[dict[str, Any]] = []
    while len(found := (await ask(api, query))["data"]) < number:
        await trio.sleep(OFTEN_SECONDS)
    assert len(found) == number
    return found


@pytest.fixture
def writer(journal_database: str) -> Iterator[PostgresDatabase]:
    with connected(journal_database) as opened:
        make_days(opened, [day_of(AT)])
        endpoints.insert(opened, VAULT, new_webhook(1, organization_id="acme"))
        yield opened


@pytest.fixture
def reader(journal_database: str) -> Iterator[PostgresDatabase]:
    with connected(journal_database, ConnectionRole.READER) as opened:
        yield opened


def add_attempts(database: PostgresDatabase, *numbers: int, delivery_pk: int = 1, **fields: object) -> None:
    """Store attempts of a delivery, whose ids are `att_` and a number."""
    values: dict[str, object] = {
        "delivery_pk": delivery_pk,
        "trigger": "auto",
        "started_at": AT + 9,
        "duration_seconds": 0.5,
        "response_headers": "[]",
        "response_body": b"",
        "truncated": False,
        "error": None,
        "detail": "",
        "created_at": AT + delivery_pk,
    }
    values |= fields
    rows(
        database,
        f"INSERT INTO attempts (number, id, {', '.join(values)}) "  # noqa: S608 - of names in the test alone
        f"SELECT number, 'att_' || number, {', '.join(['%s'] * len(values))} FROM unnest(%s::bigint[]) AS number",
        *values.values(),
        list(numbers),
    )


def ids_after(reader: PostgresDatabase, place: Place | None) -> tuple[list[str], Place, bool]:
    with reader.atomic():
        found = recent_attempts.after(reader, place)
    return [attempt.id for _, attempt in found.attempts], found.last, found.gap


def test_an_attempt_that_is_committed_late_is_shown(
    writer: PostgresDatabase, reader: PostgresDatabase, journal_database: str
) -> None:
    """Nothing is shown that an open transaction may still add an attempt before."""
    add_deliveries(writer, 1, add_events(writer, 1))
    assert ids_after(reader, None) == ([], (0, 0, 0, 0), False)
    add_attempts(writer, 1)
    with connected(journal_database) as late:
        late.begin()
        add_attempts(late, 2)
        add_attempts(writer, 3)
        shown, place, _ = ids_after(reader, None)
        assert shown == ["att_1"]
        late.commit()
    assert ids_after(reader, place)[0] == ["att_2", "att_3"]


def test_a_reader_that_is_too_slow_is_told(writer: PostgresDatabase, reader: PostgresDatabase) -> None:
    """Of more attempts than are kept in view the last ones are shown, after a place with a gap."""
    add_deliveries(writer, 1, add_events(writer, 1))
    add_attempts(writer, 1)
    _, place, _ = ids_after(reader, None)
    add_attempts(writer, *range(2, MOST_KEPT + 2))
    shown, last, gap = ids_after(reader, place)
    assert (len(shown), shown[0], gap) == (MOST_KEPT, "att_2", False)
    assert ids_after(reader, last) == ([], last, False)
    add_attempts(writer, MOST_KEPT + 2)
    shown, _, gap = ids_after(reader, place)
    assert (len(shown), shown[0], gap) == (MOST_KEPT, "att_3", True)
    assert ids_after(reader, None)[2] is False


def test_what_is_shown_of_an_attempt(writer: PostgresDatabase, reader: PostgresDatabase) -> None:
    """The last attempt has the state of its delivery, an earlier one was followed by another; a test isn't shown."""
    add_deliveries(writer, 1, add_events(writer, 2, organization_id="acme", body=b"12345"))
    outage = EndpointState(breaker=BreakerState.OPEN, consecutive_faults=5)
    endpoints.set_state(writer, 1, outage)
    DeliveryTable.update(attempts=2, refusals=1, next_attempt_at=AT + 60).where(DeliveryTable.pk == 1).execute(writer)
    DeliveryTable.update(sequence=0).where(DeliveryTable.pk == 2).execute(writer)
    add_attempts(writer, 1, 2, error="http_5xx", response_status=500, retry_after_seconds=7.5)
    add_attempts(writer, 1, delivery_pk=2)
    with reader.atomic():
        [(_, first), (_, last)] = recent_attempts.after(reader, None).attempts
    assert (first.number, first.status, first.refusals, first.next_attempt_at) == (1, DeliveryStatus.PENDING, 0, None)
    assert (last.number, last.status, last.refusals, last.next_attempt_at) == (2, DeliveryStatus.PENDING, 1, AT + 60)
    assert (last.endpoint_id, last.organization_id, last.event_id, last.sequence) == ("wh_1", "acme", "evt_1", 1)
    assert (last.error, last.response_status, last.retry_after_seconds) == (DeliveryError.HTTP_5XX, 500, 7.5)
    assert (last.breaker, last.consecutive_faults, last.body_bytes) == (BreakerState.OPEN, 5, 5)
    DeliveryTable.update(status="failed").where(DeliveryTable.pk == 1).execute(writer)
    endpoints.delete(writer, "wh_1", AT)
    with reader.atomic():
        [_, (_, last)] = recent_attempts.after(reader, None).attempts
    assert (last.status, last.breaker) == (DeliveryStatus.FAILED, BreakerState.CLOSED)


def test_attempts_of_another_cluster_come_first(writer: PostgresDatabase, reader: PostgresDatabase) -> None:
    """After a move of the database its transactions count from another start."""
    add_deliveries(writer, 1, add_events(writer, 1))
    add_attempts(writer, 1)
    rows(writer, "UPDATE attempts SET xid = CAST('9000000000' AS xid8)")
    rows(writer, "UPDATE meta SET value = '1' WHERE name = 'cluster'")
    prepare(writer, now=AT)
    add_attempts(writer, 2)
    assert ids_after(reader, None)[0] == ["att_1", "att_2"]
