"""Measure single posts of one organization while a stream of another becomes 240,000 deliveries."""

import http.client
import json
import threading
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.generator import event_line
from tests.bench.ingest import NOBODY
from tests.bench.load import Load
from tests.bench.report import Figure, Result, Target, percentile
from tests.bench.server import BrokenCaseError, Server, serving

WEBHOOKS = 480  # below the quota of an organization
EVENTS = 500  # as lines of one request
PAUSE_SECONDS = 0.02  # between two posts
ALONE_SECONDS = 5.0
HELD_URL = "http://127.0.0.1:9999/"
PER_CENTS = (50.0, 99.0, 100.0)


def next_to_a_crowd(load: Load, target: Target) -> Result:
    """Measure single posts alone, and then during the stream of an organization with many webhooks."""
    result = Result(receiver=NOBODY)
    with TemporaryDirectory(prefix="webhookd-bench-") as directory, serving(Path(directory)) as server:
        for _ in range(WEBHOOKS):
            body = {"url": HELD_URL, "events": ["*"], "organizationId": "crowd", "isActive": False}
            server.control.post("/api/webhooks", body, dict[str, object])
        keys = {name: _key(server, name) for name in ("crowd", "quiet")}
        alone = _posts(server, keys["quiet"], threading.Timer(ALONE_SECONDS, lambda: None))
        during: list[float] = []
        rates: list[float] = []
        for _ in range(load.long_repeats):
            events = load.of(EVENTS)
            streaming = _Stream(server, keys["crowd"], events)
            during += _posts(server, keys["quiet"], streaming)
            rates.append(events * WEBHOOKS / streaming.result())
        peak = server.peak_mebibytes()
    for name, seconds in (("alone", alone), ("during the stream", during)):
        for percent in PER_CENTS:
            bound = target if percent == 99 and name != "alone" else None
            value = percentile(seconds, percent) * 1000
            result.figures.append(Figure(what=f"a post {name}, p{percent:g}", unit="ms", values=(value,), target=bound))
    result.figures += [
        Figure(what="deliveries queued by the stream", unit="/s", values=tuple(rates)),
        Figure(what="peak memory", unit="MiB", values=(peak,)),
    ]
    result.notes.append(f"{len(during)} posts during {load.of(EVENTS) * WEBHOOKS:,} deliveries from one request")
    return result


class _Stream(threading.Thread):
    """One request with many events, each for every webhook of its organization."""

    def __init__(self, server: Server, key: str, events: int) -> None:
        super().__init__()
        self._port = server.api_port
        self._key = key
        self._events = events
        self._seconds = 0.0
        self._results: list[bytes] = []

    def run(self) -> None:
        began = time.monotonic()
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)) as connection:
            headers = {"authorization": f"Bearer {self._key}", "content-type": "application/x-ndjson"}
            connection.request("POST", "/api/events", event_line() * self._events, headers)
            self._results = connection.getresponse().read().splitlines()
        self._seconds = time.monotonic() - began

    def result(self) -> float:
        """Wait for the end of the request; return how many seconds it took."""
        self.join()
        accepted = sum(b'"ok":true' in line for line in self._results)
        if accepted != self._events:
            raise BrokenCaseError(f"{accepted} of {self._events} events were accepted: {self._results[-1:]}")
        return self._seconds


def _key(server: Server, organization: str) -> str:
    created = server.control.post("/api/keys", {"role": "ingest", "organizationId": organization}, dict[str, object])
    return str(created["key"])


def _posts(server: Server, key: str, thread: threading.Thread) -> list[float]:
    """Start a thread and post one event after the other until it has ended; return the seconds of each post."""
    body = event_line().strip()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    seconds: list[float] = []
    with closing(http.client.HTTPConnection("127.0.0.1", server.api_port, timeout=60)) as connection:
        thread.start()
        while thread.is_alive():
            began = time.monotonic()
            connection.request("POST", "/api/events", body, headers)
            answer = connection.getresponse()
            text = answer.read()
            seconds.append(time.monotonic() - began)
            if answer.status != 202:
                raise BrokenCaseError(f"a post was answered {answer.status}: {json.loads(text)}")
            time.sleep(PAUSE_SECONDS)
    return seconds
