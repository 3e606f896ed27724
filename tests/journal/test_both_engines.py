"""Every query on SQLite and on PostgreSQL: both engines give the same results for the same rows."""

import inspect
import pkgutil
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from random import Random
from types import FunctionType
from typing import Any

import msgspec
import pytest
from peewee import Database

from tests.journal.engines import (
    Engines,
    Fresh,
    add_deliveries,
    add_events,
    all_rows,
    postgres_database,
    sqlite_database,
)
from tests.journal.harness import MASTER_KEY, VAULT, new_endpoint
from tests.samples import AT, attempt_record
from webhookd.base.errors import ErrorCode, MasterKeyError, Rejected
from webhookd.base.ids import IdFactory
from webhookd.base.models import (
    BreakerState,
    DeliveryStatus,
    DisabledReason,
    Endpoint,
    EndpointState,
    Ordering,
    ReplayKind,
    Role,
)
from webhookd.base.secret import Secret
from webhookd.crypto.vault import Vault
from webhookd.delivery.policy.clock_correction import Bounds, correct
from webhookd.delivery.signing import generate_secret
from webhookd.journal import (
    BEGUN,
    Action,
    AuditActor,
    AuditActorKind,
    AuditEntry,
    EndpointChanges,
    EventTypeRow,
    Floors,
    KeptAnswer,
    KeyRow,
    NewEndpoint,
    Position,
    QueuedAs,
    Selection,
    WebhookKind,
    WebhookOrder,
    WebhookSearch,
    WindowRequest,
)
from webhookd.journal import queries as room
from webhookd.journal.queries import (
    audit,
    census,
    clock_steps,
    deliveries,
    directory,
    endpoints,
    event_types,
    events,
    expiry,
    idempotency,
    keys,
    master_key,
    quotas,
    replays,
    retention,
    schema,
    sealing,
    searching,
    statistics,
    test_deliveries,
    windows,
)
from webhookd.observe.statistics import HOUR, MINUTE, SERVER, Counts, Key

OTHER_KEY = Secret(bytes(range(1, 33)))
SECRET = Secret(generate_secret())
EVERYTHING: dict[str, Any] = {
    "status": None,
    "event": None,
    "event_id": None,
    "since": None,
    "until": None,
    "limit": 3,
    "cursor": None,
}


def new_webhook(number: int, **fields: object) -> NewEndpoint:
    """Return a webhook that is the same on every engine."""
    return new_endpoint(
        **{"id": f"wh_{number}", "secret": SECRET, "secret_hint": "…", "created_at": AT + number} | fields
    )


def all_pages(both: Engines, query: Callable[..., Any], *args: object, **kwargs: object) -> list[Any]:
    """Return the items of all pages of a list."""
    items: list[Any] = []
    cursor = None
    while True:
        page = both(query, *args, **kwargs | {"cursor": cursor})
        items += page.items
        cursor = page.next_cursor
        if cursor is None:
            return items


