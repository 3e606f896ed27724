"""The commands of docs/recipes/shell.md send events, with the programs that the page names."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.client.feed import feed
from tests.e2e.harness import Server, running
from tests.patience import PATIENCE_SECONDS
from tests.ports import held_port
from tests.recipes.pages import DOCS, write
from tests.recipes.processes import BIN

PAGE = (DOCS / "recipes" / "shell.md").read_text()


def has_openbsd_nc() -> bool:
    """Whether `nc` has the options -N and -U; other netcats have other options."""
    if shutil.which("nc") is None:
        return False
    usage = subprocess.run(["nc", "-h"], capture_output=True, text=True, check=False)
    return "OpenBSD" in usage.stdout + usage.stderr


needs_nc = pytest.mark.skipif(not has_openbsd_nc(), reason="nc of netcat-openbsd is not installed")


Completed = subprocess.CompletedProcess[str]


async def run(command: str, directory: Path, environ: Mapping[str, str] | None = None) -> Completed:
    path = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return await trio.to_thread.run_sync(
        partial(
            subprocess.run,
            ["sh", "-c", command],
            cwd=directory,
            env=os.environ | path | dict(environ or {}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    )


def commands() -> list[str]:
    """Return the commands of the page, without the script."""
    return [block for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if not block.startswith("# send-events")]


def events(count: int) -> str:
    return "".join(json.dumps({"type": "user.created", "data": {"n": n}, "id": f"n{n}"}) + "\n" for n in range(count))


async def event_ids(server: Server) -> list[str]:
    return [event["id"] for event in await feed(server)]


@needs_nc
async def test_the_first_command_sends_an_event(tmp_path: Path) -> None:
    """The command with nc gets the result that the page shows, and a duplicate when it runs again."""
    command = commands()[0].replace("/run/webhookd/ingest.sock", "ingest.sock")
    shown = json.loads(PAGE.split("```json\n")[1].split("```")[0])
    async with running(tmp_path) as server:
        with held_port() as port:
            await server.webhook(f"http://127.0.0.1:{port}/hook")
        first = await run(command, tmp_path)
        assert json.loads(first.stdout) == shown, first.stderr
        again = await run(command, tmp_path)
        assert json.loads(again.stdout) == shown | {"duplicate": True}
        assert await event_ids(server) == ["signup-4711"]


@needs_nc
async def test_the_script_waits_for_the_server_and_sends_each_line_once(tmp_path: Path) -> None:
    """The script waits for the server and prints a result for each line; a second run creates only duplicates."""
    assert write("shell.md", tmp_path) == ["send-events.sh"]
    (tmp_path / "events.ndjson").write_text(events(300))
    results: list[Completed] = []

    async def send() -> None:
        results.append(await run("sh send-events.sh events.ndjson ingest.sock", tmp_path))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        async with running(tmp_path) as server:
            with trio.fail_after(PATIENCE_SECONDS):
                while not results:
                    await trio.sleep(0.05)
            await send()
            assert await event_ids(server) == [f"n{n}" for n in range(300)]
    for result, duplicate in zip(results, (False, True), strict=True):
        assert result.returncode == 0, result.stderr
        answers = [json.loads(line) for line in result.stdout.splitlines()]
        assert [answer["id"] for answer in answers] == [f"n{n}" for n in range(300)]
        assert {answer["duplicate"] for answer in answers} == {duplicate}


@needs_nc
async def test_the_script_fails_for_a_refused_line(tmp_path: Path) -> None:
    """A refused line makes the script fail and prints the error; the other lines are accepted."""
    write("shell.md", tmp_path)
    (tmp_path / "events.ndjson").write_text(events(1) + '{"type": "Not A Type", "data": {}, "id": "bad"}\n')
    async with running(tmp_path) as server:
        result = await run("sh send-events.sh events.ndjson ingest.sock", tmp_path)
        assert await event_ids(server) == ["n0"]
    assert result.returncode == 1
    assert "VALIDATION_ERROR" in result.stdout


async def test_the_other_commands_send_the_file_too(tmp_path: Path) -> None:
    """`webhookd send` and curl send the file as the page describes."""
    (tmp_path / "events.ndjson").write_text(events(3))
    _, send, curl = commands()
    async with running(tmp_path) as server:
        sent = await run(send.replace("/run/webhookd/ingest.sock", "ingest.sock"), tmp_path)
        assert [json.loads(line)["id"] for line in sent.stdout.splitlines()] == ["n0", "n1", "n2"], sent.stderr
        if shutil.which("curl") is None:
            pytest.skip("curl is not installed")
        command = curl.replace("http://127.0.0.1:8080", server.url)
        again = await run(command, tmp_path, {"WEBHOOKD_KEY": server.first_key})
        assert [json.loads(line)["duplicate"] for line in again.stdout.splitlines()] == [True] * 3, again.stderr
        assert await event_ids(server) == ["n0", "n1", "n2"]
