"""Check the journal after all faults have ended, with SQL of its own."""

from collections import Counter, defaultdict
from typing import Any

import msgspec
from peewee import Database

from tests.simulation.model import Request, World
from webhookd.base.clock import parse_iso
from webhookd.journal import Store


def rows(database: Database, query: str, *values: object) -> list[Any]:
    """Return the rows of a query."""
    found: Any = database.execute_sql(query, values)  # type: ignore[no-untyped-call]  # peewee's stubs
    return list(found)


def unfinished(database: Database) -> int:
    """Return how many deliveries of existing endpoints are pending or parked."""
    query = """SELECT count(*) FROM deliveries d JOIN endpoints e ON e.pk = d.endpoint_pk
        WHERE e.deleted_at IS NULL AND d.status IN ('pending', 'parked')"""
    return int(rows(database, query)[0][0])


async def recovering(world: World, journal: Store, endpoint_pk: int) -> None:
    """Note the failed deliveries of an endpoint, which a recovery is about to send out of order."""
    query = "SELECT id FROM deliveries WHERE endpoint_pk = ? AND status = 'failed'"
    world.by_hand |= set(
        await journal.transactions.read(lambda database: [row[0] for row in rows(database, query, endpoint_pk)])
    )


def working(database: Database) -> set[str]:
    """Return the enabled endpoints with pending or parked deliveries."""
    query = """SELECT DISTINCT e.id FROM deliveries d JOIN endpoints e ON e.pk = d.endpoint_pk
        WHERE d.status IN ('pending', 'parked') AND e.is_active AND e.deleted_at IS NULL"""
    return {row[0] for row in rows(database, query)}


def waiting(database: Database, endpoint_id: str) -> set[str]:
    """Return the pending and parked deliveries of an endpoint."""
    query = """SELECT d.id FROM deliveries d JOIN endpoints e ON e.pk = d.endpoint_pk
        WHERE e.id = ? AND d.status IN ('pending', 'parked')"""
    return {row[0] for row in rows(database, query, endpoint_id)}