def settings_of_webhooks(both: Engines) -> None:
    """Create, change, rotate, disable and delete webhooks; read their settings, secrets and state."""
    one = both(endpoints.insert, VAULT, new_webhook(1, organization_id="acme", metadata={"a": "ü"}))
    two = both(
        quotas.insert_endpoint,
        VAULT,
        new_webhook(2, headers=(("X-A", Secret("b")),), ed25519_secret=Secret("whsk_x"), is_active=False),
        most=1,
    )
    assert (one.pk, two.pk, two.disabled_reason) == (1, 2, DisabledReason.MANUAL)
    with pytest.raises(Rejected):
        both(quotas.insert_endpoint, VAULT, new_webhook(3, organization_id="acme"), most=1)
    assert both(quotas.webhooks_of, "acme") == 1
    assert both(endpoints.all) == all_pages(both, endpoints.page, None, limit=1)[::-1] == [one, two]
    changes = EndpointChanges(url="https://b.example/", headers=(("X-B", Secret("c")),), ed25519_secret=Secret("k"))
    changed = both(endpoints.update, VAULT, "wh_1", changes, AT + 5)
    assert (changed.header_names, both(endpoints.get, "wh_1", "acme"), both(endpoints.by_pk, 1)) == (
        ("X-B",),
        changed,
        (changed, False),
    )
    assert both(endpoints.changing, "wh_1") == changed
    with pytest.raises(Rejected):
        both(endpoints.get, "wh_1", "other")
    both(endpoints.rotate, VAULT, "wh_1", Secret("whsec_new"), "hint", 60.0, AT + 6)
    opened = both(endpoints.credentials, VAULT, 1, AT + 7)
    assert opened is not None
    assert (opened.secret, opened.previous_secret, opened.headers) == (
        Secret("whsec_new"),
        SECRET,
        (("X-B", Secret("c")),),
    )
    assert both(sealing.unseal, VAULT, 2, "wh_2").keys() == {"current", "ed25519", "headers"}
    assert both(sealing.expired, AT + 1000) == [1]
    assert both(sealing.delete_expired, [1, 2], AT + 60) == 0
    assert both(sealing.delete_expired, [1, 2], AT + 1000) == 1
    both(endpoints.rotate, VAULT, "wh_1", Secret("whsec_newer"), "hint", 0.0, AT + 8)
    both(sealing.seal, VAULT, 1, "wh_1", kind="previous", plain=Secret("x"))
    both(sealing.remove, 1, "previous", "ed25519")
    assert both(sealing.unseal, VAULT, 1, "wh_1").keys() == {"current", "headers"}
    assert both(endpoints.disable, 1, DisabledReason.GONE, AT + 9, forgiven=1).is_active
    assert both(endpoints.disable, 1, DisabledReason.GONE, AT + 9, forgiven=0).disabled_reason is DisabledReason.GONE
    again = both(endpoints.disable, 1, DisabledReason.FAILING, AT + 10, forgiven=0)
    assert again.disabled_reason is DisabledReason.GONE
    changes = EndpointChanges(is_active=True, description="d", events=("a.*",))
    assert both(endpoints.update, VAULT, "wh_1", changes, AT).updated_at == AT + 9.001
    state = EndpointState(breaker=BreakerState.OPEN, consecutive_faults=3, retry_at=AT + 0.125, last_error="dns")
    both(endpoints.set_state, 1, state)
    assert both(endpoints.state, 1) == both(endpoints.changing_state, 1) == state
    both(endpoints.delete, "wh_1", AT + 20)
    assert both(endpoints.by_pk, 1)[1]
    assert both(endpoints.credentials, VAULT, 1, AT) is None
    assert both(endpoints.state, 1) == EndpointState()
    assert both(endpoints.all) == [two]


def add_queue(both: Engines) -> Endpoint:
    """Add a webhook with a delivery of each kind: fresh, with a key, backing off, by hand, parked, ended, expired."""
    one = both(endpoints.insert, VAULT, new_webhook(1))
    both(add_events, 12)
    kinds: list[dict[str, object]] = [
        {},
        {"ordering_key": "a"},
        {"ordering_key": "b", "backoff_step": 1, "next_attempt_at": AT + 500},
        {"backoff_step": 2, "next_attempt_at": AT + 20},
        {"trigger": "manual"},
        {"status": "parked", "next_attempt_at": AT + 30},
        {"status": "succeeded", "next_attempt_at": None},
        {"status": "failed", "next_attempt_at": None, "error": "expired"},
        {"status": "canceled", "next_attempt_at": None},
        {"expires_at": AT + 50},
        {"backoff_step": 1, "next_attempt_at": AT + 900, "error": "throttled"},
        {"status": "parked", "next_attempt_at": AT + 800},
    ]
    for event_pk, fields in enumerate(kinds, start=1):
        both(add_deliveries, one.pk, [event_pk], **fields)
    return one


