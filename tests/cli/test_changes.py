"""Commands that change: creating, pausing, rotating, testing and deleting webhooks; retries; replays."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.conftest import BILLING, BROKEN, FAILURES, Scene, refusal
from tests.patience import wait_until


@pytest.fixture
def own(scene: Scene) -> Iterator[str]:
    """Create a webhook for one test; return its id."""
    made = scene.json(
        "webhooks", "create", f"{scene.receiver}/own", "--events", "organization.*", "--description", "own"
    )
    yield made["id"]
    if any(webhook["id"] == made["id"] for webhook in scene.json("webhooks", "list")["data"]):
        scene.run("webhooks", "delete", made["id"], "--yes")


def test_a_webhook_is_made_with_all_that_the_api_takes(scene: Scene) -> None:
    """Options and --settings become the body; only the secret is on standard output."""
    settings = '{"ordering": "key", "rateLimit": {"perSecond": 50}, "metadata": {"team": "x"}}'
    made = scene.run(
        "webhooks", "create", f"{scene.receiver}/new", "--events", "user.*", "--events", "organization.created",
        "--description", "new", "--organization", "acme", "--paused", "--settings", settings,
    )  # fmt: skip
    assert re.fullmatch(r"whsec_\S{44}\n", made.stdout)
    assert made.stderr.startswith("wh_")
    shown = scene.json("webhooks", "show", "new")
    assert (shown["events"], shown["organizationId"]) == (["user.*", "organization.created"], "acme")
    assert (shown["ordering"], shown["rateLimit"]) == ("key", {"perSecond": 50, "burst": 1})
    assert (shown["isActive"], shown["metadata"]) == (False, {"team": "x"})
    assert made.stdout.strip().rstrip("=").endswith(shown["secretHint"][-4:])
    scene.run("webhooks", "delete", "new", "--yes")
    for wrong in ("{", "[]"):
        refused = refusal("webhooks", "create", scene.receiver, "--events", "*", "--settings", wrong, status=2)
        assert "--settings" in refused
    base = ("webhooks", "create", "--config", scene.config)
    assert "/url: " in refusal(*base, "http://10.0.0.1/", "--events", "*")
    assert "PUT /api/event-types" in refusal(*base, scene.receiver, "--events", "no.such")


def test_a_webhook_is_paused_and_resumed(scene: Scene, own: str) -> None:
    """While paused, its events are queued; after resume they are sent; both print the queue."""
    assert "0 queued. Held: disabled by hand" in scene.run("webhooks", "pause", own).stdout
    scene.run("send", "--type", "organization.created", "--data", "{}")
    assert scene.json("webhooks", "show", own)["health"]["queued"] == 1
    assert scene.run("webhooks", "resume", own).stdout.startswith(f"resumed {own}: ")
    wait_until(lambda: scene.json("deliveries", "list", own)["data"][0]["status"] == "succeeded")
    assert scene.json("webhooks", "pause", own)["isActive"] is False


def test_a_secret_is_rotated(scene: Scene, own: str) -> None:
    """The new secret is shown once, with the end of the previous one; a given secret and no overlap work too."""
    rotated = scene.run("webhooks", "rotate", own, "--overlap", 60)
    assert rotated.stdout.startswith("whsec_")
    assert "the previous secret also signs until 20" in rotated.stderr
    mine = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    document = scene.json("webhooks", "rotate", own, "--secret", mine, "--overlap", 0)
    assert (document["secret"], document["previousSecretExpiresAt"]) == (mine, None)
    assert "--overlap" in refusal("webhooks", "rotate", own, "--overlap", "8e5", status=2)


def test_a_test_says_what_came_of_it(scene: Scene) -> None:
    """Status 0 if the receiver accepts the test, 1 if it doesn't, with its answer."""
    assert "result         ok" in scene.run("webhooks", "test", BILLING).stdout
    failed = scene.run("webhooks", "test", BROKEN, status=1).stdout
    assert "failed: refused" in failed
    assert "422" in failed
    assert scene.json("webhooks", "test", BROKEN, status=1)["responseStatus"] == 422


def test_what_cannot_be_undone_is_asked_for(scene: Scene, own: str) -> None:
    """Without a terminal --yes is required; nothing is deleted then."""
    for arguments in (("webhooks", "delete", own), ("replay", BILLING, "--since", "1h")):
        assert "give --yes" in refusal(*arguments, "--config", scene.config)
    assert scene.json("webhooks", "show", own)["id"] == own
    assert scene.json("webhooks", "delete", own, "--yes") == {"id": own, "deleted": True}
    assert "there is no webhook" in refusal("webhooks", "show", own, "--config", scene.config)


