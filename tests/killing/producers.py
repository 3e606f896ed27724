"""Producers that submit events over the socket and over HTTP until they are answered, and record both.

They share no code with `webhookd.client`. What a killed server has not answered is sent again with the same id.
"""

import json
import random
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import trio

_MOST_UNANSWERED = 64
_PAUSE_SECONDS = 0.02
_SIZES = (2, 20, 200, 2000)
_KEYS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A submitted event."""

    id: str
    producer: int
    key: str | None
    data: bytes

    @property
    def line(self) -> bytes:
        """The line of JSON that submits the event."""
        key = b"" if self.key is None else b'"orderingKey": "%s", ' % self.key.encode()
        return b'{"type": "user.created", "id": "%s", %s"data": %s}' % (self.id.encode(), key, self.data)


@dataclass
class Ledger:
    """The submitted events, and the acknowledged ones with their number of deliveries; `problems` are wrong answers."""

    submitted: dict[str, Sent] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)
    repeated: int = 0
    problems: list[str] = field(default_factory=list)
    is_closing: bool = False
    _answered: trio.Event = field(default_factory=trio.Event)

    async def next_answer(self) -> None:
        """Wait for the next answer."""
        await self._answered.wait()

    def answered(self, sent: Sent, answer: dict[str, object]) -> None:
        """Record an answer that acknowledges an event."""
        if answer.get("id") != sent.id:
            self.problems.append(f"{sent.id} was answered as {answer}")
            return
        self.repeated += bool(answer["duplicate"])
        self.acknowledged[sent.id] = int(str(answer["deliveries"]))
        self._answered.set()
        self._answered = trio.Event()


class Producer:
    """One producer with its own connection; `run` returns when the ledger is closing and every event is answered."""

    def __init__(self, number: int, ledger: Ledger, seed: int) -> None:
        self._number = number
        self._ledger = ledger
        self._dice = random.Random(seed)  # noqa: S311 - not for security
        self._made = 0
        self._unanswered: deque[Sent] = deque()

    @property
    def _is_done(self) -> bool:
        return self._ledger.is_closing and not self._unanswered

    def _make(self) -> Sent:
        text = self._dice.randbytes(self._dice.choice(_SIZES) // 2).hex()
        sent = Sent(
            id=f"p{self._number}-{self._made}",
            producer=self._number,
            key=self._dice.choice((None, *(f"k{number}" for number in range(_KEYS)))),
            data=json.dumps({"text": text}, separators=self._dice.choice(((", ", ": "), (",", ":  ")))).encode(),
        )
        self._made += 1
        self._unanswered.append(sent)
        self._ledger.submitted[sent.id] = sent
        return sent

    def _make_some(self, most: int) -> list[Sent]:
        return [] if self._ledger.is_closing else [self._make() for _ in range(self._dice.randint(1, most))]

    async def _rest(self) -> None:
        await trio.sleep(self._dice.choice((0.0, 0.01, 0.2)))


class SocketProducer(Producer):
    """Pipelines lines on the ingest socket."""

    async def run(self, path: Path) -> None:
        """Send, and connect again after the server has ended."""
        while not self._is_done:
            try:
                async with await trio.open_unix_socket(str(path)) as stream, trio.open_nursery() as nursery:
                    nursery.start_soon(self._send, stream, nursery.cancel_scope)
                    await self._receive(stream)
                    nursery.cancel_scope.cancel()
            except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                await trio.sleep(_PAUSE_SECONDS)

    async def _send(self, stream: trio.SocketStream, ended: trio.CancelScope) -> None:
        if self._unanswered:
            await stream.send_all(b"".join(sent.line + b"\n" for sent in self._unanswered))
        while not self._is_done:
            if len(self._unanswered) < _MOST_UNANSWERED:
                events = self._make_some(8)
                await stream.send_all(b"".join(sent.line + b"\n" for sent in events) or b"\n")
            await self._rest()
        ended.cancel()

    async def _receive(self, stream: trio.SocketStream) -> None:
        text = b""
        while chunk := await stream.receive_some(65_536):
            *lines, text = (text + chunk).split(b"\n")
            for line in lines:
                answer = json.loads(line)
                if not answer["ok"]:
                    self._ledger.problems.append(f"the socket refused: {answer}")
                self._ledger.answered(self._unanswered.popleft(), answer)
            if self._is_done:
                return


class HttpProducer(Producer):
    """Posts single events and streams of events in turn."""

    async def run(self, path: Path) -> None:
        """Send over the control socket, and send unanswered events again."""
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://it") as client:
            while not self._is_done:
                try:
                    if self._made % 2 or len(self._unanswered) > 1:
                        await self._stream(client)
                    else:
                        await self._post(client)
                except httpx.HTTPError:
                    await trio.sleep(_PAUSE_SECONDS)
                await self._rest()

    async def _post(self, client: httpx.AsyncClient) -> None:
        sent = self._unanswered[0] if self._unanswered else self._make()
        answer = await client.post("/api/events", content=sent.line, headers={"content-type": "application/json"})
        if answer.status_code != 202:
            self._ledger.problems.append(f"a POST was answered by {answer.status_code}: {answer.text}")
        self._ledger.answered(self._unanswered.popleft(), answer.json())

    async def _stream(self, client: httpx.AsyncClient) -> None:
        if not self._unanswered:
            self._make_some(12)
        content = b"".join(sent.line + b"\n" for sent in self._unanswered)
        headers = {"content-type": "application/x-ndjson"}
        async with client.stream("POST", "/api/events", content=content, headers=headers) as answer:
            # A line that the end of the server cut off has no line ending.
            async for line in answer.aiter_lines():
                self._ledger.answered(self._unanswered.popleft(), json.loads(line))