def a_queue(both: Engines) -> None:
    """Read windows, lists and counts of a queue with deliveries of every kind."""
    one = add_queue(both)
    for ordering in Ordering:
        for now, limit, floor, keys_blocked, flying in [
            (AT + 100, 50, 0, (), ()),
            (AT + 100, 2, 0, ("a",), (1,)),
            (AT + 10, 50, 4, ("a", "b"), ()),
            (AT + 1000, 50, 0, (), (4, 6)),
        ]:
            request = WindowRequest(
                endpoint_pk=one.pk,
                ordering=ordering,
                limit=limit,
                now=now,
                blocked_keys=frozenset(keys_blocked),
                in_flight=frozenset(flying),
                floors=Floors(edition=0, fresh=floor, backing_off=floor),
            )
            window = both(windows.read, request)
            assert window.last_sequence == 12
            assert window.pending
    assert [each.pk for each in both(expiry.expired, AT + 100).deliveries] == [10]
    every = both(expiry.expired, AT + 3606, limit=4)
    assert [each.pk for each in every.deliveries] == [10, 1, 2, 3]
    rest = both(expiry.expired, AT + 3606, limit=4, after=every.deliveries[-1])
    assert ([each.pk for each in rest.deliveries], rest.next_expiry_at) == ([4, 5, 6], AT + 3611)
    assert len(all_pages(both, deliveries.page, one.pk, **EVERYTHING)) == 12
    for status, count in {"pending": 7, "parked": 2, "succeeded": 1, "failed": 1, "canceled": 1}.items():
        asked = EVERYTHING | {"status": DeliveryStatus(status)}
        assert len(all_pages(both, deliveries.page, one.pk, **asked)) == count
    some = EVERYTHING | {"since": AT + 3, "until": AT + 5, "event": "user.created"}
    assert [row.pk for row in both(deliveries.page, one.pk, **some).items] == [4, 3]
    assert [row.pk for row in both(deliveries.page, one.pk, **EVERYTHING | {"event_id": "evt_7"}).items] == [7]
    assert len(all_pages(both, deliveries.of_event, 1, None, limit=1)) == 1
    assert [row.sequence for row in both(deliveries.queue, one.pk, 9)] == [1, 2, 3, 4, 5, 10, 11, 6, 12]
    assert both(deliveries.find, "dlv_1_3", None) == both(deliveries.get, "dlv_1_3", None).row
    with pytest.raises(Rejected):
        both(deliveries.find, "dlv_1_3", "acme")
    assert both(deliveries.backlog) == [one.pk]
    taken = both(census.take)
    assert (taken.pending, taken.parked, taken.oldest_pending_at) == (7, 2, AT + 1)
    for ordering in Ordering:
        [(_, facts)] = both(endpoints.health_facts, {one.pk: ordering}).values()
        assert (facts.queued, facts.parked) == (7, 2)
    both(endpoints.end_backoffs, one.pk, AT + 25)
    assert both(deliveries.find, "dlv_1_3", None).next_attempt_at == AT + 25
    assert both(deliveries.find, "dlv_1_4", None).next_attempt_at == AT + 20


def changes_of_a_queue(both: Engines) -> None:
    """Retry, expire and cancel deliveries."""
    one = add_queue(both)
    how: dict[str, Any] = {"force": False, "now": AT + 40, "max_age_seconds": 60.0}
    for pk, ordering in ((8, Ordering.NONE), (6, Ordering.NONE), (3, Ordering.KEY), (4, Ordering.STRICT)):
        assert both(deliveries.retry, pk, **how, ordering=ordering).next_attempt_at == AT + 40
    with pytest.raises(Rejected):
        both(deliveries.retry, 7, **how, ordering=Ordering.NONE)
    both(deliveries.retry, 7, **how | {"force": True}, ordering=Ordering.NONE)
    with pytest.raises(Rejected):
        both(deliveries.retry, 99, **how, ordering=Ordering.NONE)
    both(schema.count_edition, one.pk, AT + 9999)
    assert [row.pk for row in both(deliveries.expire, [9, 10, 4, 1], AT + 60)] == [10]
    assert [row.status for row in both(deliveries.expire, [4], AT + 101)] == [DeliveryStatus.FAILED]
    assert [both(deliveries.cancel, one.pk, AT + 70, limit) for limit in (3, 100, 100)] == [3, 6, 0]
    assert both(deliveries.backlog) == []


