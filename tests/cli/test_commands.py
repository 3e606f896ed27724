"""Each command: its output and its exit status, with and without a server."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import forked
from tests.admin.inprocess import AUDIENCE, ISSUER, by_hand, full_claims
from tests.e2e.harness import CONFIG, PROGRAM
from webhookd.base.models import Credentials, SignatureChoice
from webhookd.base.secret import Secret
from webhookd.cli.control import Control
from webhookd.cli.init import template
from webhookd.client import Client
from webhookd.delivery.signing import Signer

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def run(*arguments: object, stdin: str | None = None, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `webhookd` with these arguments and check its status."""
    result = forked.run([*PROGRAM, *map(str, arguments)], stdin=stdin or "")
    assert result.returncode == status, result.stdout + result.stderr
    return result


@contextmanager
def running(*arguments: object, until: str) -> Iterator[forked.Process]:
    """Run `webhookd` during the block, which starts when it has printed a line with `until`."""
    command = [*PROGRAM, *map(str, arguments)]
    with forked.Process(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        line = ""
        while until not in line:
            line = process.stdout.readline()
            assert line, "it ended"
        process.ready = line  # type: ignore[attr-defined]  # for the test
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    return path


def test_demo_shows_the_whole_path() -> None:
    """The demo needs nothing, shows every delivery and ends with 0."""
    shown = run("demo").stdout
    assert "every signature verified, every event in order" in shown
    assert shown.count("user.created") == 1
    rows = [line for line in shown.splitlines() if line.count(" 200 ") == 2]
    assert len(rows) == 10


def test_init_makes_all_that_serve_needs_and_overwrites_nothing(tmp_path: Path) -> None:
    """`init` writes the commented configuration, key, journal and one admin key; a second run keeps them."""
    directory = tmp_path / "new" / "place"
    first = run("init", directory).stdout
    assert (directory / "config.toml").read_text() == template()
    key = re.search(r"admin key \(shown once\): (whd_admin_\S+)", first)
    assert key is not None
    assert (directory / "var/master.key").stat().st_mode & 0o777 == 0o600
    (directory / "config.toml").write_text("[server]\nport = 0\n")
    second = run("init", directory).stdout
    assert "kept" in second
    assert "whd_admin_" not in second
    assert (directory / "config.toml").read_text() == "[server]\nport = 0\n"


def test_check_config_says_what_is_wrong_or_in_force(tmp_path: Path, config: Path) -> None:
    """A valid file is printed with all values; an invalid one is status 2 and one line with file, line and key."""
    assert "[delivery]" in run("check-config", "--config", config).stdout
    bad = tmp_path / "bad.toml"
    bad.write_text("[server]\nprot = 1\n")
    result = run("check-config", "--config", bad, status=2)
    assert result.stdout == ""
    assert result.stderr == f"webhookd: {bad}:2: there is no key server.prot; did you mean port?\n"
    assert run("serve", "--config", bad, status=2).stderr == result.stderr
    assert "No such file" in run("check-config", "--config", tmp_path / "none.toml", status=2).stderr


def test_wrong_usage_is_status_2(config: Path) -> None:
    """Unknown commands, options and roles are refused with a hint."""
    assert "No such command" in run("srve", status=2).stderr
    assert "--help" in run("serve", "--prot", status=2).stderr
    assert "admin" in run("keys", "create", "--role", "king", "--config", config, status=2).stderr
    assert "--data" in run("send", "--type", "user.created", "--config", config, status=2).stderr
    for command in ("serve", "init", "check-config", "keys", "send", "listen", "demo", "verify", "doctor"):
        assert f"webhookd {command}" in run(command, "--help").stdout


def test_keys_with_and_without_a_server(config: Path) -> None:
    """Keys are created, listed and revoked in the journal, and through a running server, which applies them at once."""
    offline = run("keys", "create", "--role", "viewer", "--name", "off", "--config", config).stdout.strip()
    assert offline.startswith("whd_viewer_")
    with running("serve", "--config", config, until=" ready: ") as server:
        url = server.ready.split("API ")[1].split(",")[0]  # type: ignore[attr-defined]  # see `running`
        made = run("keys", "create", "--role", "operator", "--organization", "acme", "--config", config)
        listed = run("keys", "list", "--config", config).stdout
        assert "off" in listed
        assert "acme" in listed
        for key in (offline, made.stdout.strip()):
            assert status_of(url, key) == 200
        key_id = re.search(r"key_\w+", made.stderr)
        assert key_id is not None
        run("keys", "revoke", key_id[0], "--config", config)
        assert status_of(url, made.stdout.strip()) == 401
        assert "there is no API key" in run("keys", "revoke", key_id[0], "--config", config, status=1).stderr
    listed = run("keys", "list", "--config", config).stdout
    assert "acme" not in listed
    # The server wrote down the last use when it ended.
    assert {line.split()[-1] == "-" for line in listed.splitlines() if " off " in line} == {False}


def test_tokens_are_taken_by_a_running_server(config: Path, tmp_path: Path) -> None:
    """A token of the configured sign-in is accepted; an invalid key file prevents the server's start."""
    secret = tmp_path / "jwt.secret"
    secret.write_bytes(b"of at least 32 bytes, as HS256 wants it")
    secret.chmod(0o600)
    config.write_text(CONFIG + f'[jwt]\nsecret_file = "jwt.secret"\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\n')
    with running("serve", "--config", config, until=" ready: ") as server:
        url = server.ready.split("API ")[1].split(",")[0]  # type: ignore[attr-defined]  # see `running`
        assert status_of(url, by_hand({"alg": "HS256"}, full_claims(role="viewer"), secret.read_bytes())) == 200
        assert status_of(url, by_hand({"alg": "HS256"}, full_claims(role="viewer"), b"another secret")) == 401
    secret.write_bytes(b"short")
    for command in ("serve", "check-config"):
        assert f"jwt.secret_file: {secret} holds 5 bytes" in run(command, "--config", config, status=2).stderr


def test_what_commands_change_is_in_the_audit_log(config: Path, tmp_path: Path) -> None:
    """The audit log has the uid of the user who creates and revokes keys without a server."""
    made = run("keys", "create", "--role", "viewer", "--organization", "acme", "--config", config).stderr
    key_id = made.split(",")[0]
    run("keys", "revoke", key_id, "--config", config)
    with running("serve", "--config", config, until=" ready: "):
        control = Control(tmp_path / "control.sock")
        log = control.get("/api/audit", dict[str, Any])["data"]
        run("keys", "create", "--role", "viewer", "--config", config)
        through_server = control.get("/api/audit?limit=1", dict[str, Any])["data"][0]
    assert through_server["actor"] == {"kind": "control", "id": str(os.getuid()), "role": "admin"}
    who = {"kind": "command", "id": str(os.getuid()), "role": None}
    assert [(entry["action"], entry["object"], entry["organizationId"], entry["fields"]) for entry in log[1:]] == [
        ("key.revoke", key_id, "acme", []),
        ("key.create", key_id, "acme", ["role", "organizationId"]),
    ]
    assert log[0]["action"] == "key.create"  # the admin key of the first start
    assert all((entry["actor"], entry["requestId"]) == (who, None) for entry in log)


def status_of(url: str, key: str) -> int:
    return httpx.get(f"{url}/api/webhooks", headers={"authorization": f"Bearer {key}"}, trust_env=False).status_code


def test_send_and_listen_are_the_two_ends(config: Path, tmp_path: Path) -> None:
    """`listen` prints and verifies what `send` sends; a refused event is status 1 with its code."""
    control, ingest = Control(tmp_path / "control.sock"), tmp_path / "ingest.sock"
    with (
        running("serve", "--config", config, until=" ready: "),
        running("listen", "--port", 0, "--secret", SECRET, "--respond", "500,200", until="listening") as listener,
    ):
        url = listener.ready.split()[-1]  # type: ignore[attr-defined]  # see `running`
        control.post("/api/webhooks", {"url": f"{url}/hook", "events": ["*"], "secret": SECRET}, dict[str, Any])
        one = run("send", "--config", config, "--type", "user.created", "--data", '{"n": 1}', "--id", "mine").stdout
        assert json.loads(one) == {"ok": True, "id": "mine", "deliveries": 1, "duplicate": False}
        assert listener.stdout is not None
        lines = [listener.stdout.readline() for _ in range(4)]
        assert "user.created, mine, sequence 1, attempt 1, signature verified" in lines[0]
        assert "answered 500" in lines[0]
        assert '"data":{"n": 1}' in lines[1]
        assert "attempt 2" in lines[2]
        assert "answered 200" in lines[2]
        events = '{"type": "user.created", "data": {}}\n\nnonsense\n{"type": "user.unknown", "data": {}}\n'
        many = run("send", "--socket", ingest, stdin=events, status=1)
        codes = [line.get("error", {}).get("code") for line in map(json.loads, many.stdout.splitlines())]
        assert codes == [None, "MALFORMED_JSON", "UNKNOWN_EVENT_TYPE"]
        long = run(
            "send", "--socket", ingest, stdin="x" * 3_000_000 + '\n{"type": "user.created", "data": {}}', status=1
        )
        codes = [line.get("error", {}).get("code") for line in map(json.loads, long.stdout.splitlines())]
        assert codes == ["PAYLOAD_TOO_LARGE", None]
        with Client(ingest) as client:
            assert client.send("user.created", {}, id="mine").duplicate
    away = run("send", "--config", config, "--type", "user.created", "--data", "{}", "--timeout", "0.2", status=1)
    assert "webhookd: " in away.stderr


def test_verify_names_the_mistake(tmp_path: Path) -> None:
    """A valid request is status 0, an invalid one status 1 with the mistake."""
    body = tmp_path / "body.json"
    body.write_text('{"a": 1}')
    now = int(time.time())
    own = Credentials(
        secret=Secret(SECRET), previous_secret=None, previous_expires_at=None, ed25519_secret=None, headers=()
    )
    headers = dict(Signer(own, SignatureChoice()).sign(event_id="e", timestamp=now, body=body.read_bytes(), now=now))
    headers |= {"webhook-id": "e", "webhook-timestamp": str(now)}
    options = [part for name, value in headers.items() for part in ("--header", f"{name}: {value}")]
    assert "webhook-signature is valid" in run("verify", "--secret", SECRET, *options, "--body", body).stdout
    body.write_text('{"a":1}')
    assert "body" in run("verify", "--secret", SECRET, *options, "--body", body, status=1).stderr
    assert "whsec_" in run("verify", "--secret", "nonsense", *options, "--body", body, status=1).stderr


def test_verify_reads_no_file_without_end(tmp_path: Path) -> None:
    """An endless device, a sparse file and an unreadable one are errors of one line; a tolerance must be a number."""
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(50 * 2**30)
    options = ("--secret", SECRET, "--header", "webhook-id: e")
    for body in (sparse, "/dev/zero"):
        refused = run("verify", *options, "--body", body, status=1).stderr
        assert refused == f"webhookd: {body} is larger than 16777216 bytes, which no request's body is\n"
    unread = run("verify", *options, "--body", "/proc/self/mem", status=1).stderr
    assert unread == "webhookd: can't read /proc/self/mem: Input/output error\n"
    for number in ("nan", "inf", "1e300"):
        assert "is not a number of seconds" in run("verify", *options, "--tolerance", number, status=2).stderr
        assert "is not a number of seconds" in run("health", "--timeout", number, status=2).stderr
