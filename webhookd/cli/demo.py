"""`webhookd demo`: sends events through a real server on this machine, and checks the result."""

import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event as Moment

import click
from rich.console import Console
from rich.table import Table

from webhookd.admin.schemas import DeliveryView, Page
from webhookd.admin.webhook_schemas import WebhookWithSecret
from webhookd.base.errors import CommandError, Rejected
from webhookd.base.event_types import STARTING_EVENT_TYPES
from webhookd.base.models import DeliveryStatus
from webhookd.cli.child import serving
from webhookd.cli.control import Control
from webhookd.cli.options import checks_config
from webhookd.cli.receiver import LocalReceiver, Received
from webhookd.client import Client, Event
from webhookd.config import load_config
from webhookd.verify import VerificationError, verify

_ARRIVAL_SECONDS = 60.0
_POLL_SECONDS = 0.05
_LONGEST_DIRECTORY = 80
_TERMINATED = 143  # 128 + SIGTERM
_EVENTS = STARTING_EVENT_TYPES[:10]
_CONFIG = """\
[server]
port = 0
control_socket = "control.sock"
[ingest]
socket = "ingest.sock"
[journal]
path = "webhookd.db"
[delivery]
retry_delays = [0.3]
[egress]
allow_http = true
ports = []
allow_networks = ["127.0.0.0/8"]
"""


class _Subscriber:
    """A receiver with its webhook; it answers its first `faults` requests with a 500."""

    def __init__(self, name: str, faults: int) -> None:
        self.name = name
        self.faults = faults
        self.requests: list[Received] = []
        self.receiver = LocalReceiver("127.0.0.1", 0, self._take)
        self.id = self.secret = ""
        self.deliveries: list[DeliveryView] = []

    def subscribe(self, control: Control) -> None:
        """Create the webhook."""
        wanted = {"url": f"{self.receiver.url}/{self.name}", "events": ["*"], "description": self.name}
        webhook = control.post("/api/webhooks", wanted, WebhookWithSecret)
        self.id, self.secret = webhook.id, webhook.secret

    def wait(self, control: Control, count: int) -> None:
        """Wait, for a minute at most, until `count` deliveries have ended; then `deliveries` has them, oldest first."""
        deadline = time.monotonic() + _ARRIVAL_SECONDS
        pending = {DeliveryStatus.PENDING, DeliveryStatus.PARKED}
        while time.monotonic() < deadline:
            page = control.get(f"/api/webhooks/{self.id}/deliveries?limit=100", Page[DeliveryView])
            self.deliveries = page.data[::-1]
            if len(page.data) == count and not any(delivery.status in pending for delivery in page.data):
                return
            Moment().wait(_POLL_SECONDS)

    def problems(self, ids: list[str]) -> Iterator[str]:
        """Yield what is not as expected."""
        for request in self.requests:
            try:
                verify(self.secret, request.headers, request.body)
            except VerificationError as error:
                yield f"{self.name} got a request that doesn't verify: {error}"
        if [request.headers.get("webhook-id") for request in self.requests[self.faults :]] != ids:
            yield f"{self.name} didn't get every event once and in order"
        if [delivery.event_id for delivery in self.deliveries] != ids:
            yield f"the server's deliveries for {self.name} are not those of the events"
        missing = sum(delivery.status is not DeliveryStatus.SUCCEEDED for delivery in self.deliveries)
        if missing:
            yield f"{missing} deliveries to {self.name} have not succeeded"

    def _take(self, request: Received) -> int:
        self.requests.append(request)
        return 500 if len(self.requests) <= self.faults else 200


@click.command("demo")
@checks_config
def command() -> None:
    """Run a server on this machine for a few seconds, send events through it, and check the result.

    It uses a temporary directory, ten events, and two receivers, one of which fails at first, and verifies every
    signature. Nothing is left on disk. Exit status 0 if everything is as expected.
    """
    # So that the server ends with this process: by default the signal would end it without that.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    console = Console(highlight=False, soft_wrap=True)
    began = time.monotonic()
    subscribers = [_Subscriber("billing", faults=0), _Subscriber("crm", faults=2)]
    for subscriber in subscribers:
        subscriber.receiver.start()
    with _directory() as directory:
        config_file = directory / "config.toml"
        config_file.write_text(_CONFIG)
        config = load_config(config_file, {})
        with serving(config_file) as ready:
            console.print(ready, markup=False)
            control = Control(config.server.control_socket)
            for subscriber in subscribers:
                subscriber.subscribe(control)
                answers = (
                    f"answers 500 to its first {subscriber.faults} requests" if subscriber.faults else "answers 200"
                )
                console.print(f"webhook {subscriber.id} for {subscriber.name}, which {answers}")
            ids = _send(config.ingest.socket)
            console.print(f"{len(ids)} events are on the server's disk")
            for subscriber in subscribers:
                subscriber.wait(control, len(ids))
    console.print(_table(subscribers))
    if problems := [problem for subscriber in subscribers for problem in subscriber.problems(ids)]:
        raise CommandError("; ".join(problems))
    requests = sum(len(subscriber.requests) for subscriber in subscribers)
    console.print(
        f"{len(ids)} events, {len(ids) * len(subscribers)} deliveries, {requests} requests "
        f"in {time.monotonic() - began:.1f} s: every signature verified, every event in order, the server ended cleanly"
    )


@contextmanager
def _directory() -> Iterator[Path]:
    # The path of a Unix socket must be short, and the temporary directory's may be long.
    place = None if len(tempfile.gettempdir()) < _LONGEST_DIRECTORY else "/tmp"  # noqa: S108 - it is created with mode 0700 there
    with tempfile.TemporaryDirectory(prefix="webhookd-", dir=place) as name:
        yield Path(name)


def _send(socket: Path) -> list[str]:
    ids = []
    with Client(socket) as client:
        events = (Event(type=name, data={"demo": True, "number": n}) for n, name in enumerate(_EVENTS, start=1))
        for result in client.send_many(events):
            if isinstance(result, Rejected):
                raise CommandError(f"the server refused an event: {result}")
            ids.append(result.id)
    return ids


def _table(subscribers: list[_Subscriber]) -> Table:
    # Short headings: without a terminal the table has 80 columns.
    table = Table(title="attempts and last answer of each receiver")
    table.add_column("#", justify="right")
    table.add_column("event", no_wrap=True)
    for subscriber in subscribers:
        table.add_column(subscriber.name, justify="right", no_wrap=True)
        table.add_column("answer", justify="right", no_wrap=True)
    for row in zip(*(subscriber.deliveries for subscriber in subscribers), strict=False):
        cells = [text for each in row for text in (str(each.attempts), str(each.response_status or each.error or "-"))]
        table.add_row(str(row[0].sequence), row[0].event, *cells)
    return table
