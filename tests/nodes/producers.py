"""Producers that publish to any node, as behind a load balancer, and know what was acknowledged.

Each publishes one event after the other, the next one once the one before is acknowledged. What is refused, or not
answered in time, is sent again with the same id, to another node.
"""

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import httpx
import trio

from tests.patience import PATIENCE_SECONDS

FAST, PACED, HELD = "fast.made", "paced.made", "held.made"
_PACED_EVERY = 4
_AVOIDED_SECONDS = 2.0
_ACCEPTED, _UNAVAILABLE = 202, 503


class Place(Protocol):
    """A node to publish to."""

    @property
    def control_socket(self) -> str:
        """The path of its control socket."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A submitted event: the `number`th of its producer."""

    id: str
    producer: str
    number: int
    type: str
    at: float


@dataclass
class Ledger:
    """The submitted events, and the ids of the acknowledged ones; `problems` are wrong answers."""

    submitted: dict[str, Sent] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    refused: int = 0
    problems: list[str] = field(default_factory=list)
    is_closing: bool = False

    def submit(self, producer: str, number: int, kind: str) -> Sent:
        """Note an event that is submitted now."""
        sent = Sent(id=f"{producer}-{number}", producer=producer, number=number, type=kind, at=time.time())
        self.submitted[sent.id] = sent
        return sent


class Producer:
    """One producer; `run` returns when the ledger is closing and its last event is acknowledged."""

    def __init__(
        self, name: str, places: Sequence[Place], ledger: Ledger, seed: int, *, patience_seconds: float
    ) -> None:
        self._name = name
        self._ledger = ledger
        self._dice = random.Random(seed)  # noqa: S311 - not for security
        self._patience_seconds = patience_seconds
        self._places = dict.fromkeys(places, 0.0)  # until when each is avoided

    async def run(self, pause_seconds: float) -> None:
        """Publish, with pauses up to twice that."""
        number = 0
        while not self._ledger.is_closing:
            kind = PACED if number % _PACED_EVERY == 0 else FAST
            sent = self._ledger.submit(self._name, number, kind)
            while not await self._was_acknowledged(sent):
                await trio.sleep(pause_seconds)
            number += 1
            await trio.sleep(self._dice.random() * 2 * pause_seconds)

    async def _was_acknowledged(self, sent: Sent) -> bool:
        now = time.monotonic()
        usable = [place for place, until in self._places.items() if until < now]
        place = self._dice.choice(usable or list(self._places))
        try:
            answer = await post(place, body_of(sent), patience_seconds=self._patience_seconds)
        except httpx.HTTPError:
            answer = None
        if answer is None or answer.status_code == _UNAVAILABLE:
            self._places[place] = now + _AVOIDED_SECONDS
        if answer is None:
            return False
        if answer.status_code == _UNAVAILABLE:
            self._ledger.refused += 1
            if "retry-after" not in answer.headers:
                self._ledger.problems.append(f"a 503 has no Retry-After: {answer.text}")
            return False
        if answer.status_code != _ACCEPTED or answer.json()["id"] != sent.id:
            self._ledger.problems.append(f"{sent.id} was answered with {answer.status_code}: {answer.text}")
        self._ledger.acknowledged.add(sent.id)
        return True


def body_of(sent: Sent) -> bytes:
    """Return the event as JSON."""
    return json.dumps({"type": sent.type, "id": sent.id, "data": {"number": sent.number}}).encode()


def client_of(place: Place, patience_seconds: float) -> httpx.AsyncClient:
    """Return a client of a node, on its control socket."""
    # Without a check of certificates: to read those of this machine takes longer than all that a request needs.
    transport = httpx.AsyncHTTPTransport(uds=place.control_socket, verify=False)
    return httpx.AsyncClient(transport=transport, timeout=patience_seconds)


async def post(place: Place, body: bytes, *, patience_seconds: float) -> httpx.Response:
    """Publish one event to a node; httpx.HTTPError if it doesn't answer in time."""
    async with client_of(place, patience_seconds) as client:
        return await client.post("http://it/api/events", content=body, headers={"content-type": "application/json"})


async def stream(place: Place, ledger: Ledger, events: Sequence[Sent]) -> None:
    """Publish many events in one request; all of them must be accepted."""
    async with client_of(place, PATIENCE_SECONDS) as client:
        content = b"".join(body_of(sent) + b"\n" for sent in events)
        answer = await client.post(
            "http://it/api/events", content=content, headers={"content-type": "application/x-ndjson"}
        )
    for sent, line in zip(events, answer.text.splitlines(), strict=True):
        if json.loads(line)["ok"]:
            ledger.acknowledged.add(sent.id)
        else:
            ledger.problems.append(f"{sent.id} was refused: {line}")
