"""The client's three flavours behind one blocking call, so that one test can ask the same of each."""

from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import Any, Literal

import anyio
import anyio.lowlevel

from webhookd.client import Client, Event, PublishResult, Rejected
from webhookd.client.aio import AsyncClient

Outcome = PublishResult | Rejected
Send = Callable[..., list[Outcome]]


def blocking(target: str, events: Iterable[Event], **settings: Any) -> list[Outcome]:
    """Send by the blocking client; `window` and the client's own settings are taken."""
    window = settings.pop("window", 256)
    with Client(target, **settings) as client:
        return list(client.send_many(events, window=window))


def by_loop(
    backend: Literal["trio", "asyncio"], target: str, events: Iterable[Event], **settings: Any
) -> list[Outcome]:
    """Send by the client of an event loop."""

    async def run() -> list[Outcome]:
        window = settings.pop("window", 256)
        async with AsyncClient(target, **settings) as client:
            return [result async for result in client.send_many(paced(events), window=window)]

    return anyio.run(run, backend=backend)


async def paced(events: Iterable[Event]) -> AsyncIterator[Event]:
    """Yield events as an asynchronous source, which lets others run."""
    for event in events:
        await anyio.lowlevel.checkpoint()
        yield event


FLAVOURS: dict[str, Send] = {
    "blocking": blocking,
    "trio": partial(by_loop, "trio"),
    "asyncio": partial(by_loop, "asyncio"),
}
