"""The asynchronous client: many tasks on one connection, cancellation, back-pressure and closing."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import anyio
import pytest
import trio

from tests.client.scripted import Reply, accepted, scripted, scripted_http
from tests.ingest.fakes import FakePublisher
from tests.ingest.producer import eventually, serving
from tests.patience import PATIENCE_SECONDS
from webhookd.client import Event, PublishResult, Rejected, ServerUnavailable
from webhookd.client.aio import AsyncClient
from webhookd.client.outbox import MOST_UNANSWERED

SHORT_SECONDS = 1.5  # until it is given up, and plenty for the answers that come


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.sock"


async def test_every_field_reaches_the_publisher(path: Path) -> None:
    """Every field of the caller's event reaches the server."""
    publisher = FakePublisher()
    async with serving(path, publisher), AsyncClient(path, timeout=PATIENCE_SECONDS) as client:
        await client.send(
            "user.created",
            b'{ "a": 1 }',
            "evt_1",
            timestamp="2025-01-15T10:30:00Z",
            organization_id="org_1",
            ordering_key="k",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        with pytest.raises(Rejected, match="type"):
            await client.send("Not A Type", {})
        with pytest.raises(ValueError, match="JSON"):
            await client.send("user.created", {"n": float("nan")})
    (new,) = publisher.events
    assert (new.id, bytes(new.data), new.timestamp) == ("evt_1", b'{ "a": 1 }', "2025-01-15T10:30:00Z")
    assert (new.organization_id, new.ordering_key) == ("org_1", "k")


async def test_many_tasks_are_pipelined_on_one_connection(path: Path) -> None:
    """Events of many tasks are all sent before the first is answered, on one connection."""
    publisher = FakePublisher(holds=True)
    results: list[str] = []

    async with serving(path, publisher) as server, AsyncClient(path, timeout=PATIENCE_SECONDS) as client:

        async def send(number: int) -> None:
            results.append((await client.send("user.created", {}, f"evt_{number}")).id)

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(send, number)
            await eventually(lambda: len(publisher.events) == 200)
            assert server.connections == 1
            assert results == []
            for position in range(200):
                publisher.complete(position)
    assert sorted(results) == sorted(f"evt_{number}" for number in range(200))


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_tasks_share_requests_over_http(backend: str) -> None:
    """During a request the events of other tasks gather for the next one."""

    async def run(url: str) -> None:
        async with AsyncClient(url, timeout=PATIENCE_SECONDS) as client, anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(client.send, "user.created", {}, f"evt_{number}")

    with scripted_http() as server:
        anyio.run(run, server.url, backend=backend)
    assert sorted(str(line["id"]) for lines in server.requests for line in lines) == sorted(
        f"evt_{number}" for number in range(100)
    )
    assert len(server.requests) <= 3


async def test_a_source_without_end_is_held_back(path: Path) -> None:
    """If the server is silent, the source is read up to the window, and the client keeps no more than its limit."""
    publisher = FakePublisher(holds=True)
    asked: list[int] = []

    def source() -> Iterator[Event]:
        for number in count():
            asked.append(number)
            yield Event(type="user.created", data={})

    async with serving(path, publisher), AsyncClient(path, timeout=PATIENCE_SECONDS) as client:

        async def produce(window: int) -> None:
            async for _ in client.send_many(source(), window=window):
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce, 10)
            await eventually(lambda: len(publisher.events) == 10)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert len(asked) == 10
            for _ in range(2):
                nursery.start_soon(produce, MOST_UNANSWERED)
            await eventually(lambda: len(publisher.events) == MOST_UNANSWERED)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert len(publisher.events) == MOST_UNANSWERED
            for position in range(5):
                publisher.complete(position)
            await eventually(lambda: len(publisher.events) > MOST_UNANSWERED)
            nursery.cancel_scope.cancel()


async def test_cancelled_caller_takes_nothing_from_the_others(path: Path) -> None:
    """After a caller has left, the results of later events still go to the right callers."""
    publisher = FakePublisher(holds=True)
    results: list[PublishResult] = []
    async with (
        serving(path, publisher),
        AsyncClient(path, timeout=PATIENCE_SECONDS) as client,
        trio.open_nursery() as nursery,
    ):

        async def send(event_id: str) -> None:
            results.append(await client.send("user.created", {}, event_id))

        with trio.CancelScope() as leaving:
            nursery.start_soon(send, "evt_stays")
            await eventually(lambda: len(publisher.events) == 1)
            async with trio.open_nursery() as inner:
                inner.start_soon(send, "evt_leaves")
                await eventually(lambda: len(publisher.events) == 2)
                leaving.cancel()
        nursery.start_soon(send, "evt_late")
        await eventually(lambda: len(publisher.events) == 3)
        for position in range(3):
            publisher.complete(position)
    assert {result.id for result in results} == {"evt_stays", "evt_late"}


