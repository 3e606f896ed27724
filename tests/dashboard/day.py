"""A server with the data of a day: healthy, slow, failing, throttled and disabled webhooks, in two organizations.

The data makes the server send no request: pending deliveries wait behind a circuit breaker that is open until tomorrow,
or for a disabled webhook. One webhook has a receiver on loopback, for requests that the pages cause.
"""

import math
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from tests.dashboard.kinds import KINDS, Kind
from tests.e2e.harness import CONFIG, PROGRAM
from tests.forked import Process
from webhookd.admin.schemas import NewKey
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import Role
from webhookd.base.secret import Secret
from webhookd.cli.offline import create_key, initialize
from webhookd.config import load_config
from webhookd.crypto.key_file import find_key_place
from webhookd.crypto.vault import Vault
from webhookd.delivery.signing import generate_secret, secret_hint
from webhookd.journal import Action, AuditActor, AuditActorKind, AuditEntry, NewEndpoint
from webhookd.journal.queries import audit, endpoints, statistics
from webhookd.journal.sqlite.database import open_writer
from webhookd.observe.statistics import HOUR, MINUTE, QUARTER, SERVER, Counts, CountsRow, Key

DAY = 86_400
EVENTS = 1500
OWN_TYPES = ("security.2fa_enabled", "security.2fa_disabled")  # only the loopback webhook gets these
MARKUP = "<script>alert(1)</script>"


