"""Fill a journal with hundreds of thousands of endpoints, and with millions of pending or sent deliveries.

Endpoints are inserted as by the server itself, with sealed secrets; SQLite generates events, deliveries and attempts
from a counter. This runs as a process of its own, `python -m tests.bench.seed DIRECTORY` with the content as JSON on
standard input, so that it leaves nothing in memory when the measurement begins.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import apsw
import msgspec
import trio

from tests.bench.generator import DATA, EVENT_TYPE
from tests.bench.server import write_config
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import PolicyOverrides, SignatureChoice
from webhookd.base.secret import Secret
from webhookd.cli.offline import initialize
from webhookd.config import load_config
from webhookd.crypto.key_file import find_key_place
from webhookd.crypto.vault import Vault
from webhookd.delivery.signing import generate_secret, secret_hint
from webhookd.journal import NewEndpoint
from webhookd.journal.queries import endpoints
from webhookd.journal.sqlite.database import open_writer

MAX_AGE_SECONDS = 259_200


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Endpoints that each get all events of their own organization; `{number}` in the URL is the endpoint's number."""

    count: int
    url: str


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a journal.

    Endpoints are numbered from 0 through all groups and belong to the organizations `o0`, `o1`, …. Each event has
    `fan_out` deliveries (a divisor of the number of endpoints), to all endpoints in turn: pending, or with `are_sent`
    succeeded with one attempt each.
    """

    groups: tuple[Group, ...]
    deliveries: int = 0
    fan_out: int = 1
    are_sent: bool = False


def seed(directory: Path, content: Content) -> None:
    """Create a journal in a directory, in another process; return when all of it is on disk."""
    command = [sys.executable, "-m", "tests.bench.seed", str(directory)]
    subprocess.run(command, input=msgspec.json.encode(content), check=True)


def fill(directory: Path, content: Content) -> None:
    """Create the journal in this process."""
    config = load_config(write_config(directory), {})
    trio.run(initialize, config)
    _add_endpoints(config.journal.path, Vault(find_key_place(config, {}).load()), content.groups)
    if content.deliveries:
        _add_deliveries(config.journal.path, content)
    # Later writes of the kernel would disturb the measurement.
    os.sync()


def _add_endpoints(path: Path, vault: Vault, groups: Sequence[Group]) -> None:
    now = time.time()
    ids = IdFactory(time.time)
    with closing(open_writer(path, now=now)) as database, database.atomic():
        number = 0
        for group in groups:
            for _ in range(group.count):
                secret = generate_secret()
                new = NewEndpoint(
                    id=ids.new(Prefix.WEBHOOK),
                    url=group.url.format(number=number),
                    events=("*",),
                    description="",
                    is_active=True,
                    organization_id=f"o{number}",
                    metadata={},
                    overrides=PolicyOverrides(),
                    signature=SignatureChoice(),
                    headers=(),
                    secret=Secret(secret),
                    secret_hint=secret_hint(secret),
                    created_at=now,
                )
                endpoints.insert(database, vault, new)
                number += 1


_COUNTER = """
CREATE TEMP TABLE counter AS
WITH RECURSIVE counting (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counting LIMIT ?) SELECT n FROM counting
"""
_EVENTS = """
INSERT INTO events (pk, id, type, timestamp, accepted_at, deliveries, body)
SELECT n, printf('evt_%026d', n), :type, :at, :at, :fan_out,
    CAST(printf('{"id":"evt_%026d","type":"%s","timestamp":"2025-01-15T10:30:00.000Z","data":%s}', n, :type, :data)
        AS BLOB)
FROM counter WHERE n <= :events
"""
_DELIVERIES = """
INSERT INTO deliveries (pk, id, endpoint_pk, event_pk, event_type, sequence, status, trigger, attempts, refusals,
    backoff_step, next_attempt_at, created_at, expires_at, completed_at, response_status, duration_seconds)
SELECT n, printf('dlv_%026d', n), (n - 1) % :endpoints + 1, (n - 1) / :fan_out + 1, :type, (n - 1) / :endpoints + 1,
    iif(:are_sent, 'succeeded', 'pending'), 'auto', :are_sent, 0, 0, iif(:are_sent, NULL, :at), :at, :at + :max_age,
    iif(:are_sent, :at, NULL), iif(:are_sent, 200, NULL), iif(:are_sent, 0.002, NULL)
FROM counter
"""
_ATTEMPTS = """
INSERT INTO attempts (delivery_pk, number, id, trigger, started_at, duration_seconds, remote_address, response_status,
    response_headers, response_body, truncated, detail)
SELECT n, 1, printf('att_%026d', n), 'auto', :at, 0.002, '127.0.0.1:80', 200, '[["content-length","0"]]', x'', 0, ''
FROM counter
"""


def _add_deliveries(path: Path, content: Content) -> None:
    count = sum(group.count for group in content.groups)
    values: dict[str, str | float] = {
        "type": EVENT_TYPE,
        "data": DATA,
        "at": time.time(),
        "max_age": MAX_AGE_SECONDS,
        "endpoints": count,
        "fan_out": content.fan_out,
        "are_sent": int(content.are_sent),
    }
    with closing(apsw.Connection(str(path))) as connection:
        # The file may be lost if the machine stops meanwhile; the server uses its own settings again.
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -500000"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        connection.execute(_COUNTER, (content.deliveries,))
        connection.execute(_EVENTS, values | {"events": content.deliveries // content.fan_out})
        connection.execute(_DELIVERIES, values)
        if content.are_sent:
            connection.execute(_ATTEMPTS, values)
        connection.execute("UPDATE sequences SET last = ?", (content.deliveries // count,))
        connection.execute("COMMIT")


if __name__ == "__main__":
    fill(Path(sys.argv[1]), msgspec.json.decode(sys.stdin.buffer.read(), type=Content))
