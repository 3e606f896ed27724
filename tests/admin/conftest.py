"""One server process for the tests of the API, a client with its admin key, and receivers it may send to."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.e2e.harness import CONFIG, PROGRAM
from tests.forked import Process


class Api:
    """The server's API: `admin` uses the first key, `client` any other."""

    def __init__(self, url: str, key: str, directory: Path) -> None:
        self.url = url
        self.first_key = key
        self.directory = directory
        self._clients: list[httpx.Client] = []
        self.admin = self.client(key)

    def client(self, key: str | None) -> httpx.Client:
        """Return a client that sends this key."""
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        client = httpx.Client(base_url=self.url, headers=headers, trust_env=False)
        self._clients.append(client)
        return client

    def close(self) -> None:
        """Close every client."""
        for client in self._clients:
            client.close()

    def key(self, role: str, **fields: object) -> httpx.Client:
        """Return a client with a new key."""
        answer = self.admin.post("/api/keys", json={"role": role, **fields})
        assert answer.status_code == 201, answer.text
        return self.client(answer.json()["key"])

    def webhook(self, url: str = "http://127.0.0.1:9/", **fields: object) -> dict[str, object]:
        """Create a webhook; port 9 answers nothing."""
        answer = self.admin.post("/api/webhooks", json={"url": url, "events": ["*"], **fields})
        assert answer.status_code == 201, answer.text
        made: dict[str, object] = answer.json()
        return made


@contextmanager
def serving(directory: Path, config: str) -> Iterator[Api]:
    """Run a server in `directory`; at the end it must stop cleanly and must not have logged a failure."""
    (directory / "config.toml").write_text(config)
    with (directory / "log").open("wb") as log:
        command = [*PROGRAM, "serve", "--config", str(directory / "config.toml")]
        process = Process(command, stdout=subprocess.PIPE, stderr=log)
    with process:
        assert process.stdout is not None
        key = process.stdout.readline().split(": ")[1].strip()
        url = process.stdout.readline().split("API ")[1].split(",")[0]
        api = Api(url, key, directory)
        yield api
        api.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    said = (directory / "log").read_text()
    assert "http.request_failed" not in said
    assert "Traceback" not in said


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    # Port 9 is another protocol's, which an explicit list of ports may still allow.
    config = CONFIG.replace("ports = []", "ports = [9, 443]").replace("retry_delays = [0.05]", "retry_delays = [600]")
    with serving(tmp_path_factory.mktemp("api"), config) as api:
        yield api
