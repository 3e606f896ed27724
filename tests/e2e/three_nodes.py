"""Three server processes on one PostgreSQL."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio

from tests.e2e.harness import CONFIG, Server, running


def config_of(url: str, directory: Path, name: str) -> str:
    """Return the configuration of a node, with the master key in `directory`."""
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
    """Return how many slots each node has, in order."""
    return sorted(each["slots"] for each in (await node.get("/api/nodes"))["nodes"])
