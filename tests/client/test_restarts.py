"""Producers of every kind while the real server is killed or stopped and started: no event lost or duplicated."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import trio

from tests.client.feed import feed
from tests.client.flavours import FLAVOURS, Outcome, Send
from tests.e2e.harness import CONFIG, Server, running
from tests.patience import PATIENCE_SECONDS, until
from tests.ports import held_port
from tests.receiver import Receiver
from webhookd.client import Event, PublishResult

ENDS = ("kill", "stop", "kill")
WINDOW = 32


class Producing:
    """One producer in a thread, with events numbered from 0, until it is stopped."""

    def __init__(self, name: str, send: Send, target: str, enough: threading.Event, **settings: Any) -> None:
        self.name = name
        self.send = send
        self.target = target
        self.enough = enough
        self.settings = settings
        self.results: list[Outcome] = []
        self.given = 0

    async def run(self) -> None:
        await trio.to_thread.run_sync(self._send)

    def _send(self) -> None:
        self.results = self.send(self.target, self._events(), window=WINDOW, timeout=PATIENCE_SECONDS, **self.settings)

    def _events(self) -> Iterator[Event]:
        while not self.enough.is_set():
            yield Event(type="user.created", data={"producer": self.name, "number": self.given})
            self.given += 1
            time.sleep(0.005)


async def test_nothing_is_lost_or_doubled_by_a_server_that_ends(tmp_path: Path) -> None:
    """Each kind of client, over each transport, has every event accepted once, in order, over kills and stops."""
    enough = threading.Event()
    async with AsyncExitStack() as stack:
        # Where the producers are to find it again.
        config = CONFIG.replace("port = 0", f"port = {stack.enter_context(held_port())}")
        server = await stack.enter_async_context(running(tmp_path, config))
        nursery = await stack.enter_async_context(trio.open_nursery())
        receiver: Receiver = await nursery.start(Receiver().run)
        webhook = await server.webhook(receiver.url, ordering="none")
        producers = [
            Producing(f"{name} {transport}", send, target, enough, **settings)
            for name, send in FLAVOURS.items()
            for transport, target, settings in (
                ("socket", str(server.socket), {}),
                ("http", server.url, {"key": server.first_key}),
            )
        ]

        async def all_go_on() -> None:
            """Return when each producer has had more answers than may be unanswered."""
            before = {producer: producer.given for producer in producers}
            await until(lambda: all(producer.given > before[producer] + WINDOW + 8 for producer in producers))

        with trio.fail_after(5 * PATIENCE_SECONDS):
            async with trio.open_nursery() as producing:
                for producer in producers:
                    producing.start_soon(producer.run)
                try:
                    for end in ENDS:
                        await all_go_on()
                        if end == "kill":
                            await server.kill()
                        else:
                            assert await server.stop() == 0
                        await server.start()
                    await all_go_on()
                finally:
                    enough.set()  # the threads can't be canceled: after a failure they would go on for ever
        events = await feed(server)
        for producer in producers:
            taken = [event for event in events if event["data"]["producer"] == producer.name]
            assert [event["data"]["number"] for event in taken] == list(range(len(producer.results)))
            ids = [result.id for result in producer.results if isinstance(result, PublishResult)]
            assert [event["id"] for event in taken] == ids
        await server.settled(webhook["id"])
        assert {request.headers["webhook-id"] for request in receiver.requests} == {event["id"] for event in events}
        nursery.cancel_scope.cancel()


async def refusals(server: Server) -> float:
    """Return how often the server has refused an event because its journal is full."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{server.url}/metrics")).text
    found = re.search(r'^webhookd_events_refused_total\{code="JOURNAL_FULL"\} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def test_a_full_journal_is_waited_out(tmp_path: Path) -> None:
    """Events that a full journal refuses are sent again in order when there is room, over both transports."""
    limit = "max_bytes = 16777216"
    results: dict[str, list[str]] = {}
    async with AsyncExitStack() as stack:
        port = f"port = {stack.enter_context(held_port())}"
        small = CONFIG.replace("port = 0", port).replace("[delivery]", f"{limit}\n[delivery]")
        server = await stack.enter_async_context(running(tmp_path, small))

        async def produce(name: str, target: str, **settings: Any) -> None:
            data = {"x": "x" * 250_000}
            events = [Event(type="user.created", data=data, id=f"{name}_{number}") for number in range(60)]
            send = partial(FLAVOURS["blocking"], target, events, timeout=PATIENCE_SECONDS, window=8, **settings)
            sent = await trio.to_thread.run_sync(send)
            results[name] = [result.id for result in sent if isinstance(result, PublishResult)]

        async with trio.open_nursery() as producing:
            producing.start_soon(produce, "socket", str(server.socket))
            producing.start_soon(partial(produce, "http", server.url, key=server.first_key))
            with trio.fail_after(PATIENCE_SECONDS):
                while await refusals(server) < 4:
                    await trio.sleep(0.05)
            server.config_file.write_text(small.replace(limit, ""))
            assert len(results) < 2  # together they have more than fits
            assert await server.stop() == 0
            await server.start()
        taken = [event["id"] for event in await feed(server)]
    for name in ("socket", "http"):
        assert [event_id for event_id in taken if event_id.startswith(name)] == results[name]
        assert results[name] == [f"{name}_{number}" for number in range(60)]
