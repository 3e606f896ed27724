"""A journal with something in every table, made through the store as a server does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from msgspec.structs import replace

from tests.journal.harness import CLOCK, IDS, MASTER_KEY, VAULT, event, new_endpoint, publish
from tests.journal.store_calls import MOST, NO_NOTICES, add, record, retry, rows
from tests.samples import attempt_record
from webhookd.base.models import (
    BreakerState,
    DeliveryError,
    DeliveryStatus,
    Endpoint,
    EndpointState,
    Ordering,
    Outcome,
    PolicyOverrides,
    RateLimit,
    ReplayKind,
    RetryOverrides,
    Role,
    SignatureChoice,
    WhenInactive,
)
from webhookd.base.secret import Secret
from webhookd.delivery.signing import generate_secret
from webhookd.journal import (
    BEGUN,
    Action,
    AuditActor,
    AuditActorKind,
    AuditEntry,
    EndpointChanges,
    EventTypeRow,
    KeptAnswer,
    KeyRow,
    QueuedAs,
    Selection,
    Server,
    Store,
    open_store,
)
from webhookd.observe.statistics import HOUR, MINUTE, SERVER, Counts, Key

ODD = "Zoë\t\\N\n\x01 \x7f 𝄞 \u2028'\"%s"
"""A text with what encodings and formats of rows get wrong."""
BACKLOG = 40


@asynccontextmanager
async def opened(place: Path | Server) -> AsyncIterator[Store]:
    """Open a journal, with its writer running."""
    async with open_store(place, clock=CLOCK, ids=IDS) as store, trio.open_nursery() as nursery:
        await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()


def entry(action: Action) -> AuditEntry:
    """Return an entry of the audit log."""
    actor = AuditActor(kind=AuditActorKind.KEY, id="key_1", role=Role.ADMIN)
    return AuditEntry(actor=actor, action=action, at=CLOCK.now(), request_id="req_1", fields=("url", "events"))


async def furnish(store: Store) -> None:
    """Fill a journal: each table has rows, and deliveries are in every state."""
    await store.master_key.adopt(MASTER_KEY)
    every = await _webhooks(store)
    for name in ("user.created", "odd.type"):
        row = EventTypeRow(name=name, description=ODD, schema_json='{"type": "object"}', deprecated=name[0] == "o")
        await store.event_types.put(row, CLOCK.now(), entry=entry(Action.EVENT_TYPE_PUT), condition=None)
    await store.event_types.delete("user.created", entry=None, condition=None)
    for number, role in enumerate(Role):
        key = KeyRow(
            id=f"key_{number}",
            role=role,
            name=ODD,
            organization_id="acme" if number % 2 else None,
            key_hash=bytes([number]) * 32,
            created_at=CLOCK.now(),
            expires_at=CLOCK.now() + 3600 if number % 2 else None,
        )
        await store.keys.create(key, most=MOST, entry=entry(Action.KEY_CREATE))
    await store.keys.note_uses({"key_0": CLOCK.now()}).wait()
    await _deliveries(store, every[0], every[1])
    await _replays(store, every[0])
    for number in range(3):
        answer = KeptAnswer(
            caller="key_1",
            route="POST /api/webhooks",
            key=f"key {number}",
            body_hash=bytes(32),
            status=BEGUN if number == 2 else 201,
            sealed=b"",
            created_at=CLOCK.now(),
        )
        await store.kept_answers.begin(replace(answer, status=BEGUN))
        if number < 2:
            await store.kept_answers.keep(VAULT, answer, ODD.encode()).wait()
    counts = Counts(events=3, delivered=2, failures=1, latencies=[1] * 18)
    keys = [Key(MINUTE, 60, SERVER), Key(MINUTE, 120, "acme"), Key(HOUR, 3600, every[0].id)]
    await store.statistics.put([(key, counts) for key in keys]).wait()


async def _webhooks(store: Store) -> list[Endpoint]:
    """Add webhooks with all settings, one of which is deleted, and one has changed all of its secrets."""
    every = new_endpoint(
        description=ODD,
        organization_id="acme",
        metadata={"ä": ODD, "empty": ""},
        overrides=PolicyOverrides(
            ordering=Ordering.KEY,
            concurrency=3,
            rate_limit=RateLimit(per_second=0.1, burst=7),
            retry=RetryOverrides(delays=(0.1, 1e-2), max_age_seconds=1e6),
            when_inactive=WhenInactive.DROP,
        ),
        signature=SignatureChoice(ed25519=True),
        ed25519_secret=Secret("an ed25519 key"),
        ed25519_public_key="whpk_",
        headers=(("x-one", Secret(ODD.encode("ascii", "replace").decode())),),
    )
    full = await store.webhooks.create(VAULT, every, most=MOST, entry=entry(Action.WEBHOOK_CREATE))
    plain, gone, manual = [await add(store), await add(store), await add(store)]
    secret = Secret(generate_secret())
    await store.webhooks.rotate(
        VAULT,
        full.id,
        CLOCK.now(),
        secret=secret,
        secret_hint="…",
        overlap_seconds=3600,
        entry=entry(Action.WEBHOOK_ROTATE_SECRET),
        condition=None,
    )
    await publish(store, event("of the deleted", size=2), gone).wait()
    await store.webhooks.delete(gone.id, CLOCK.now(), entry=entry(Action.WEBHOOK_DELETE), condition=None)
    await store.deliveries.cancel(gone.pk, CLOCK.now(), MOST)
    off = EndpointChanges(is_active=False)
    await store.webhooks.update(VAULT, manual.id, off, CLOCK.now(), entry=None, condition=None)
    return [plain, full]


async def _deliveries(store: Store, plain: Endpoint, full: Endpoint) -> None:
    for number in range(12):
        what = event(f"event-{number}", organization_id="acme", key=ODD if number % 2 else None, size=2 + number * 997)
        await publish(store, replace(what, traceparent=None if number else "00-x-y-01"), plain, full).wait()
    now = CLOCK.now()
    answered = Outcome(
        duration_seconds=0.1 + 0.2,
        remote_address="192.0.2.1",
        status=503,
        headers=(("x-odd", ODD),),
        body=bytes(range(256)),
        truncated=True,
        detail=ODD,
    )
    state = EndpointState(breaker=BreakerState.OPEN, consecutive_faults=3, retry_at=now + 0.125, last_error=ODD)
    failure: dict[str, Any] = {"outcome": answered, "error": DeliveryError.HTTP_5XX, "endpoint": state}
    await record(store, plain, status=DeliveryStatus.SUCCEEDED, completed_at=now)
    waits: dict[str, Any] = {"next_attempt_at": now + 60, "completed_at": None}
    await record(store, plain, status=DeliveryStatus.PENDING, **waits, **failure)
    await record(store, plain, status=DeliveryStatus.PENDING, **waits, **failure)
    await record(store, plain, place=1, status=DeliveryStatus.PARKED, refusals=2, **waits, **failure)
    await record(store, plain, place=1, status=DeliveryStatus.FAILED, completed_at=now, **failure)
    found = await rows(store, plain)
    [parked] = [row for row in found if row.status is DeliveryStatus.PARKED]
    [failed] = [row for row in found if row.status is DeliveryStatus.FAILED]
    await retry(store, failed, now)
    await store.deliveries.expire([parked.pk], now + 1e9, driving=[plain.pk], notices_of=NO_NOTICES["notices_of"])
    await record(store, plain, place=1, status=DeliveryStatus.PARKED, refusals=2, **waits, **failure)
    test = replace(attempt_record(), number=1)
    tested = replace(test.delivery, id="dlv_test", endpoint_pk=full.pk, sequence=0)
    await store.deliveries.add_test(event("a test"), replace(test, delivery=tested), full, None).wait()
    for number in range(BACKLOG):
        await publish(store, event(f"backlog-{number}", size=300), plain).wait()


async def _replays(store: Store, endpoint: Endpoint) -> None:
    """Begin a replay, and add one that has been stopped and one that has ended."""
    wanted = Selection(
        endpoint_pk=endpoint.pk,
        kind=ReplayKind.REPLAY,
        since=0.0,
        until=CLOCK.now() + 3600,
        events=("user.*",),
        subscribed=("*",),
        organization_id=None,
    )
    matched = await store.replays.match(wanted)
    for number in range(3):
        started = entry(Action.WEBHOOK_REPLAY)
        await store.replays.start(wanted, matched, f"rpl_{number}", CLOCK.now(), endpoint=endpoint, entry=started)
    await store.replays.stop(endpoint, "rpl_1", None)
    queued_as = QueuedAs(at=CLOCK.now(), max_age_seconds=600, status=DeliveryStatus.PENDING)
    await store.replays.step("rpl_2", wanted, queued_as, IDS)
