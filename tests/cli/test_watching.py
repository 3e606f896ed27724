"""Watching a replay: a stand-in for the server answers from the examples of the API description."""

import signal
import subprocess
import sys
from functools import partial
from http import HTTPStatus

import msgspec
import trio

from tests.patience import PATIENCE_SECONDS
from tests.receiver import Receiver, Reply, Request
from webhookd.admin.examples import EXAMPLES, PATH_PARTS

WEBHOOK, REPLAY = PATH_PARTS["webhookId"], PATH_PARTS["replayId"]
JSON = (("content-type", "application/json"),)


def example(name: str, **changes: object) -> Reply:
    document = msgspec.json.decode(msgspec.json.encode(EXAMPLES[name].answers[HTTPStatus.OK]))
    return Reply(headers=JSON, body=msgspec.json.encode(document | changes))


def answering(*replies: Reply) -> Receiver:
    """Return a server that knows the webhook and gives these answers for the replay; the last repeats."""
    asked = iter(range(1_000_000))

    def script(request: Request, _nth: int) -> Reply:
        if request.path == f"/api/webhooks/{WEBHOOK}":
            return example("getWebhook")
        assert request.path == f"/api/webhooks/{WEBHOOK}/replays/{REPLAY}"
        return replies[min(next(asked), len(replies) - 1)]

    return Receiver(script)


def watching(url: str) -> list[str]:
    return [sys.executable, "-m", "webhookd", "replay", WEBHOOK, "--watch", REPLAY, "--url", url]


async def test_an_interrupt_ends_the_watching_alone() -> None:
    """Ctrl-C is status 130, and says that the replay continues and how to watch or stop it."""
    server = answering(example("getReplay"))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        with trio.fail_after(PATIENCE_SECONDS):
            process = await trio.lowlevel.open_process(watching(server.url), stderr=subprocess.PIPE)
            await server.wait_for(4)
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            said = b"".join([chunk async for chunk in process.stderr]).decode()
            assert await process.wait() == 130
        assert f"it continues by itself: `webhookd replay {WEBHOOK} --watch {REPLAY}` watches it" in said
        assert f"--stop {REPLAY} stops it" in said
        assert "Traceback" not in said
        assert all(request.method == "GET" for request in server.requests)
        nursery.cancel_scope.cancel()


async def test_a_server_that_is_busy_is_asked_again() -> None:
    """After a 429 or 503 it waits and continues; the end is printed, and a stopped replay is status 1."""
    busy = Reply(status=429, headers=(("retry-after", "0"), *JSON), body=b"{}")
    for end, status in (("done", 0), ("stopped", 1)):
        last = example("getReplay", status=end, queued=1200)
        server = answering(example("getReplay"), busy, Reply(status=503, headers=JSON, body=b"{}"), last)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            run = partial(
                subprocess.run,
                watching(server.url),
                capture_output=True,
                text=True,
                timeout=PATIENCE_SECONDS,
                check=False,
            )
            result = await trio.to_thread.run_sync(run)
            nursery.cancel_scope.cancel()
        assert (result.returncode, result.stdout) == (status, f"{REPLAY} {end}: 1200 of 1200 queued\n"), result.stderr