def steps_of_the_clock(both: Engines) -> None:
    """Move all times, and correct those of a webhook that are further ahead than they can be."""
    one = add_queue(both)
    bounds = Bounds(retry_seconds=300.0, throttled_seconds=600.0, age_seconds=3000.0)
    both(endpoints.set_state, one.pk, EndpointState(retry_at=AT + 5000, last_failure_at=AT + 30))
    loaded, is_beyond = both(clock_steps.load, VAULT, one.pk, bounds, lambda: AT)
    assert loaded is not None
    assert is_beyond
    correction = correct(loaded[2], bounds, AT)
    assert both(clock_steps.is_beyond, one.pk, correction)
    both(clock_steps.bring_in, one.pk, bounds, lambda: AT)
    assert not both(clock_steps.is_beyond, one.pk, correction)
    assert both(deliveries.find, "dlv_1_11", None).next_attempt_at == AT + 600
    both(clock_steps.correct_queue, one.pk, correct(EndpointState(), bounds, AT - 1000))
    all_pages(both, deliveries.page, one.pk, **EVERYTHING)
    both(clock_steps.move, 1234.567)
    assert both(deliveries.find, "dlv_1_1", None).next_attempt_at == AT + 1 + 1234.567
    all_pages(both, deliveries.page, one.pk, **EVERYTHING)
    assert both(endpoints.state, one.pk).retry_at == AT + 300 + 1234.567
    assert both(clock_steps.load, VAULT, 1, bounds, lambda: AT + 2000)[1] is False


def attempts(both: Engines) -> None:
    """Store a test with its attempt."""
    one = both(endpoints.insert, VAULT, new_webhook(1))
    [event_pk] = both(add_events, 1)
    event = msgspec.structs.replace(accepted(both, event_pk), id="evt_test")
    record = msgspec.structs.replace(attempt_record(), number=1)
    delivery = msgspec.structs.replace(record.delivery, id="dlv_test", endpoint_pk=one.pk, sequence=0)
    stored = both(test_deliveries.insert, event, msgspec.structs.replace(record, delivery=delivery))
    assert (stored.row.sequence, stored.row.event_id, len(stored.attempts)) == (0, "evt_test", 1)
    assert both(deliveries.get, "dlv_test", None, before=1, limit=5).attempts == []


def accepted(both: Engines, event_pk: int) -> Any:
    row = both(events.get, f"evt_{event_pk}", None)
    return msgspec.convert(msgspec.structs.asdict(row), type(row).__mro__[1])


def stored_events(both: Engines) -> None:
    """Page, find and search events, and read their messages."""
    both(add_events, 3, organization_id="acme")
    both(add_events, 4, type="order.paid")
    both(add_events, 1, body=b"x" * 1000)
    assert [row.pk for row in all_pages(both, events.page, None, limit=3, after=None)] == [*range(1, 9)]
    assert [row.pk for row in both(events.page, "acme", limit=9, cursor=None, after="evt_1").items] == [2, 3]
    assert both(events.get, "evt_2", "acme").organization_id == "acme"
    with pytest.raises(Rejected) as refused:
        both(events.page, None, limit=9, cursor=None, after="evt_none")
    assert refused.value.code is ErrorCode.INVALID_CURSOR
    assert both(events.message, 2).body == b"{2}"
    assert both(events.messages, {8, 1, 99}).keys() == {1, 8}
    assert both(events.messages, {1, 2, 8}, max_bytes=500).keys() == {1, 2}
    assert both(events.messages, set()) == {}
    for pattern, limit, since, until in [
        (None, 3, None, None),
        ("order.*", 9, AT + 2, AT + 6),
        ("user.created", 1, None, AT + 400),
        ("*", 2, AT - 500, None),
    ]:
        asked = {"pattern": pattern, "limit": limit, "since": since, "until": until, "looked_at": 100}
        found = both(searching.search, None, **asked)
        both(searching.search, None, **asked | {"cursor": found.next_cursor})
        both(searching.search, "acme", **asked)
    assert [row.id for row in both(searching.by_id, None, "evt_", 3)] == ["evt_1", "evt_2", "evt_3"]
    assert [row.id for row in both(searching.by_id, "acme", "evt_3", 3)] == ["evt_3"]


