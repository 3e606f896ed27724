"""The blocking client in many threads and after a fork."""

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import trio

from tests.client.scripted import scripted_http
from tests.ingest.fakes import FakePublisher
from tests.ingest.producer import serving
from tests.patience import PATIENCE_SECONDS, until
from webhookd.client import Client, Event, PublishResult

THREADS = 12
EACH = 40


async def test_one_client_serves_many_threads_at_the_same_time(tmp_path: Path) -> None:
    """Calls of many threads run at the same time, each gets its own results, and each thread's order is kept."""
    publisher = FakePublisher(holds=True)
    path = tmp_path / "s.sock"
    results: dict[int, list[str]] = {}

    async with serving(path, publisher):
        with Client(path, timeout=PATIENCE_SECONDS) as client:

            def produce(thread: int) -> None:
                sent = [client.send("user.created", {}, f"t{thread}_{n}").id for n in range(EACH)]
                stream = (Event(type="user.created", data={}, id=f"s{thread}_{n}") for n in range(EACH))
                many = [given.id for given in client.send_many(stream) if isinstance(given, PublishResult)]
                results[thread] = sent + many

            async with trio.open_nursery() as nursery:
                for thread in range(THREADS):
                    nursery.start_soon(trio.to_thread.run_sync, produce, thread)
                with trio.fail_after(PATIENCE_SECONDS):
                    # None is answered yet, so as many are here as there are threads: no call waits for another's.
                    while len(publisher.events) < THREADS:
                        await trio.sleep(0.001)
                assert {str(new.id) for new in publisher.events} == {f"t{thread}_0" for thread in range(THREADS)}
                publisher.holds = False
                for position in range(THREADS):
                    publisher.complete(position)
    taken = [str(new.id) for new in publisher.events]
    assert len(taken) == len(set(taken)) == THREADS * EACH * 2
    for thread in range(THREADS):
        own = [event_id for event_id in taken if event_id[1:].split("_")[0] == str(thread)]
        assert own == results[thread] == [f"{kind}{thread}_{n}" for kind in "ts" for n in range(EACH)]


def test_threads_share_a_client_over_http() -> None:
    """Over HTTP too, each thread gets the results of its own events."""
    with (
        scripted_http() as server,
        Client(server.url, timeout=PATIENCE_SECONDS) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        asked = [f"evt_{n}" for n in range(80)]
        assert [result.id for result in pool.map(lambda event_id: client.send("a", {}, event_id), asked)] == asked


async def test_a_client_may_be_closed_while_threads_use_it(tmp_path: Path) -> None:
    """Closing doesn't affect calls in progress, and leaves no connection open when they end."""
    publisher = FakePublisher()
    async with serving(tmp_path / "s.sock", publisher) as server:
        client = Client(tmp_path / "s.sock", timeout=PATIENCE_SECONDS)
        stop = threading.Event()

        def produce() -> int:
            count = 0
            while not stop.is_set():
                client.send("user.created", {})
                count += 1
            return count

        counts: list[int] = []

        async def run() -> None:
            counts.append(await trio.to_thread.run_sync(produce))

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(run)
            for _ in range(20):
                before = len(publisher.events)
                await until(lambda before=before: len(publisher.events) > before)  # type: ignore[misc]
                client.close()
            stop.set()
        client.close()
        assert sum(counts) == len(publisher.events) > 0
        with trio.fail_after(PATIENCE_SECONDS):
            while server.connections:
                await trio.sleep(0.005)


def _send_in_child(client: Client, pipe: Connection) -> None:
    pipe.send([client.send("a", {}).id for _ in range(3)])
    client.close()


def test_a_child_process_shares_neither_connection_nor_ids() -> None:
    """After a fork, as application servers do it, parent and child never give two events the same id."""
    with scripted_http() as server, Client(server.url, timeout=PATIENCE_SECONDS) as client:
        client.send("a", {})
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        child = context.Process(target=_send_in_child, args=(client, theirs))
        child.start()
        own = [client.send("a", {}).id for _ in range(3)]
        assert ours.poll(PATIENCE_SECONDS)
        childs: list[str] = ours.recv()
        child.join(PATIENCE_SECONDS)
    random_parts = [event_id[-16:] for event_id in own + childs]
    assert len(set(random_parts)) == 6
