"""Read what a server had promised at a moment of a run, from the bytes it had sent, and check files against it.

The files are opened by the code of the server's start: the journal under its lock, migrated if necessary, then the
master key, with an interrupted rotation. The content of the journal is then compared with the promises.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import msgspec
import trio
from peewee import Database

from tests.powercut.trace import Send
from webhookd.base.clock import SystemClock
from webhookd.base.ids import IdFactory
from webhookd.config import Config
from webhookd.jobs.key_rotation import unlock
from webhookd.journal.queries import audit
from webhookd.journal.queries.dialect import SqlConnection, SqlRow
from webhookd.journal.sqlite.database import copy_before_upgrade
from webhookd.journal.sqlite.inspection import Inspection, inspect_copy, verified
from webhookd.server import unwrapped, writing

_STORED = re.compile(rb'"id":"([^"]+)","deliveries":(\d+),"duplicate":(?:true|false)')
_WEBHOOK = re.compile(rb'"id":"(wh_\w+)","url":')
_COPY = re.compile(rb'"stage":"(\w+)","file":"([^"]+)"')
_REQUEST = re.compile(rb"^POST (/\w+) HTTP/1\.1\r\n")
_DELIVERY = re.compile(rb"x-webhook-delivery: (\w+)\r\n")
_ATTEMPT = re.compile(rb"x-webhook-attempt: (\d+)\r\n")
_BODIES = "SELECT id, body FROM events"
_QUEUED = (
    "SELECT events.id, count(deliveries.pk) FROM events LEFT JOIN deliveries ON deliveries.event_pk = events.pk "
    "GROUP BY events.pk"
)
_GAPS = (
    "SELECT endpoint_pk FROM deliveries GROUP BY endpoint_pk "
    # Retention may have deleted the oldest.
    "HAVING count(*) <> max(sequence) - min(sequence) + 1 OR count(DISTINCT sequence) <> count(*)"
)
_BEHIND = (
    "SELECT endpoint_pk FROM sequences WHERE last < "
    "(SELECT coalesce(max(sequence), 0) FROM deliveries WHERE deliveries.endpoint_pk = sequences.endpoint_pk)"
)
_MADE = "SELECT deliveries.id, number FROM attempts JOIN deliveries ON deliveries.pk = delivery_pk"
_MISCOUNTED = (
    "SELECT deliveries.id FROM deliveries LEFT JOIN attempts ON delivery_pk = deliveries.pk GROUP BY deliveries.pk "
    "HAVING count(number) <> deliveries.attempts"
)


def digest(data: bytes) -> bytes:
    """Return a short hash of these bytes."""
    return blake2b(data, digest_size=16).digest()


@dataclass
class Promise:
    """The acknowledged events with their number of deliveries, webhooks, and backups with the events they must have.

    `requests` are the sent attempts (delivery, number) by the webhook's path, each once, in the order of their last
    request.
    """

    events: dict[str, int] = field(default_factory=dict)
    webhooks: set[str] = field(default_factory=set)
    backups: dict[Path, set[str]] = field(default_factory=dict)
    requests: dict[str, dict[tuple[str, int], None]] = field(default_factory=dict)
    _begun: dict[Path, set[str]] = field(default_factory=dict)
    _unread: dict[str, bytes] = field(default_factory=dict)

    def note(self, send: Send) -> str | None:
        """Add what was sent; return the kind of the moment if it was a request or promised something, else None."""
        request = _REQUEST.match(send.data)
        if request is not None:
            delivery, attempt = _DELIVERY.search(send.data), _ATTEMPT.search(send.data)
            assert delivery is not None
            assert attempt is not None
            sent = self.requests.setdefault(request[1].decode(), {})
            key = delivery[1].decode(), int(attempt[1])
            sent.pop(key, None)
            sent[key] = None
            return "after a request"
        text = self._unread.get(send.stream, b"") + send.data
        # A result line that was split continues in the next bytes.
        self._unread[send.stream] = text[text.rfind(b"\n") + 1 :]
        before = len(self.events) + len(self.webhooks) + len(self.backups)
        self.events |= {event_id.decode(): int(count) for event_id, count in _STORED.findall(text)}
        if b'"secret":"whsec_' in text:  # shown once, in the answer that creates the webhook
            self.webhooks |= {webhook_id.decode() for webhook_id in _WEBHOOK.findall(text)}
        for stage, name in _COPY.findall(text):
            file = Path(name.decode())
            if stage == b"done" and file in self._begun:
                self.backups[file] = self._begun.pop(file)
            elif stage != b"done" and file not in self._begun:
                self._begun[file] = set(self.events)
        return "after an answer" if len(self.events) + len(self.webhooks) + len(self.backups) > before else None


@dataclass(kw_only=True)
class Found:
    """The contents of a journal, or the error with which it can't be opened; and those of its copies.

    `copies` has for each copy its event ids, or the reason why it can't be used.
    """

    error: str | None = None
    bodies: dict[str, bytes] = field(default_factory=dict)
    queued: dict[str, int] = field(default_factory=dict)
    webhooks: set[str] = field(default_factory=set)
    created: set[str] = field(default_factory=set)
    deliveries: set[str] = field(default_factory=set)
    attempts: set[tuple[str, int]] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)
    copies: dict[str, set[str] | str] = field(default_factory=dict)


def look(home: Path, *, from_old: bool) -> Found:
    """Open the journal in a directory as the start of a server does; return its contents and those of its copies."""
    config = Config()
    journal = msgspec.structs.replace(config.journal, path=home / "webhookd.db")
    try:
        found = trio.run(_look, msgspec.structs.replace(config, journal=journal))
    except Exception as error:  # noqa: BLE001 - after any error the journal doesn't open
        return Found(error=f"{type(error).__name__}: {error}")
    wanted = [copy_before_upgrade(journal.path)] if from_old else []
    for file in {*home.glob("backups/*.db"), *wanted}:
        found.copies[str(file.relative_to(home))] = _events_of(file)
    return found


async def _look(config: Config) -> Found:
    clock = SystemClock()
    with unwrapped():
        async with writing(config, clock, IdFactory(clock.now)) as journal:
            rotator = await unlock(journal, config, {})
            while await rotator.step():
                pass
            return await journal.transactions.read(_contents, config.journal.path)


def _contents(database: Database, path: Path) -> Found:
    connection: SqlConnection = database.connection()  # type: ignore[no-untyped-call]  # peewee's

    def ask(sql: str) -> list[SqlRow]:
        return list(connection.execute(sql))

    inspection = Inspection(path, database)
    chain = audit.verify(database)
    complaints = [str(row[0]) for row in ask("PRAGMA integrity_check") if row[0] != "ok"]
    complaints += inspection.dangling()
    complaints += [] if chain.broken is None else [f"the audit log: {chain.broken}"]
    complaints += [f"the trigger {name} is missing" for name in inspection.missing_triggers()]
    complaints += [f"the endpoint {row[0]} has a gap in its sequence" for row in ask(_GAPS)]
    complaints += [f"the endpoint {row[0]} would use a sequence twice" for row in ask(_BEHIND)]
    complaints += [f"the delivery {row[0]} has a wrong count of attempts" for row in ask(_MISCOUNTED)]
    return Found(
        bodies={event_id: digest(body) for event_id, body in ask(_BODIES)},
        queued=dict(ask(_QUEUED)),
        webhooks={row[0] for row in ask("SELECT id FROM endpoints")},
        created={row[0] for row in ask("SELECT object FROM audit WHERE action = 'webhook.create'")},
        deliveries={row[0] for row in ask("SELECT id FROM deliveries")},
        attempts={(row[0], row[1]) for row in ask(_MADE)},
        complaints=complaints,
    )


def _events_of(file: Path) -> set[str] | str:
    if not file.exists():
        return "is missing"
    try:
        verified(file, called=file)
        with inspect_copy(file, called=file) as copy:
            return {str(row[0]) for row in copy._rows("SELECT id FROM events")}
    except Exception as error:  # noqa: BLE001 - as above
        return f"can't be used: {error}"


def broken(promise: Promise, found: Found, bodies: Mapping[str, bytes], home: Path) -> list[str]:
    """Return the promises that the found files break; `bodies` has the right digest of each event's body."""
    if found.error is not None:
        return [f"it doesn't open: {found.error}"]
    problems = list(found.complaints)
    for event_id, count in promise.events.items():
        if event_id not in found.bodies:
            problems.append(f"the event {event_id} was acknowledged and is lost")
        elif found.bodies[event_id] != bodies.get(event_id):
            problems.append(f"the event {event_id} has other bytes")
        elif found.queued[event_id] != count:
            problems.append(f"the event {event_id} has {found.queued[event_id]} deliveries instead of {count}")
    problems += [f"the webhook {each} was created and is lost" for each in promise.webhooks - found.webhooks]
    unaudited = (promise.webhooks & found.webhooks) - found.created
    problems += [f"the audit log has no creation of {each}" for each in unaudited]
    for path, sent in promise.requests.items():
        problems += _unrecorded(path, [*sent], found)
    for file, copied in found.copies.items():
        if isinstance(copied, str):
            if (home / file) in promise.backups or copied != "is missing" or not file.startswith("backups/"):
                problems.append(f"the copy {file} {copied}")
        elif lost := promise.backups.get(home / file, set()) - copied:
            problems.append(f"the backup {file} was reported as done and lacks {len(lost)} events")
    problems += [
        f"the backup {file} is missing" for file in promise.backups if str(file.relative_to(home)) not in found.copies
    ]
    return problems


def _unrecorded(path: str, sent: list[tuple[str, int]], found: Found) -> list[str]:
    unknown = {delivery for delivery, _ in sent} - found.deliveries
    problems = [f"the delivery {delivery} was sent and is lost" for delivery in unknown]
    # In strict order a request is sent after the previous one is recorded, so all but the last must be recorded.
    before = sent[:-1] if path == "/strict" else []
    return problems + [
        f"attempt {number} of {delivery} was made before others were sent and is not recorded"
        for delivery, number in before
        if (delivery, number) not in found.attempts
    ]