def test_a_delivery_is_sent_again(scene: Scene) -> None:
    """A failed delivery is retried at once; a succeeded one needs --force."""
    failed = scene.json("deliveries", "list", BROKEN, "--status", "failed")["data"][-1]
    said = scene.run("deliveries", "retry", failed["id"]).stdout
    assert said == f"{failed['id']} is pending again, at sequence {failed['sequence']} of {scene.ids[BROKEN]}\n"
    wait_until(lambda: scene.json("deliveries", "show", failed["id"])["attempts"] == failed["attempts"] + 2)
    done = scene.json("deliveries", "list", BILLING, "--status", "succeeded")["data"][-1]["id"]
    assert "force" in refusal("deliveries", "retry", done, "--config", scene.config)
    assert scene.json("deliveries", "retry", done, "--force")["status"] == "pending"
    wait_until(lambda: scene.settled(BILLING) and scene.settled(BROKEN))


def test_a_replay_counts_asks_and_shows_its_end(scene: Scene, own: str) -> None:
    """--dry-run only counts; with --yes it ends when all is queued; it can be watched later, and stopped."""
    for _ in range(3):
        scene.run("send", "--type", "organization.created", "--data", "{}")
    wait_until(lambda: not _queued(scene, own))
    base = ("replay", own, "--since", "10m", "--events", "organization.*")
    count = scene.json(*base, "--dry-run")["matched"]
    assert count >= 3
    assert scene.run(*base, "--dry-run").stdout == f"{count} events match\n"
    nothing = scene.run("replay", own, "--since", "2020-01-01T00:00:00Z", "--until", "2020-01-02T00:00:00Z", "--yes")
    assert nothing.stdout == "0 events match: nothing to do\n"
    done = scene.json(*base, "--yes")
    assert (done["status"], done["queued"], done["matched"]) == ("done", count, count)
    assert scene.run("replay", own, "--watch", done["id"]).stdout == f"{done['id']} done: {count} of {count} queued\n"
    assert scene.json("replay", own, "--stop", done["id"])["status"] == "done"
    wait_until(lambda: not _queued(scene, own))
    triggers = {
        scene.json("deliveries", "show", row["id"])["attemptLog"][0]["trigger"]
        for row in scene.json("deliveries", "list", own)["data"]
    }
    assert triggers == {"auto", "replay"}


def test_only_what_failed_is_recovered(scene: Scene) -> None:
    """--failed retries failed deliveries with their own ids."""
    before = {row["id"]: row["attempts"] for row in _line(scene)}
    counted = scene.json("replay", BROKEN, "--since", "1h", "--failed", "--dry-run")["matched"]
    assert counted >= FAILURES
    started = scene.run("replay", BROKEN, "--since", "1h", "--failed", "--yes", "--detach").stdout
    assert re.match(
        rf"rpl_\w+ queues {counted}: `webhookd replay {scene.ids[BROKEN]} --watch rpl_\w+` watches", started
    )
    wait_until(lambda: _ended(scene, before))
    assert {row["id"] for row in _line(scene)} == set(before)


def test_wrong_usage_of_replay_is_told(scene: Scene) -> None:
    """One of --since, --watch and --stop is required; an unknown id is an error of the server."""
    assert "give one of --since" in refusal("replay", BILLING, status=2)
    assert "give one of --since" in refusal("replay", BILLING, "--since", "1h", "--stop", "rpl_0", status=2)
    gone = f"rpl_{'0' * 26}"
    assert "there is no replay" in refusal("replay", BILLING, "--watch", gone, "--config", scene.config)


def _queued(scene: Scene, webhook: str) -> int:
    health: dict[str, Any] = scene.json("webhooks", "show", webhook)["health"]
    return int(health["queued"]) + int(health["sending"])


def _ended(scene: Scene, before: dict[str, int]) -> bool:
    return all(row["status"] == "failed" and row["attempts"] == before[row["id"]] + 2 for row in _line(scene))


def _line(scene: Scene) -> list[dict[str, Any]]:
    """Return the deliveries of `broken` that are not tests."""
    return [row for row in scene.json("deliveries", "list", BROKEN)["data"] if row["sequence"]]
