"""The API is checked against its own OpenAPI document by schemathesis, for each role, over TCP."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.e2e.harness import CONFIG, PROGRAM
from tests.forked import Process
from tests.long import long

# All but positive_data_acceptance: a URL, a cursor or a catalogue's name can have the right form and still be refused,
# and the same Idempotency-Key with another body is.
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "negative_data_rejection", "missing_required_header", "unsupported_method",
    "allow_header_conformance", "use_after_free", "ensure_resource_availability", "ignored_auth",
)  # fmt: skip
OPERATIONS = 20
# Its own list of refusals lacks this one: what it makes of a parameter may be longer than a request line.
SETTINGS = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 412, 413, 414, 415, 422, 428, 429, 431]
"""


@dataclass(frozen=True)
class Described:
    """A server, its OpenAPI document in a file, and a key for each role."""

    url: str
    document: Path
    keys: dict[str, str]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Described]:
    directory = tmp_path_factory.mktemp("described")
    # One port that is nobody's: no generated URL makes the server look up a name or dial another.
    config = CONFIG.replace("ports = []", "ports = [9]").replace("retry_delays = [0.05]", "retry_delays = [600]")
    (directory / "config.toml").write_text(config)
    with (directory / "log").open("wb") as log:
        command = [*PROGRAM, "serve", "--config", str(directory / "config.toml")]
        process = Process(command, stdout=subprocess.PIPE, stderr=log)
    with process:
        assert process.stdout is not None
        keys = {"admin": process.stdout.readline().split(": ")[1].strip()}
        url = process.stdout.readline().split("API ")[1].split(",")[0]
        with httpx.Client(
            base_url=url, headers={"authorization": f"Bearer {keys['admin']}"}, trust_env=False
        ) as client:
            for role in ("operator", "viewer", "ingest"):
                keys[role] = client.post("/api/keys", json={"role": role}).json()["key"]
            document = directory / "openapi.json"
            text = client.get("/api/openapi.json").json()
            # It can send no lines, and takes an example of them for its own mistake.
            del text["paths"]["/api/events"]["post"]["requestBody"]["content"]["application/x-ndjson"]["example"]
            (directory / "schemathesis.toml").write_text(SETTINGS)
            document.write_text(json.dumps(text, separators=(",", ":")))
        yield Described(url, document, keys)
        process.terminate()
        assert process.wait() == 0
    said = (directory / "log").read_text()
    assert "http.request_failed" not in said
    assert "Traceback" not in said


def run(described: Described, role: str, phases: str, examples: int, *options: str) -> str:
    """Run schemathesis with one role; return its output, which a failure also shows."""
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", str(described.document), "--url", described.url,
        "--checks", ",".join(CHECKS), "--phases", phases, "--max-examples", str(examples), "--seed", "1",
        "--no-color", "--warnings", "off", "--generation-database", "none",
    ]  # fmt: skip
    command += options
    if role != "nobody":
        command += ["--header", f"Authorization: Bearer {described.keys[role]}"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=described.document.parent,
        env=os.environ | {"CI": "1"},
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("role", ["viewer", "operator", "ingest", "nobody"])
def test_the_api_is_as_described_for_each_role(described: Described, role: str) -> None:
    """All answers to a role have the documented status, headers and body."""
    said = run(described, role, "fuzzing", 3)
    tested = re.search(r"Tested: (\d+)", said)
    assert tested is not None, said
    assert int(tested[1]) >= OPERATIONS


@pytest.mark.parametrize("phases", long(["examples,fuzzing", "coverage,fuzzing,stateful"], lambda it: "coverage" in it))
def test_the_api_is_as_described_for_an_admin(described: Described, phases: str) -> None:
    """The same for an admin; the long run also tests the edges of every parameter and sequences of calls."""
    said = run(described, "admin", phases, 5 if "coverage" in phases else 1)
    tested = re.search(r"Tested: (\d+)", said)
    assert tested is not None, said
    assert int(tested[1]) >= OPERATIONS


def test_a_description_that_is_wrong_is_found(described: Described, tmp_path: Path) -> None:
    """The same run fails against a document with other content."""
    text = described.document.read_text().replace(
        '"status":{"type":"string","default":"ok"}', '"status":{"type":"null"}'
    )
    assert text != described.document.read_text()
    wrong = tmp_path / "openapi.json"
    wrong.write_text(text)
    with pytest.raises(AssertionError, match="Response violates schema"):
        run(Described(described.url, wrong, described.keys), "admin", "fuzzing", 1, "--include-path", "/healthz")