def same_ids(seed: int) -> IdFactory:
    return IdFactory(lambda: AT, Random(seed).randbytes)  # noqa: S311 - no secret


def recovers_and_replays(both: Engines) -> None:
    """Match, start, step, stop and delete recovers and replays."""
    one = both(endpoints.insert, VAULT, new_webhook(1, organization_id="acme"))
    both(add_events, 260, organization_id="acme")
    both(add_events, 5, organization_id="acme", type="order.paid")
    both(add_deliveries, one.pk, [*range(1, 256)], status="failed", next_attempt_at=None)

    def wanted(kind: ReplayKind, *patterns: str) -> Selection:
        return Selection(
            endpoint_pk=one.pk,
            kind=kind,
            since=AT,
            until=AT + 1e6,
            events=patterns,
            subscribed=("*", "order.*", "user.created"),
            organization_id="acme",
        )

    queued_as = QueuedAs(at=AT + 500, max_age_seconds=60.0, status=DeliveryStatus.PENDING)
    for number, (chosen, matched, queued) in enumerate(
        [
            (wanted(ReplayKind.RECOVER), 255, [250, 255]),
            (wanted(ReplayKind.REPLAY, "order.*"), 5, [5]),
            (wanted(ReplayKind.REPLAY), 265, [250, 265]),
            (wanted(ReplayKind.RECOVER, "none.*"), 0, [0]),
        ]
    ):
        match = both(replays.match, chosen)
        assert match.count == matched
        row = both(replays.start, chosen, match, f"rpl_{number}", AT + number)
        assert both(replays.running)["acme"] == [row]
        for count in queued:
            row = both(replays.step, row.id, chosen, queued_as, Fresh(partial(same_ids, number * 1000 + count)))
            assert row.queued == count
        assert row.status == "done"
    all_pages(both, deliveries.page, one.pk, **EVERYTHING | {"limit": 100})
    stopped = wanted(ReplayKind.REPLAY)
    for number in range(4, 20):
        both(replays.start, stopped, both(replays.match, stopped), f"rpl_{number}", AT)
    with pytest.raises(Rejected):
        both(replays.start, stopped, both(replays.match, stopped), "rpl_20", AT)
    assert both(replays.stop, one.pk, "rpl_4").status == "stopped"
    assert both(replays.step, "rpl_4", stopped, queued_as, Fresh(partial(same_ids, 0))).queued == 0
    both(replays.stop_all, one.pk)
    assert both(replays.running) == {}
    assert len(both(replays.of_endpoint, one.pk, 3)) == 3
    assert both(replays.get, one.pk, "rpl_1").status == "done"
    assert both(replays.prune, AT + 2) == 18


