"""The output of the commands on webhooks, deliveries and events: from a server, over HTTP, and from the journal."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import BILLING, BROKEN, EVENTS, FAILURES, Scene, invoke, refusal
from webhookd.cli.journal_source import NO_SERVER


def test_json_is_what_the_api_says(scene: Scene) -> None:
    """Each view with --json is the API's own document, field for field."""

    def asked(target: str) -> Any:
        return scene.control.get(target, dict[str, Any])

    billing, broken = scene.ids[BILLING], scene.ids[BROKEN]
    assert scene.json("webhooks", "show", BILLING) == asked(f"/api/webhooks/{billing}")
    listed = asked(f"/api/webhooks/{broken}/deliveries?status=failed")
    assert len(listed["data"]) >= FAILURES
    assert scene.json("deliveries", "list", BROKEN, "--status", "failed") == listed
    first = listed["data"][0]["id"]
    shown = scene.json("deliveries", "show", first)
    assert shown == asked(f"/api/webhooks/deliveries/{first}")
    assert [attempt["responseStatus"] for attempt in shown["attemptLog"]] == [422, 422]
    assert scene.json("events", "show", "seed-1") == asked("/api/events/seed-1")
    assert scene.json("events", "list", "--limit", 3) == asked("/api/events?limit=3")
    # It is one document for whatever a person would see as rows.
    assert {webhook["id"] for webhook in scene.json("webhooks", "list")["data"]} >= set(scene.ids.values())


def test_lists_for_people_name_everything(scene: Scene) -> None:
    """In a pipe a row is one line of aligned columns without colour, with the reason."""
    lines = scene.run("webhooks", "list").stdout.splitlines()
    assert lines[0].split() == ["ID", "WEBHOOK", "STATE", "QUEUED", "REASON"]
    [row] = [line for line in lines if line.startswith(scene.ids[BILLING])]
    assert row.split(maxsplit=4)[1:] == [BILLING, "idle", "0", "Nothing queued"]
    assert "\x1b" not in "".join(lines)
    found = scene.run("deliveries", "list", BROKEN, "--status", "failed", "--event", "subscription.canceled").stdout
    assert len(found.splitlines()) >= 1 + FAILURES
    assert "422 refused" in found
    shown = scene.run("deliveries", "show", found.splitlines()[1].split()[0]).stdout
    assert shown.count("failed: refused") == 2
    assert '"data":{"number":' in shown
    assert "webhook-signature: v1," in shown
    assert "Zoë" in scene.run("events", "show", "seed-0").stdout
    assert scene.run("events", "list").stdout.count("user.created") >= EVENTS


def test_lists_go_on(scene: Scene) -> None:
    """A list with more rows says how to get them; --limit may be larger than a page of the API."""
    first = scene.run("deliveries", "list", BILLING, "--limit", 3)
    assert len(first.stdout.splitlines()) == 4
    cursor = first.stderr.split("--cursor ")[1].strip()
    rest = scene.json("deliveries", "list", BILLING, "--limit", 250, "--cursor", cursor)
    both = scene.json("deliveries", "list", BILLING, "--limit", 250)
    assert rest["data"] == both["data"][3:]
    assert both["nextCursor"] is None
    page = scene.json("events", "list", "--limit", 1)
    assert scene.json("events", "list", "--after", page["data"][0]["id"])["data"][0]["id"] == "seed-1"


def test_a_webhook_has_several_names(scene: Scene) -> None:
    """A webhook is found by its id, the start of it, its description or its URL; several or no matches are an error."""
    whole = scene.ids[BILLING]
    other = scene.ids[BROKEN]
    shared = next(n for n in range(len(whole)) if whole[n] != other[n])
    for name in (whole, whole[: shared + 1], whole[: shared + 1].lower(), BILLING, f"{scene.receiver}/{BILLING}"):
        assert scene.json("webhooks", "show", name)["id"] == whole
    told = refusal("webhooks", "show", whole[:shared], "--config", scene.config)
    assert "2 webhooks match" in told
    assert f"{whole} ({BILLING})" in told
    told = refusal("webhooks", "show", "nobody", "--config", scene.config)
    assert "`webhookd webhooks list` shows them" in told
    assert "there is no webhook wh_0" in refusal("webhooks", "show", f"wh_{'0' * 26}", "--config", scene.config)