async def test_a_stream_left_early_does_not_confuse_the_next_call(path: Path) -> None:
    """Results of an abandoned stream are never taken for those of another event."""
    publisher = FakePublisher(holds=True)
    async with serving(path, publisher), AsyncClient(path, timeout=PATIENCE_SECONDS) as client:
        stream = client.send_many(Event(type="user.created", data={}, id=f"evt_{n}") for n in range(3))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.__anext__)
            await eventually(lambda: len(publisher.events) == 3)
            publisher.complete(0)
        await stream.aclose()  # type: ignore[attr-defined]  # an asynchronous generator, declared as an iterator
        async with trio.open_nursery() as nursery:
            found: list[str] = []

            async def send() -> None:
                found.append((await client.send("user.created", {}, "evt_x")).id)

            nursery.start_soon(send)
            await eventually(lambda: len(publisher.events) == 4)
            for position in (1, 2, 3):
                publisher.complete(position)
        assert found == ["evt_x"]


async def test_silent_server_is_left_for_a_new_connection(path: Path) -> None:
    """When an event times out, its connection is closed, and later events are sent on another one."""
    silent = FakePublisher(holds=True)
    async with serving(path, silent) as server, AsyncClient(path, timeout=SHORT_SECONDS) as client:
        with pytest.raises(ServerUnavailable, match="evt_1"):
            await client.send("user.created", {}, "evt_1")
        silent.holds = False
        assert (await client.send("user.created", {}, "evt_2")).id == "evt_2"
        assert server.connections == 2  # the first still waits for its event
        assert [new.id for new in silent.events] == ["evt_1", "evt_2"]


async def test_callers_left_behind_by_a_closed_client_are_told(path: Path) -> None:
    """A task that waits when the client is closed gets an error with the id of its event."""
    publisher = FakePublisher(holds=True)
    told: list[str] = []
    async with (
        serving(path, publisher),
        trio.open_nursery() as nursery,
        AsyncClient(path, timeout=PATIENCE_SECONDS) as client,
    ):

        async def send() -> None:
            with pytest.raises(ServerUnavailable, match="the client was closed") as caught:
                await client.send("user.created", {}, "evt_1")
            told.append(caught.value.event_id)

        nursery.start_soon(send)
        await eventually(lambda: len(publisher.events) == 1)
    assert told == ["evt_1"]
    with pytest.raises(RuntimeError, match="async with"):
        await client.send("user.created", {})


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_the_callers_own_error_leaves_as_it_is(path: Path, backend: str) -> None:
    """An error raised inside `async with` isn't wrapped in a group."""

    async def run() -> None:
        async with AsyncClient(path):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        anyio.run(run, backend=backend)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_cancellation_passes_through_the_client(path: Path, backend: str) -> None:
    """A caller that is canceled while there is no server returns at once, without an error."""

    async def run() -> bool:
        with anyio.CancelScope() as leaving:
            leaving.deadline = anyio.current_time() + 0.1  # by then it waits
            async with AsyncClient(path, timeout=PATIENCE_SECONDS) as client:
                await client.send("a", {})
        return leaving.cancelled_caught

    assert anyio.run(run, backend=backend)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_lines_lost_on_an_idle_connection_cost_nothing(path: Path, backend: str) -> None:
    """A restart of the server between two calls is not noticed."""

    async def run() -> list[str]:
        async with AsyncClient(path, timeout=PATIENCE_SECONDS) as client:
            with scripted(path):
                first = await client.send("a", {}, "evt_1")
            path.unlink()
            with scripted(path, accepted):
                return [first.id, (await client.send("a", {}, "evt_2")).id]

    assert anyio.run(run, backend=backend) == ["evt_1", "evt_2"]


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_proxy_without_a_server_behind_it_is_waited_for(backend: str) -> None:
    """A 502 during a restart of the server is not an error for the caller."""

    async def run(url: str) -> PublishResult:
        async with AsyncClient(url, timeout=PATIENCE_SECONDS) as client:
            return await client.send("a", {}, "evt_1")

    with scripted_http(lambda nth, _lines: Reply() if nth > 1 else Reply(status=502, body=b"<html>")) as server:
        assert anyio.run(run, server.url, backend=backend).id == "evt_1"
    assert len(server.requests) == 3
