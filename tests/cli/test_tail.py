"""`webhookd tail`: its output, following, and its end."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import trio

from tests.cli.conftest import BILLING, BROKEN, Scene, invoke, refusal
from tests.e2e.harness import running
from tests.patience import PATIENCE_SECONDS
from tests.receiver import Receiver

LINE = re.compile(
    r"\d\d:\d\d:\d\d\.\d{3} (ok|failed|retrying) +(\S+) +\d+ ms  (\S+) #(\d+)"
    r"(?: attempt (\d+))? dlv_\w{26} to (wh_\w{26})"
)


@contextmanager
def tailing(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run the command during the test; at the end it is interrupted, which is status 130 without a traceback."""
    with subprocess.Popen(
        [sys.executable, "-m", "webhookd", "tail", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        watchdog = Timer(30, process.kill)  # what it doesn't print in that time never comes
        watchdog.start()
        try:
            yield process
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            watchdog.cancel()
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in said


def test_the_last_attempts_by_filter(scene: Scene) -> None:
    """A line for each attempt; filters by webhook, type, outcome and error; --last 0 shows none."""
    last = ("tail", "--no-follow", "--last", 100)
    for arguments, word, answers, webhook in (
        (("--webhook", BILLING), "ok", {"200"}, BILLING),
        (("--event", "subscription.*"), None, {"refused"}, BROKEN),
        (("--outcome", "succeeded"), "ok", {"200"}, None),
        (("--error", "refused", "--webhook", BROKEN), None, {"refused"}, BROKEN),
    ):
        lines = scene.run(*last, *arguments).stdout.splitlines()
        found = [LINE.match(line) for line in lines]
        assert found
        assert all(found)
        assert {match[1] for match in found if match} <= ({word} if word else {"retrying", "failed"})
        assert {match[2] for match in found if match} == answers
        if webhook:
            assert {match[6] for match in found if match} == {scene.ids[webhook]}
    assert "; next " in scene.run(*last, "--error", "refused").stdout
    assert scene.run("tail", "--no-follow", "--last", 0).stdout == ""
    assert scene.run(*last, "--error", "gone").stdout == ""
    assert "--outcome" in refusal("tail", "--outcome", "maybe", status=2)
    assert "is not a pattern" in refusal("tail", "--event", "*x", status=2)


def test_json_is_the_feed_of_the_api(scene: Scene) -> None:
    """One object a line, as in GET /api/attempts."""
    lines = scene.run("tail", "--no-follow", "--json", "--last", 3, "--webhook", BILLING).stdout.splitlines()
    feed = scene.control.get(f"/api/attempts?limit=3&webhookId={scene.ids[BILLING]}", dict[str, object])
    assert [json.loads(line) for line in lines] == feed["data"]


def test_what_comes_later_is_shown_when_it_comes(scene: Scene) -> None:
    """Each attempt once and in order, over the socket and over HTTP."""
    elsewhere = ("--url", scene.url, "--key", scene.key)
    for place in (("--config", scene.config), elsewhere):
        with tailing("--last", 1, "--json", "--event", "user.*", *place) as process:
            assert process.stdout is not None
            first = json.loads(process.stdout.readline())
            assert first["event"].startswith("user.")
            ids = [json.loads(scene.run("send", "--type", "user.updated", "--data", "{}").stdout)["id"] for _ in "123"]
            assert [json.loads(process.stdout.readline())["eventId"] for _ in ids] == ids


async def test_a_restart_is_waited_for(tmp_path: Path) -> None:
    """If the server stops and starts, both are reported, and later attempts are shown."""
    async with running(tmp_path) as server, trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver().run)
        await server.webhook(receiver.url)
        send = ("send", "--type", "user.created", "--data", "{}", "--config", server.config_file)
        with tailing("--json", "--config", server.config_file) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            await trio.to_thread.run_sync(lambda: invoke(*send, "--id", "before"))
            before = await trio.to_thread.run_sync(process.stdout.readline)
            assert json.loads(before)["eventId"] == "before"
            await server.stop()
            assert "; waiting for it" in await trio.to_thread.run_sync(process.stderr.readline)
            await server.start()
            await trio.to_thread.run_sync(lambda: invoke(*send, "--id", "after"))
            after = await trio.to_thread.run_sync(process.stdout.readline)
            assert json.loads(after)["eventId"] == "after"
            assert "the server is back" in await trio.to_thread.run_sync(process.stderr.readline)
        nursery.cancel_scope.cancel()
