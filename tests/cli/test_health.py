"""`webhookd health` with a server on another port, a draining one, and none."""

import signal
from functools import partial
from pathlib import Path

import trio

from tests.cli.conftest import invoke, refusal
from tests.e2e.harness import running
from tests.receiver import Act, Receiver, Reply, always
from webhookd.cli.api import Refused
from webhookd.client import Client


async def test_it_asks_the_control_socket(tmp_path: Path) -> None:
    """It works on any port; status 1 and a reason while the server drains or is stopped."""
    async with running(tmp_path) as server, trio.open_nursery() as nursery:
        config = server.config_file

        async def ask(*arguments: str) -> str:
            said = await trio.to_thread.run_sync(partial(invoke, "health", "--config", config, *arguments))
            return said.output

        async def refused() -> str:
            return await trio.to_thread.run_sync(partial(refusal, "health", "--config", config))

        async def drains() -> bool:
            try:
                await server.get("/readyz")
            except Refused as answer:
                return answer.status == 503
            return False

        assert await ask() == "ok\n"
        assert await ask("--json", "--timeout", "30") == '{"status": "ok", "reasons": []}\n'
        receiver = await nursery.start(Receiver(always(Reply(act=Act.HANG))).run)
        await server.webhook(receiver.url)
        with Client(server.socket) as producer:
            producer.send("user.created", {})
        await receiver.wait_for(1)
        # The request in flight keeps it draining.
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        with trio.fail_after(60):
            while not await drains():
                await trio.sleep(0.01)
        assert await refused() == "the server accepts no work now: it is starting or stopping"
        nursery.cancel_scope.cancel()
    assert await refused() == f"no server listens on {tmp_path / 'control.sock'}"