class Day:
    """The server: its URL, keys by name, and the ids of the objects on its pages."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = ""
        self.receiver_url = ""
        self.keys: dict[str, str] = {}
        self.webhooks: dict[str, str] = {}
        self.deliveries: dict[str, str] = {}
        self.events: dict[str, str] = {}

    def paths(self) -> dict[str, str]:
        """Return every page by its name, in the order of the navigation."""
        return {
            "overview": "/",
            "overview-day": "/?span=day",
            "statistics": "/statistics?span=hour",
            "webhooks": "/webhooks",
            "webhooks-troubled": "/webhooks?kind=troubled&order=trouble",
            "webhook-open": f"/webhooks/{self.webhooks['Data warehouse']}",
            "webhook-well": f"/webhooks/{self.webhooks['Search index']}",
            "webhook-disabled": f"/webhooks/{self.webhooks['Legacy ERP']}",
            "webhook-deliveries": f"/webhooks/{self.webhooks['Mail']}/deliveries?status=failed",
            "new-webhook": "/webhooks/new",
            "edit-webhook": f"/webhooks/{self.webhooks['Search index']}/edit",
            "replay": f"/webhooks/{self.webhooks['Mail']}/replay",
            "secret-shown": f"/webhooks/{self.webhooks['Mail']}/secret",
            "events": "/events",
            "events-found": "/events?type=user.*&since=2020-01-01",
            "event": f"/events/{self.events['marked']}",
            "delivery-succeeded": f"/deliveries/{self.deliveries['succeeded']}",
            "delivery-waiting": f"/deliveries/{self.deliveries['waiting']}",
            "delivery-pending": f"/deliveries/{self.deliveries['pending']}",
            "delivery-failed": f"/deliveries/{self.deliveries['failed']}",
            "event-types": "/event-types",
            "event-type": "/event-types/named/user.created",
            "new-event-type": "/event-types/new",
            "keys": "/keys",
            "audit": "/audit",
        }


@contextmanager
def served_day(directory: Path) -> Iterator[Day]:
    """Run a server with the data of a full day until the block ends; it must stop cleanly and log no failure."""
    day = Day(directory)
    with _receiver(directory) as day.receiver_url:
        fill(day)
        with (directory / "log").open("wb") as log:
            command = [*PROGRAM, "serve", "--config", str(directory / "config.toml")]
            process = Process(command, stdout=subprocess.PIPE, stderr=log)
        with process:
            assert process.stdout is not None
            try:
                day.url = process.stdout.readline().split("API ")[1].split(",")[0]
                yield day
            finally:
                process.send_signal(signal.SIGTERM)
            assert process.wait() == 0
    said = (directory / "log").read_text()
    assert "http.request_failed" not in said
    assert "Traceback" not in said


@contextmanager
def _receiver(directory: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.receiver", "--port", "0", "--log", str(directory / "received")]
    with Process([*command, "--script", "200"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def fill(day: Day) -> None:
    """Create the journal."""
    # Back-offs of up to a day, so that no probe is due while somebody looks.
    (day.directory / "config.toml").write_text(CONFIG.replace("[0.05]", "[5, 30, 86_400]").replace("= 1000", "= 5"))
    config = load_config(day.directory / "config.toml", {})
    first = trio.run(initialize, config)
    assert first is not None
    day.keys["first"] = first.reveal()
    for name, role, organization in (
        ("admin", Role.ADMIN, None),
        ("operator", Role.OPERATOR, None),
        ("viewer", Role.VIEWER, None),
        ("acme-admin", Role.ADMIN, "acme"),
        ("acme-viewer", Role.VIEWER, "acme"),
        ("producer", Role.INGEST, "acme"),
    ):

        async def make(name: str = name, role: Role = role, organization: str | None = organization) -> str:
            _, text = await create_key(config, NewKey(role=role, name=name, organization_id=organization), None)
            return text.reveal()

        day.keys[name] = trio.run(make)
    vault = Vault(find_key_place(config, {}).load())
    with closing(open_writer(config.journal.path, now=time.time())) as database, database.atomic():
        _Filling(day, database, vault).run()


class _Filling:
    def __init__(self, day: Day, database: Any, vault: Vault) -> None:
        self._day = day
        self._database = database
        self._vault = vault
        self._now = time.time()
        self._at = self._now
        self._ids = IdFactory(lambda: self._at)
        self._chance = random.Random(8)  # noqa: S311 - the same day each time
        self._kinds = (
            *KINDS,
            Kind(name="Here", url=day.receiver_url, events=OWN_TYPES),
        )
        self._sequences = [0] * len(self._kinds)
        self._deliveries: list[tuple[object, ...]] = []
        self._attempts: list[tuple[object, ...]] = []

    def run(self) -> None:
        self._add_webhooks()
        events = [self._event(number) for number in range(1, EVENTS + 1)]
        self._insert("events", events)
        self._insert("deliveries", self._deliveries)
        self._insert("attempts", self._attempts)
        for pk, sequence in enumerate(self._sequences, 1):
            self._ask("UPDATE sequences SET last = ? WHERE endpoint_pk = ?", (sequence, pk))
        self._add_states()
        self._add_statistics()

    def _add_webhooks(self) -> None:
        for number, kind in enumerate(self._kinds):
            self._at = self._now - 40 * DAY + number * 3600
            secret = generate_secret()
            new = NewEndpoint(
                id=self._ids.new(Prefix.WEBHOOK),
                url=kind.url,
                events=kind.events,
                description=kind.name,
                organization_id=kind.organization,
                overrides=kind.overrides,
                headers=(("authorization", Secret("Bearer hidden-from-everybody")),) if number == 0 else (),
                secret=Secret(secret),
                secret_hint=secret_hint(secret),
                created_at=self._at,
            )
            self._day.webhooks[kind.name] = endpoints.insert(self._database, self._vault, new).id
            actor = AuditActor(kind=AuditActorKind.COMMAND, id="1000")
            entry = AuditEntry(actor=actor, action=Action.WEBHOOK_CREATE, at=self._at, fields=("url", "events"))
            audit.append(self._database, entry, new.id, kind.organization)

    def _event(self, number: int) -> tuple[object, ...]:
        """Return the row of an event, and add its deliveries to the lists."""
        self._at = self._now - DAY * (1 - number / EVENTS) - 90
        organization = self._chance.choice(("acme", "acme", "globex", None))
        names = ("user.created", "user.updated", "user.deleted", "subscription.renewed", "organization.updated")
        name = self._chance.choice(names)
        event_id = self._ids.new(Prefix.EVENT) if number % 7 else f"order-{100_000 + number}"
        note = MARKUP if number == EVENTS else f"the {number}th of the day"
        data = {"id": number, "note": note, "amount": round(number * 1.1, 2), "tags": ["a", "b"], "total": None}
        self._day.events["marked"] = event_id
        envelope = {"id": event_id, "type": name, "timestamp": "2025-01-31T12:00:00.000Z", "data": data}
        before = len(self._deliveries)
        for index, kind in enumerate(self._kinds):
            owner_fits = kind.organization in {None, organization}
            if owner_fits and any(_fits(pattern, name) for pattern in kind.events):
                self._deliver(number, index, kind, name)
        made = len(self._deliveries) - before
        body = msgspec.json.encode(envelope)
        return (number, event_id, name, organization, None, None, self._at - 0.4, self._at, made, body)

    def _deliver(self, event_pk: int, index: int, kind: Kind, name: str) -> None:
        self._sequences[index] += 1
        pk, delivery_id = len(self._deliveries) + 1, self._ids.new(Prefix.DELIVERY)
        behind = EVENTS - event_pk
        waits = kind.queue > 0 and behind < kind.queue
        fails = self._chance.random() < kind.failing
        count = self._chance.choice((2, 3, 26)) if fails and not waits else 1
        status, ended_at = ("failed" if count > 3 else "succeeded"), self._at + count
        attempts = count
        if waits:
            status, attempts = "pending", (0 if self._has_head(index) else 3)
        started_at = self._at + 0.05
        for number in range(1, attempts + 1):
            went_well = status == "succeeded" and number == attempts
            self._attempt(pk, number, kind, started_at, went_well=went_well)
            started_at += 1.0
        if status != "pending":
            self._day.deliveries[status] = delivery_id
            if status == "failed" and kind.status is not None:
                self._day.deliveries["refused"] = delivery_id
        elif attempts:  # the head of its line
            self._day.deliveries["pending"] = delivery_id
        else:
            self._day.deliveries.setdefault("waiting", delivery_id)
        error = None if status in {"succeeded", "pending"} else kind.error
        done = status in {"succeeded", "failed"}
        self._deliveries.append(
            (
                *(pk, delivery_id, index + 1, event_pk, name, None, self._sequences[index], status, "auto", attempts),
                *(0, 0, None if done else self._now + DAY, self._at, self._at + 3 * DAY, ended_at if done else None),
                *((200 if status == "succeeded" else kind.status) if attempts else None, error, kind.seconds),
            )
        )

    def _has_head(self, index: int) -> bool:
        """Whether a webhook's queue has a head already: deliveries after it have no attempts."""
        return any(row[2] == index + 1 and row[7] == "pending" for row in self._deliveries)

    def _attempt(self, pk: int, number: int, kind: Kind, at: float, *, went_well: bool) -> None:
        status = 200 if went_well else kind.status
        headers = [["content-type", "text/html; charset=utf-8"], ["server", "nginx"], ["x-request-id", f"r-{pk}"]]
        body = b'{"ok":true}' if went_well else f"<h1>It broke</h1>{MARKUP}".encode()
        seconds = kind.seconds * self._chance.lognormvariate(0, 0.4)
        self._attempts.append(
            (
                *(pk, number, self._ids.new(Prefix.ATTEMPT), "auto", at, seconds, "203.0.113.7:443"),
                *(status, msgspec.json.encode(headers if status else []).decode(), body if status else b"", 0),
                *(None if went_well else kind.error, "" if status else "no answer within 15 s", None),
            )
        )

    def _add_states(self) -> None:
        for pk, kind in enumerate(self._kinds, 1):
            if kind.breaker == "open":
                failed = "breaker = 'open', consecutive_faults = 9, reopenings = 4, last_error = ?, failing_since = ?"
                values: tuple[object, ...] = (kind.error, self._now - 4 * 3600, self._now + DAY, self._now - 30, pk)
                self._ask(
                    f"UPDATE endpoint_state SET {failed}, failures_since_success = 60, retry_at = ?, "  # noqa: S608 - of the line above
                    "last_failure_at = ? WHERE endpoint_pk = ?",
                    values,
                )
            else:
                self._ask("UPDATE endpoint_state SET last_success_at = ? WHERE endpoint_pk = ?", (self._now - 75, pk))
            if not kind.active:
                self._ask(
                    "UPDATE endpoints SET is_active = 0, disabled_reason = ?, disabled_at = ? WHERE pk = ?",
                    (kind.reason, self._now - 7200, pk),
                )

    def _add_statistics(self) -> None:
        rows: dict[Key, Counts] = {}

        def add(seconds: int, at: float, subject: str, counts: Counts) -> None:
            key = Key(seconds, int(at) // seconds * seconds, subject)
            rows.setdefault(key, Counts()).add(counts)

        for minute in range(DAY // MINUTE + 1):
            at = self._now - minute * MINUTE
            wave = 1.4 + math.sin(at / DAY * 2 * math.pi) + 0.3 * math.sin(at / 1800)
            for kind in self._kinds[:-1]:
                if not kind.active and minute < 120:
                    continue
                sent = round(8 * wave * kind.weight * self._chance.uniform(0.7, 1.3))
                ill = kind.failing if kind.breaker == "closed" or minute > 200 else 1.0
                failures = round(sent * ill)
                counts = Counts(events=0, delivered=sent - failures, failures=failures, failed=failures // 9)
                for _ in range(sent):
                    counts.observe(kind.seconds * self._chance.lognormvariate(0, 0.5))
                add(HOUR, at, self._day.webhooks[kind.name], counts)
                counts = msgspec.structs.replace(counts, events=sent // 3)
                for subject in (SERVER, *(() if kind.organization is None else (kind.organization,))):
                    add(QUARTER, at, subject, counts)
                    if minute <= 61:
                        add(MINUTE, at, subject, counts)
        listed: list[CountsRow] = sorted(rows.items())
        statistics.put(self._database, statistics.encode(listed))

    def _insert(self, table: str, rows: Sequence[tuple[object, ...]]) -> None:
        marks = ", ".join("?" * len(rows[0]))
        self._database.connection().executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608 - of names above

    def _ask(self, sql: str, values: tuple[object, ...]) -> None:
        self._database.execute_sql(sql, values)


def _fits(pattern: str, name: str) -> bool:
    return pattern in {"*", name} or (pattern.endswith(".*") and name.startswith(pattern[:-1]))
