"""`--json` of the commands for setup and maintenance: one document, and nothing else on standard output."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import invoke
from webhookd.base.models import Credentials, SignatureChoice
from webhookd.base.secret import Secret
from webhookd.config import load_config
from webhookd.delivery.signing import Signer

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def document(*arguments: object, **settings: Any) -> Any:
    return json.loads(invoke(*arguments, "--json", **settings).stdout)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text('[egress]\nproxy = "http://user:hunter2@proxy.example:3128"\n')
    return path


def test_a_server_is_set_up(tmp_path: Path) -> None:
    """`init` prints what it created, and the admin key only the first time."""
    made = document("init", tmp_path)
    assert made.pop("adminKey").startswith("whd_admin_")
    assert made == {
        "config": str(tmp_path / "config.toml"),
        "journal": str(tmp_path / "var/webhookd.db"),
        "masterKey": str(tmp_path / "var/master.key"),
    }
    assert document("init", tmp_path) == {**made, "adminKey": None}


def test_the_configuration_in_force(config: Path) -> None:
    """`check-config` prints every section and key with absolute paths, and hides the proxy's password."""
    shown = document("check-config", "--config", config)
    assert shown["egress"]["proxy"] == "http://[hidden]@proxy.example:3128"
    assert shown["journal"]["path"] == str(config.parent / "var/webhookd.db")
    assert shown["delivery"]["ordering"] == "strict"
    assert set(shown) == set(load_config(None, {}).__struct_fields__)


def test_keys_in_the_journal(config: Path) -> None:
    """Without a server, keys are created, listed and revoked with the same documents as with one."""
    made = document("keys", "create", "--role", "viewer", "--name", "x", "--config", config)
    assert made.pop("key").startswith("whd_viewer_")
    assert document("keys", "list", "--config", config) == {"data": [made], "nextCursor": None}
    assert document("keys", "revoke", made["id"], "--config", config) == {"id": made["id"], "deleted": True}
    assert document("keys", "list", "--config", config)["data"] == []


def test_backup_restore_and_master_key(config: Path, tmp_path: Path) -> None:
    """A backup's contents, the place of the replaced journal, and the current key."""
    invoke("init", "--config", config)
    copy = tmp_path / "copy.db"
    made = document("backup", copy, "--config", config)
    assert (made["file"], made["contents"]["pending"]) == (str(copy), 0)
    restored = document("restore", copy, "--config", config)
    assert restored.pop("kept").startswith(str(tmp_path / "var/webhookd.db.replaced-"))
    assert restored["contents"]["events"] == made["contents"]["events"]
    rotated = document("rotate-master-key", "--config", config)
    assert set(rotated) == {"keyId", "stage", "resealed", "instruction"}
    assert rotated["instruction"] is None


def test_a_signature(tmp_path: Path) -> None:
    """`verify` prints what is valid, or the mistake with status 1."""
    credentials = Credentials(
        secret=Secret(SECRET), previous_secret=None, previous_expires_at=None, ed25519_secret=None, headers=()
    )
    body = tmp_path / "body"
    body.write_bytes(b"{}")
    now = int(time.time())
    signer = Signer(credentials, SignatureChoice())
    headers = dict(signer.sign(event_id="evt_1", timestamp=now, body=body.read_bytes(), now=now))
    headers |= {"webhook-id": "evt_1", "webhook-timestamp": str(now)}
    given = [each for name, value in headers.items() for each in ("--header", f"{name}: {value}")]
    base = ("verify", "--secret", SECRET, "--body", body)
    right = document(*base, *given)
    assert (right["ok"], right["header"], right["eventId"]) == (True, "webhook-signature", "evt_1")
    body.write_bytes(b"{ }")
    wrong = json.loads(invoke(*base, *given, "--json", status=1).stdout)
    assert (wrong["ok"], set(wrong)) == (False, {"ok", "mistake", "detail"})