def lists_of_webhooks(both: Engines) -> None:
    """Search, sort and count webhooks in every way."""
    add_queue(both)
    kinds: list[dict[str, object]] = [
        {"organization_id": "Acme", "url": "https://a_b.example/"},
        {"url": "https://É.example/", "description": "50 % off"},
        {"is_active": False},
        {"organization_id": "acme", "url": "https://axb.example/"},
    ]
    for number, fields in enumerate(kinds, start=2):
        both(endpoints.insert, VAULT, new_webhook(number, **fields))
    both(endpoints.set_state, 2, EndpointState(breaker=BreakerState.OPEN, consecutive_faults=5))
    both(endpoints.set_state, 5, EndpointState(paused_until=AT + 100))
    both(endpoints.disable, 3, DisabledReason.GONE, AT, forgiven=0)
    for order in WebhookOrder:
        for kind in (None, *WebhookKind):
            for descending in (True, False):
                search = WebhookSearch(organization_id=None, kind=kind, order=order, descending=descending, limit=3)
                found = both(directory.find, search, AT + 50)
                both(directory.find, msgspec.structs.replace(search, offset=3), AT + 50)
                assert 1 <= len(found.endpoints) <= found.total
    for text, expected in {"A_B": [2], "ACME": [2, 5], "%": [3], "É": [3], "é": [], "wh_3": [3], "\\": []}.items():
        search = WebhookSearch(organization_id=None, text=text, descending=False)
        assert [each.pk for each in both(directory.find, search, AT).endpoints] == expected
    assert both(directory.find, WebhookSearch(organization_id="acme"), AT).total == 1
    now = both(directory.situation, None, AT + 50)
    assert (now.webhooks, now.off, now.troubled, now.open, now.pending, now.parked) == (5, 2, 4, 1, 7, 2)
    assert now.oldest_pending_at == AT + 1
    assert both(directory.situation, "acme", AT + 50).webhooks == 1
    assert both(directory.situation, "nobody", AT + 50).webhooks == 0
    assert both(census.take).breakers == {"closed": 4, "open": 1}


def api_keys(both: Engines) -> None:
    """Store, list and revoke API keys."""

    def key(number: int, **fields: Any) -> KeyRow:
        values: dict[str, Any] = {
            "id": f"key_{number}",
            "role": Role.ADMIN,
            "name": "n",
            "organization_id": None,
            "expires_at": None,
        }
        return KeyRow(**values | {"key_hash": bytes([number]) * 32, "created_at": AT} | fields)

    assert both(keys.insert_first, key(1), entry())
    assert not both(keys.insert_first, key(2), entry())
    both(keys.insert, key(2))
    assert (both(keys.find, "key_2"), both(keys.find, "key_9")) == (key(2), None)
    both(quotas.insert_key, key(3, organization_id="acme", expires_at=AT + 10), most=1)
    with pytest.raises(Rejected):
        both(quotas.insert_key, key(4, organization_id="acme"), most=1)
    assert both(quotas.keys_of, "acme") == 1
    assert both(keys.all) == all_pages(both, keys.page, None, limit=2)[::-1]
    assert [each.id for each in both(keys.ending, None, after=AT, before=AT + 60, limit=5)] == ["key_3"]
    both(keys.note_uses, {"key_2": AT + 9, "key_1": AT + 8, "key_none": AT})
    assert both(keys.revoke, "key_2", None).last_used_at == AT + 9
    with pytest.raises(Rejected):
        both(keys.revoke, "key_2", None)
    with pytest.raises(Rejected):
        both(keys.revoke, "key_1", "acme")


def entry(**fields: Any) -> AuditEntry:
    actor = AuditActor(kind=AuditActorKind.KEY, id="key_ada", role=Role.ADMIN)
    values: dict[str, Any] = {"action": Action.KEY_CREATE, "at": AT}
    return AuditEntry(actor=actor, **values | fields)


def audited(both: Engines) -> None:
    """Append to the audit log, page it, and check its chain, also when entries are missing."""
    assert both(audit.verify).entries == 0
    for number in range(3):
        both(audit.append, entry(at=AT + number, fields=("a", "ü"), request_id="req"), f"wh_{number}", "acme")
    both(audit.append, entry(action=Action.JOURNAL_BACKUP), "x", None)
    insert = audit.recorded(endpoints.insert, entry(), endpoints.about)
    both(insert, VAULT, new_webhook(1))
    chain = both(audit.verify)
    assert (chain.entries, chain.broken, both(audit.last_sequence)) == (5, None, 5)
    assert [row.sequence for row in all_pages(both, audit.page, "acme", limit=2)] == [3, 2, 1]
    filters: dict[str, Any] = {"actor": "key_ada", "what": "wh_1", "since": AT, "until": AT + 5}
    assert len(both(audit.page, None, **filters, action=Action.KEY_CREATE, limit=9).items) == 2