@pytest.mark.parametrize("until", ["", "2020-01-02T00:00:00Z"])
def test_times_are_absolute_or_ago(scene: Scene, until: str) -> None:
    """`--since 1h` is an hour ago; anything else that is not a time with a zone is wrong usage."""
    narrowed = ("--until", until) if until else ()
    found = scene.json(
        "deliveries", "list", BILLING, "--since", "1h" if not until else "2020-01-01T00:00:00Z", *narrowed
    )
    assert bool(found["data"]) == (not until)
    for wrong in ("yesterday", "2020-01-01", "1y", "-2h"):
        assert "how long ago it was" in refusal("deliveries", "list", BILLING, f"--since={wrong}", status=2)


def test_a_server_elsewhere_is_asked_with_a_key(scene: Scene, tmp_path: Path) -> None:
    """--url and --key, or the environment, use HTTP without a configuration; a refusal has a remedy."""
    remote = {"WEBHOOKD_URL": scene.url, "WEBHOOKD_API_KEY": scene.key}
    shown = invoke("webhooks", "show", BILLING, "--json", environ=remote)
    assert json.loads(shown.stdout)["id"] == scene.ids[BILLING]
    assert invoke("events", "list", "--url", f"{scene.url}/", "--key", scene.key).stdout.count("seed-") == EVENTS
    told = refusal("webhooks", "list", "--url", scene.url)
    assert "WEBHOOKD_API_KEY" in told
    assert "`webhookd keys create`" in told
    viewer = scene.run("keys", "create", "--role", "viewer").stdout.strip()
    assert "use a key with another role" in refusal("webhooks", "pause", BILLING, "--url", scene.url, "--key", viewer)
    assert "Connection refused" in refusal("webhooks", "list", "--url", "http://127.0.0.1:1", "--key", viewer)
    for wrong in ("ftp://x", "nonsense", "http://", "http://x:99999"):
        assert "is not the URL of a server" in refusal("webhooks", "list", "--url", wrong, "--key", viewer)
    assert "goes with --url" in refusal("webhooks", "list", "--key", viewer, "--config", scene.config, status=2)


def test_without_a_server_the_journal_is_read(scene: Scene, tmp_path: Path) -> None:
    """The same documents, without what only a server knows, from a copy; other commands need a server."""
    copy = tmp_path / "config.toml"
    copy.write_text(scene.config.read_text())
    scene.run("backup", tmp_path / "webhookd.db")
    lock = tmp_path / "webhookd.db.lock"

    def offline(*arguments: object) -> Any:
        result = invoke(*arguments, "--json", "--config", copy)
        assert result.stderr.startswith(f"no server runs: read from the journal {tmp_path / 'webhookd.db'}")
        return json.loads(result.stdout)

    online = scene.json("webhooks", "show", BROKEN)
    assert online["health"].pop("reason") != NO_SERVER
    shown = offline("webhooks", "show", BROKEN)
    assert shown["health"].pop("reason") == NO_SERVER
    assert shown == online
    views: tuple[tuple[object, ...], ...] = (
        ("deliveries", "list", BROKEN, "--status", "failed", "--since", "1h", "--limit", 1),
        ("events", "list", "--limit", 2, "--after", "seed-0"),
        ("events", "show", "seed-3"),
    )
    for view in views:
        assert offline(*view) == scene.json(*view)
    delivery = scene.json("deliveries", "list", BROKEN)["data"][-1]["id"]
    online = scene.json("deliveries", "show", delivery)
    online["request"]["headers"] = {}
    assert offline("deliveries", "show", delivery) == online
    assert not lock.exists()
    assert "there is no delivery dlv_0" in refusal("deliveries", "show", "dlv_0", "--config", copy)
    needing: tuple[tuple[object, ...], ...] = (
        ("tail",),
        ("webhooks", "pause", BILLING),
        ("webhooks", "test", BILLING),
        ("webhooks", "rotate", BILLING),
        ("deliveries", "retry", delivery),
        ("replay", BILLING, "--since", "1h"),
    )
    for arguments in needing:
        told = refusal(*arguments, "--config", copy)
        assert "this command needs a running server" in told
        assert f"`webhookd serve --config {copy}`" in told
    missing = tmp_path / "elsewhere"
    missing.mkdir()
    (missing / "config.toml").write_text(scene.config.read_text())
    assert "there is no journal" in refusal("webhooks", "list", "--config", missing / "config.toml")
