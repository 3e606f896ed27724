"""Three server processes on one PostgreSQL, of which one is killed or stopped in the middle of its work."""

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.e2e.harness import CONFIG, Server, running, submit
from tests.long import long
from tests.patience import PATIENCE_SECONDS
from tests.receiver import Receiver

WEBHOOKS = 9
BEFORE, AFTER = 60, 60
PUBLISHERS = 2  # of three nodes; the third one is killed


def config_of(url: str, directory: Path, name: str) -> str:
    journal = f'url = "{url}"\nnode_name = "{name}"\n[secrets]\nmaster_key_file = "{directory / "master.key"}"\n'
    return CONFIG.replace('path = "webhookd.db"\n', journal)


@asynccontextmanager
async def three(directory: Path, url: str) -> AsyncIterator[list[Server]]:
    """Run three nodes during the block, each with a third of the slots."""
    async with AsyncExitStack() as stack:
        nodes = []
        for number in range(3):
            own = directory / f"node-{number}"
            own.mkdir()
            nodes.append(await stack.enter_async_context(running(own, config_of(url, directory, own.name))))
        while await shares(nodes[0]) not in ([85, 85, 86], [84, 86, 86]):
            await trio.sleep(0.1)
        yield nodes


async def shares(node: Server) -> list[int]:
    return sorted(each["slots"] for each in (await node.get("/api/nodes"))["nodes"])


async def publish(node: Server, name: str, first: int, number: int) -> None:
    """Publish events one after the other, each once the one before it is acknowledged."""
    for at in range(first, first + number):
        event = {"type": "user.created", "id": f"{name}-{at}", "data": {}}
        [result] = await trio.to_thread.run_sync(partial(submit, node.socket, [event]))
        assert result["ok"], result


def first_of_each(receiver: Receiver, path: str) -> list[str]:
    """Return the ids that a webhook got, without repeats."""
    ids = [request.headers["webhook-id"] for request in receiver.requests if request.path == path]
    return list(dict.fromkeys(ids))


@pytest.mark.parametrize(
    "number", long([signal.SIGKILL, signal.SIGSTOP], is_long=lambda number: number == signal.SIGSTOP)
)
async def test_the_webhooks_of_a_node_that_is_gone_go_on(tmp_path: Path, empty_database: str, number: int) -> None:
    """Others take over what it drove: nothing acknowledged is lost, and each producer's events arrive in order."""
    with trio.fail_after(2 * PATIENCE_SECONDS):
        async with three(tmp_path, empty_database) as nodes, trio.open_nursery() as nursery:
            receiver = await nursery.start(Receiver().run)
            for at in range(WEBHOOKS):
                await nodes[at % 3].webhook(f"{receiver.url}/{at}")
            async with trio.open_nursery() as publishing:
                for node in nodes[:PUBLISHERS]:
                    publishing.start_soon(publish, node, node.directory.name, 0, BEFORE)
            gone = nodes[2].process
            assert gone is not None
            gone.send_signal(number)
            async with trio.open_nursery() as publishing:
                for node in nodes[:PUBLISHERS]:
                    publishing.start_soon(publish, node, node.directory.name, BEFORE, AFTER)
            for at in range(WEBHOOKS):
                while len(first_of_each(receiver, f"/{at}")) < PUBLISHERS * (BEFORE + AFTER):
                    await trio.sleep(0.05)
            for at in range(WEBHOOKS):
                arrived = first_of_each(receiver, f"/{at}")
                for node in nodes[:PUBLISHERS]:
                    name = node.directory.name
                    assert [each for each in arrived if each.startswith(name)] == [
                        f"{name}-{number}" for number in range(BEFORE + AFTER)
                    ]
            repeats = len(receiver.requests) - WEBHOOKS * PUBLISHERS * (BEFORE + AFTER)
            assert repeats <= WEBHOOKS  # each webhook has one request in flight
            assert await shares(nodes[0]) == [128, 128]
            nursery.cancel_scope.cancel()
