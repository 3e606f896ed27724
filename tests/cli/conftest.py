"""A server with two webhooks for commands that read, and a function that runs commands in this process."""

import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from tests.e2e.harness import CONFIG, PROGRAM
from tests.forked import Process
from tests.patience import wait_until
from webhookd.base.errors import WebhookdError
from webhookd.cli import program
from webhookd.cli.control import Control
from webhookd.cli.receiver import LocalReceiver
from webhookd.client import Client

BILLING, BROKEN = "billing", "broken"
EVENTS, FAILURES = 4, 2


def invoke(
    *arguments: object, environ: Mapping[str, str] | None = None, stdin: str | None = None, status: int = 0
) -> Result:
    """Run a command in this process, as `main` does, and check its status: a process takes a second for each."""
    result = CliRunner().invoke(program, [str(each) for each in arguments], input=stdin, env=dict(environ or {}))
    error = result.exception
    found = error.exit_status if isinstance(error, WebhookdError) else result.exit_code
    assert found == status, (arguments, result.output, error)
    return result


def refusal(*arguments: object, status: int = 1) -> str:
    """Return the error message of a command that fails."""
    result = invoke(*arguments, status=status)
    return str(result.exception) if isinstance(result.exception, WebhookdError) else result.output


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A running server: `billing` gets user events and accepts them, `broken` gets subscription events and refuses."""

    config: Path
    url: str
    key: str
    control: Control
    receiver: str
    ids: dict[str, str]

    def run(self, *arguments: object, **settings: Any) -> Result:
        """Run a command with this server."""
        return invoke(*arguments, "--config", self.config, **settings)

    def json(self, *arguments: object, **settings: Any) -> Any:
        """Run a command with --json and return its document."""
        return msgspec.json.decode(self.run(*arguments, "--json", **settings).stdout)

    def settled(self, name: str) -> bool:
        """Whether a webhook has no queued delivery."""
        health = self.control.get(f"/api/webhooks/{self.ids[name]}", dict[str, Any])["health"]
        return not (health["queued"] or health["parked"] or health["sending"])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("scene")
    config = directory / "config.toml"
    config.write_text(CONFIG.replace("retry_delays = [0.05]", "retry_delays = [0.05]\nmax_refusals = 2"))
    receiver = LocalReceiver("127.0.0.1", 0, lambda request: 422 if request.path == f"/{BROKEN}" else 200)
    receiver.start()
    command = [*PROGRAM, "serve", "--config", str(config)]
    with Process(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        key, ready = (server.stdout.readline() for _ in range(2))
        try:
            yield _furnished(
                Scene(
                    config=config,
                    url=ready.split("API ")[1].split(",")[0],
                    key=key.split(": ")[1].strip(),
                    control=Control(directory / "control.sock"),
                    receiver=receiver.url,
                    ids={},
                )
            )
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
            receiver.stop()


def _furnished(scene: Scene) -> Scene:
    """Create the two webhooks and send the first events, which end before a test starts."""
    for name, patterns in ((BILLING, ["user.*"]), (BROKEN, ["subscription.*"])):
        wanted = {"url": f"{scene.receiver}/{name}", "events": patterns, "description": name}
        scene.ids[name] = scene.control.post("/api/webhooks", wanted, dict[str, Any])["id"]
    with Client(scene.config.parent / "ingest.sock") as client:
        for number in range(EVENTS):
            client.send("user.created", {"number": number, "name": "Zoë"}, f"seed-{number}")
        for number in range(FAILURES):
            client.send("subscription.canceled", {"number": number}, f"lost-{number}")
    for name in (BILLING, BROKEN):
        wait_until(partial(scene.settled, name))
    return scene