def given_up(database: Database) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Return the expired deliveries (delivery, endpoint and event), and the endpoints that are disabled as failing."""
    query = "SELECT id FROM endpoints WHERE disabled_reason = 'failing' AND deleted_at IS NULL"
    return _expired(database), [row[0] for row in rows(database, query)]


def _expired(database: Database) -> list[tuple[str, str, str]]:
    query = """SELECT d.id, e.id, v.id FROM deliveries d JOIN endpoints e ON e.pk = d.endpoint_pk
        JOIN events v ON v.pk = d.event_pk WHERE d.error = 'expired'"""
    return [(row[0], row[1], row[2]) for row in rows(database, query)]


def everything(database: Database, *, world: World) -> None:
    """Compare the journal with what the server promised and what the receivers saw."""
    _events(database, world)
    _deliveries(database, world)
    _attempts(database, world)
    _operational(database, world)


def _events(database: Database, world: World) -> None:
    query = """SELECT v.id, e.id, d.status FROM events v JOIN deliveries d ON d.event_pk = v.pk
        JOIN endpoints e ON e.pk = d.endpoint_pk"""
    reached: dict[str, set[str]] = defaultdict(set)
    for event_id, endpoint_id, status in rows(database, query):
        if status == "succeeded":
            reached[event_id].add(endpoint_id)
    stored = {row[0]: bytes(row[1]) for row in rows(database, "SELECT id, body FROM events")}
    seen: dict[str, set[str]] = defaultdict(set)
    for request in world.requests:
        if request.outcome is not None and request.outcome.status is not None and request.outcome.status < 300:
            seen[request.event].add(request.endpoint_id)
    alive = {subject.id for subject in world.subjects.values() if subject.deleted_at is None and not subject.deleting}
    for name, submission in world.submissions.items():
        if submission.acked is None or submission.may_be_deleted:
            continue
        if name not in stored:
            world.report(f"{name} was acknowledged and is lost")
        for endpoint_id in sorted(submission.wanted & alive):
            if endpoint_id not in reached[name]:
                world.report(f"{name} has not been delivered to {endpoint_id}")
            elif endpoint_id not in seen[name]:
                world.report(f"{name} counts as delivered to {endpoint_id}, which never saw it")
    _one_each(world, stored)


def _operational(database: Database, world: World) -> None:
    """Check operational events: each is published once, for a recorded failure, and never about another one."""
    query = "SELECT type, body FROM events WHERE type IN ('delivery.failed', 'webhook.failing', 'webhook.disabled')"
    events = [(kind, msgspec.json.decode(bytes(body))["data"]) for kind, body in rows(database, query)]
    # A delivery may expire again without an attempt, after a retry by hand.
    published = Counter((kind, _subject(kind, data)) for kind, data in events if data.get("error") != "expired")
    own = {
        row[0]
        for row in rows(
            database,
            "SELECT id FROM deliveries WHERE event_type LIKE 'delivery.%' OR event_type LIKE 'webhook.%'",
        )
    }
    query = """SELECT d.id, a.number, a.error, a.response_status
        FROM deliveries d LEFT JOIN attempts a ON a.delivery_pk = d.pk"""
    recorded = {(row[0], row[1]): (row[2], row[3]) for row in rows(database, query)}
    kept = {delivery for delivery, _ in recorded}
    for kind, data in events:
        if kind == "delivery.failed" and data["error"] != "expired" and data["deliveryId"] in kept:
            failure = data["error"], data["responseStatus"]
            if recorded.get((data["deliveryId"], data["attempts"])) != failure:
                world.report(f"{kind} says that {data['deliveryId']} failed with {failure}, which is not recorded")
    for (kind, subject), count in published.items():
        if count > 1:
            world.report(f"{kind} was published {count} times for {subject}")
        if subject[0] in own:
            world.report(f"{kind} was published for {subject[0]}, which delivers an operational event")


def _subject(kind: str, data: dict[str, Any]) -> tuple[object, ...]:
    """Return what identifies the occurrence that an operational event reports."""
    match kind:
        case "delivery.failed":
            return data["deliveryId"], data["attempts"]
        case "webhook.failing":
            return data["webhookId"], data["failingSince"], data["attempts"]
        case _:
            return data["webhookId"], data["disabledAt"]


def _one_each(world: World, stored: dict[str, bytes]) -> None:
    """Check that no submission became two events; the data of each submission is different."""
    texts = Counter(body[body.index(b'"data":') :] for body in stored.values() if b'"n": ' in body)
    for text, count in texts.items():
        if count > 1:
            world.report(f"{count} events are stored for one submission: {text!r}")


def _deliveries(database: Database, world: World) -> None:
    query = """SELECT d.id, e.id, d.status, d.attempts, count(a.number), coalesce(max(a.number), 0)
        FROM deliveries d JOIN endpoints e ON e.pk = d.endpoint_pk LEFT JOIN attempts a ON a.delivery_pk = d.pk
        WHERE e.deleted_at IS NULL GROUP BY d.pk"""
    left = """SELECT d.id, d.status FROM deliveries d JOIN endpoints e ON e.pk = d.endpoint_pk
        WHERE e.deleted_at IS NOT NULL AND d.status IN ('pending', 'parked')"""
    for delivery, status in rows(database, left):
        world.report(f"{delivery} is {status}, and its endpoint is deleted")
    for delivery, endpoint_id, status, attempts, recorded, last in rows(database, query):
        is_dropped = status == "canceled" and not attempts and world.subjects[endpoint_id].has_dropped
        if status != "succeeded" and not is_dropped:
            world.report(f"{delivery} is {status} after all faults have ended")
        if not attempts == recorded == last:
            world.report(f"{delivery} counts {attempts} attempts, has {recorded} and the last is number {last}")


def _attempts(database: Database, world: World) -> None:
    query = """SELECT d.id, a.number, a.response_status FROM attempts a JOIN deliveries d ON d.pk = a.delivery_pk"""
    recorded = {(delivery, number): status for delivery, number, status in rows(database, query)}
    requests: dict[tuple[str, int], list[Request]] = defaultdict(list)
    for request in world.requests:
        requests[request.delivery, request.attempt].append(request)
    for delivery, number in recorded.keys() - requests.keys():
        world.report(f"attempt {number} of {delivery} is recorded and was never made")
    stored = {row[0] for row in rows(database, "SELECT id FROM deliveries")}
    for attempt, repeats in requests.items():
        delivery, number = attempt
        if delivery not in stored:
            _check_deleted(world, repeats[0])
            continue
        lost = [request for request in repeats if _may_be_lost(world, request)]
        if attempt not in recorded and len(lost) < len(repeats):
            world.report(f"attempt {number} of {delivery} was made and is not recorded")
        if len(repeats) > len(lost) + 1:
            world.report(f"attempt {number} of {delivery} was made {len(repeats)} times, {len(lost)} for a crash")
    _check_accepted(world, requests)
    # A 2xx with `webhook-delivery: abort` does not count as delivered, and is sent again to a new URL.
    query = "SELECT d.id FROM attempts a JOIN deliveries d ON d.pk = a.delivery_pk WHERE a.error IS NULL"
    successes = Counter(delivery for (delivery,) in rows(database, query))
    for delivery, count in successes.items():
        if count > 1 and delivery not in world.by_hand:
            world.report(f"{delivery} was delivered {count} times")


def _check_deleted(world: World, request: Request) -> None:
    """Check that a delivery which is not stored was deleted with its event, by its age.

    For an operational event, or one whose acknowledgement was lost, the body has the time of the event.
    """
    submission = world.submissions.get(request.event)
    if submission is None:
        came_at = parse_iso(msgspec.json.decode(request.body)["timestamp"])
        is_old = any(came_at < before for before in world.deletes_before[request.life :])
    else:
        is_old = submission.may_be_deleted
    if not is_old:
        world.report(f"{request.delivery} was sent and is not stored")


def _check_accepted(world: World, requests: dict[tuple[str, int], list[Request]]) -> None:
    """Check that a receiver accepted each delivery once, and again only after a lost reply, a crash or by hand."""
    accepted: dict[str, list[Request]] = defaultdict(list)
    for (delivery, _), repeats in requests.items():
        accepted[delivery] += [request for request in repeats if request.is_accepted]
    for delivery, times in accepted.items():
        explained = [
            request
            for request in times
            if request.outcome is None or request.outcome.status is None or _may_be_lost(world, request)
        ]
        if len(times) > len(explained) + 1 and delivery not in world.by_hand:
            world.report(f"{delivery} was accepted {len(times)} times, {len(explained)} for lost replies")


def _may_be_lost(world: World, request: Request) -> bool:
    """Whether a crash explains why a request is not recorded: it was in flight, or was being recorded."""
    since = world.unsaved_since.get(request.life)
    return since is not None and (request.ended_at is None or request.ended_at > since)
