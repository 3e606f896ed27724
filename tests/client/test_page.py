"""The examples of docs/clients.md, run against a real server."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import trio

from tests.client.feed import feed
from tests.e2e.harness import Server, running

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()


def examples(server: Server) -> list[str]:
    """Return the page's programs, with this server's addresses in place of the page's."""
    places = {
        "/run/webhookd/ingest.sock": str(server.socket),
        "https://webhookd.example.com": server.url,
        "whd_…": server.first_key,
    }
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    for shown, here in places.items():
        blocks = [block.replace(shown, here) for block in blocks]
    return blocks


def run(example: str) -> None:
    names: dict[str, Any] = {}
    exec(compile(example, "docs/clients.md", "exec"), names)  # noqa: S102 - the page's own code is what is tested
    if "main" in names:
        for backend in ("trio", "asyncio"):
            anyio.run(names["main"], backend=backend)


async def test_the_examples_of_the_page_send_what_they_say(tmp_path: Path) -> None:
    """Each example runs unchanged, the asynchronous one with both event loops."""
    async with running(tmp_path) as server:
        programs = examples(server)
        assert len(programs) == 4
        for program in programs:
            await trio.to_thread.run_sync(run, program)
        events = await feed(server)
    assert [event["data"]["id"] for event in events[:4]] == ["usr_1"] * 4
    assert events[1]["id"] == "signup-4711"
    assert [event["id"] for event in events[4:]] == [f"import-{n}" for n in range(1000)]


def test_importing_the_client_brings_no_event_loop_and_no_http() -> None:
    """The socket client imports neither httpx nor anyio, and neither does verification."""
    unwanted = ("trio", "anyio", "asyncio", "httpx", "quart", "peewee")
    code = f"import sys, webhookd.client, webhookd.verify; print([m for m in {unwanted} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
