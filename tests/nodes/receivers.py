"""The receivers of all webhooks, on one port: they record each request with the process that made it.

The kernel knows which process has the other end of a connection, also one that is stopped.
"""

import random
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from tests.nodes.producers import FAST, HELD, PACED
from tests.receiver import Act, Receiver, Reply, Request

_FAULTS = 0.06
_ANSWER_SECONDS = 0.003


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request and whether it was answered with success; `process` is webhookd's name of the process that made it."""

    at: float
    connection: int
    process: str | None
    event: str
    attempt: tuple[str, int]
    sequence: int
    is_good: bool


@dataclass(kw_only=True)
class Watched:
    """A webhook for all events of a type, and what its receiver got."""

    path: str
    event_type: str = FAST
    ordering: str = "strict"
    concurrency: int = 1
    rate: float | None = None
    burst: int = 1
    is_erratic: bool = False
    timeout_seconds: int = 15
    pk: int = 0
    id: str = ""
    hangs: bool = False
    hung: list[int] = field(default_factory=list)
    """The connections whose request got no answer."""
    exchanges: list[Exchange] = field(default_factory=list)
    newest_at: float = 0.0
    """When the newest event that has arrived was submitted."""

    @property
    def slot(self) -> int:
        """The slot of the webhook."""
        return self.pk % 256

    @property
    def settings(self) -> dict[str, object]:
        """The settings with which the webhook is made."""
        limit = None if self.rate is None else {"perSecond": self.rate, "burst": self.burst}
        return {
            "events": [self.event_type],
            "ordering": self.ordering,
            "concurrency": self.concurrency,
            "timeoutSeconds": self.timeout_seconds,
            **({} if limit is None else {"rateLimit": limit}),
        }


def webhooks() -> list[Watched]:
    """Return webhooks of each kind, several of each, so that every node has some."""
    return [
        *(Watched(path=f"/strict-{number}") for number in range(5)),
        *(Watched(path=f"/erratic-{number}", is_erratic=True) for number in range(2)),
        *(Watched(path=f"/none-{number}", ordering="none", concurrency=4, is_erratic=True) for number in range(2)),
        *(Watched(path=f"/paced-{number}", event_type=PACED, rate=20.0, burst=3) for number in range(3)),
    ]


def held_webhook(path: str, **settings: object) -> Watched:
    """Return a webhook for events of which only a scenario sends some."""
    return Watched(path=path, event_type=HELD, **settings)  # type: ignore[arg-type]  # of its fields


class Life:
    """A process of a node: its number on this machine, and webhookd's name of it."""

    def __init__(self, pid: int, process: str) -> None:
        self.pid = pid
        self.process = process


class Receivers(Receiver):
    """Serves on sockets that listen already, each with the processes that may connect there."""

    def __init__(self, sockets: Sequence[tuple[socket.socket, Callable[[], Sequence[Life]]]], seed: int) -> None:
        super().__init__(self._reply)
        self.watched: dict[str, Watched] = {}
        self.submitted_at: Callable[[str], float] = lambda _: 0.0
        self.ended: set[int] = set()
        """The connections that are closed."""
        self._sockets = sockets
        self._dice = random.Random(seed)  # noqa: S311 - not for security
        self._peers: dict[int, tuple[int, Callable[[], Sequence[Life]]]] = {}
        self._processes: dict[int, str | None] = {}
        self.port = sockets[0][0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def run(self, *, task_status: trio.TaskStatus[Receiver] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until canceled."""
        async with trio.open_nursery() as nursery:
            for listening, lives in self._sockets:
                listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
                await nursery.start(trio.serve_listeners, partial(self._serve_from, lives), [listener])
            task_status.started(self)

    async def _serve_from(self, lives: Callable[[], Sequence[Life]], tcp: trio.SocketStream) -> None:
        number = self.connections + 1
        try:
            self._peers[number] = (tcp.socket.getpeername()[1], lives)
            await self._serve(tcp)
        except OSError:
            pass  # it was closed at once
        finally:
            self.ended.add(number)

    def _reply(self, request: Request, _: int) -> Reply:
        watched = self.watched[request.path]
        event = request.headers["webhook-id"]
        if watched.hangs:
            reply = Reply(act=Act.HANG)
            watched.hung.append(request.connection)
        elif watched.is_erratic and self._dice.random() < _FAULTS:
            reply = Reply(status=500)
        else:
            reply = Reply(delay_seconds=self._dice.random() * 2 * _ANSWER_SECONDS)
        watched.exchanges.append(
            Exchange(
                at=time.time(),
                connection=request.connection,
                process=self._process_of(request.connection),
                event=event,
                attempt=(request.headers["x-webhook-delivery"], int(request.headers["x-webhook-attempt"])),
                sequence=int(request.headers["x-webhook-sequence"]),
                is_good=reply.act is Act.ANSWER and reply.status == 200,
            )
        )
        watched.newest_at = max(watched.newest_at, self.submitted_at(event))
        return reply

    def _process_of(self, connection: int) -> str | None:
        """Return the process that has the other end; None if it has just ended."""
        if connection not in self._processes:
            port, lives = self._peers[connection]
            self._processes[connection] = next(
                (life.process for life in lives() if _has_connection(life.pid, port, self.port)), None
            )
        return self._processes[connection]


def _has_connection(pid: int, port: int, to: int) -> bool:
    """Whether a process has a connection between two ports of its own loopback."""
    with suppress(FileNotFoundError, ProcessLookupError):
        rows = [row.split() for row in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
        # proc_net_tcp: the local and the remote address in hexadecimal, and the number of the socket.
        inodes = {row[9] for row in rows if (row[1][-4:], row[2][-4:]) == (f"{port:04X}", f"{to:04X}")}
        links = {f"socket:[{inode}]" for inode in inodes}
        for descriptor in Path(f"/proc/{pid}/fd").iterdir() if links else ():
            with suppress(FileNotFoundError):
                if str(descriptor.readlink()) in links:
                    return True
    return False