def catalogue(both: Engines) -> None:
    """Put, list and delete event types."""
    for name in ("a.b", "A.b", "a_b", "ä"):
        both(event_types.put, EventTypeRow(name=name, schema_json='{"ä": 1}', deprecated=name == "ä"), AT)
    row = EventTypeRow(name="a.b", description="x" * 10)
    assert both(event_types.put, row, AT + 1) == both(event_types.find, "a.b") == row
    with pytest.raises(Rejected):
        both(event_types.put, EventTypeRow(name="big", description="x" * event_types.MOST_BYTES), AT)
    assert both(event_types.all) == all_pages(both, event_types.page, limit=2)
    both(event_types.delete, "a.b")
    with pytest.raises(Rejected):
        both(event_types.delete, "a.b")


def kept_answers(both: Engines) -> None:
    """Begin, keep, find, reseal and delete the answers to requests with an Idempotency-Key."""

    def answer(key: str, **fields: Any) -> KeptAnswer:
        values: dict[str, Any] = {
            "caller": "key_1",
            "route": "POST /x",
            "key": key,
            "body_hash": bytes(32),
            "status": BEGUN,
        }
        return KeptAnswer(**values | {"sealed": b"", "created_at": AT} | fields)

    both(idempotency.begin, answer("a"))
    both(idempotency.begin, answer("a", created_at=AT + 1))
    for number, key in enumerate("aBc"):
        both(idempotency.keep, VAULT, answer(key, status=201, created_at=AT + number), b"plain")
    assert both(idempotency.find, "key_1", "POST /x", "a", AT) == answer("a", status=201)
    assert both(idempotency.find, "key_1", "POST /x", "a", AT + idempotency.KEPT_SECONDS) is None
    vault = Vault(MASTER_KEY)
    vault.seal_with(OTHER_KEY)
    assert both(idempotency.reseal, vault, None, 2) == (("key_1", "POST /x", "a"), 2)
    assert both(idempotency.reseal, vault, ("key_1", "POST /x", "a"), 2) == (None, 1)
    both(idempotency.forget, "key_1", "POST /x", "B")
    assert both(idempotency.prune, AT + 1 + idempotency.KEPT_SECONDS) == 1
    both(idempotency.forget_all)
    assert both(idempotency.find, "key_1", "POST /x", "c", AT) is None


def key_rotation(both: Engines) -> None:
    """Adopt a master key, rotate it, and forget it."""
    adopted = both(master_key.adopt_master_key, MASTER_KEY)
    assert both(master_key.adopt_master_key, MASTER_KEY) == adopted
    assert not both(master_key.holds_secrets)
    for number in (1, 2):
        both(endpoints.insert, VAULT, new_webhook(number, headers=(("X-A", Secret("b")),)))
    changed = both(master_key.begin_change, adopted, OTHER_KEY)
    assert both(master_key.adopt_master_key, MASTER_KEY, OTHER_KEY) == changed
    assert not both(master_key.is_resealed)
    assert both(master_key.sealing_key_id) == Vault(OTHER_KEY).key_id.hex()
    vault = Vault(MASTER_KEY)
    vault.seal_with(OTHER_KEY)
    assert both(sealing.reseal, vault, None, 3) == ((2, "current"), 3)
    position = Position(secret=(2, "current"))
    assert both(master_key.reseal, vault, position, 3) == (Position(is_in_answers=True), 1)
    assert both(endpoints.credentials, Vault(OTHER_KEY), 2, AT) is not None
    both(master_key.forget_previous, vault)
    assert both(master_key.is_resealed)
    both(master_key.end_change)
    with pytest.raises(MasterKeyError):
        both(master_key.adopt_master_key, MASTER_KEY)
    assert both(master_key.adopt_master_key, OTHER_KEY).is_settled
    both(master_key.forget_master_key)
    assert both(master_key.sealing_key_id) is None


def counted(both: Engines) -> None:
    """Store, read and delete statistics."""
    now = AT // HOUR * HOUR + 120.0
    rows = [(Key(MINUTE, int(now) - 60 * number, SERVER), Counts(events=number)) for number in range(3)]
    rows += [(Key(HOUR, int(now) // HOUR * HOUR, "wh_1"), Counts(delivered=3, latencies=[1] * 18))]
    both(statistics.put, statistics.encode(rows))
    both(statistics.put, statistics.encode([(rows[0][0], Counts(events=9))]))
    assert dict(both(statistics.running, now)) == {rows[0][0]: Counts(events=9), rows[3][0]: rows[3][1]}
    found = both(statistics.find, seconds=MINUTE, starts=[int(now), int(now) - 60, 7], subjects=[SERVER, "wh_1"])
    assert found == ({rows[0][0]: Counts(events=9), rows[1][0]: Counts(events=1)}, {})
    assert both(statistics.find, seconds=HOUR, starts=[], subjects=[]) == ({}, {})
    later = now + statistics.KEPT_SECONDS[MINUTE] - 0.5
    assert both(statistics.prune, later, 1)
    assert not both(statistics.prune, later, 5)
    own, _ = both(statistics.find, seconds=MINUTE, starts=[int(now), int(now) - 60], subjects=[SERVER])
    assert len(own) == 1


def deleted_by_retention(both: Engines) -> None:
    """Delete old events whose deliveries have ended, in steps."""
    add_queue(both)
    assert [both(retention.prune, AT + 100, rows).rows for rows in (2, 100, 100)] == [2, 4, 0]
    assert len(all_pages(both, events.page, None, limit=100, after=None)) == 9
    both(retention.give_back_pages)


SCENARIOS = [
    settings_of_webhooks,
    a_queue,
    changes_of_a_queue,
    steps_of_the_clock,
    attempts,
    stored_events,
    recovers_and_replays,
    lists_of_webhooks,
    api_keys,
    audited,
    catalogue,
    kept_answers,
    key_rotation,
    counted,
    deleted_by_retention,
]


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    with sqlite_database(tmp_path) as database:
        yield database


@pytest.fixture
def postgres(journal_database: str) -> Iterator[Database]:
    with postgres_database(journal_database) as database:
        yield database


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[scenario.__name__ for scenario in SCENARIOS])
def test_both_engines_agree(scenario: Callable[[Engines], None], sqlite: Database, postgres: Database) -> None:
    """A query returns the same on SQLite and on PostgreSQL, and a change leaves the same rows behind."""
    scenario(Engines(sqlite, postgres))
    assert all_rows(postgres) == all_rows(sqlite)


def test_every_query_is_compared(tmp_path: Path) -> None:
    """No query is left out of the scenarios."""
    called: set[Callable[..., object]] = set()
    for scenario in SCENARIOS:
        directory = tmp_path / scenario.__name__
        directory.mkdir()
        with sqlite_database(directory) as database:
            both = Engines(database)
            scenario(both)
            called |= both.called
    names = {found.name for found in pkgutil.iter_modules(room.__path__)} - {
        "dialect",
        "locks",
        "partitioned",
    }  # parts of queries
    modules = [import_module(f"{room.__name__}.{name}") for name in names]
    queries = {function for module in modules for function in vars(module).values() if is_query(module, function)}
    assert len(queries) > 90
    assert sorted(query.__qualname__ for query in queries - called) == []


def is_query(module: Any, function: object) -> bool:
    """Whether that is a public function of the module whose first parameter is a database."""
    if not isinstance(function, FunctionType) or function.__module__ != module.__name__:
        return False
    if inspect.isgeneratorfunction(inspect.unwrap(function)):  # a context
        return False
    first = next(iter(inspect.signature(function).parameters), None)
    return first == "database" and not function.__name__.startswith("_")
