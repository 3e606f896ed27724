"""Idempotency-Keys of requests that were refused, failed or were cut off.

What may have happened is never done twice, and that is told; what changed nothing leaves its key free.
"""

import dataclasses
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trio
from trio.testing import MockClock

from tests.admin.inprocess import OWN_UID, Api, Signer, api_in_process
from webhookd.base.errors import ReadTimeoutError
from webhookd.base.models import Endpoint
from webhookd.dispatch.router import Router
from webhookd.journal import KeptAnswer
from webhookd.journal.queries import idempotency

HEADERS = {"Idempotency-Key": "once"}
WEBHOOK = {"url": "https://a.example/", "events": ["*"], "isActive": False}


async def test_what_was_cut_off_is_not_done_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A client that leaves before its answer gets a 409 with the same key, and is served with another one."""
    async with api_in_process(tmp_path, Signer()) as api:
        api.world.sender.seconds = 5.0
        made = await api.ask("POST", "/api/webhooks", None, body=WEBHOOK, uid=OWN_UID)
        path = f"/api/webhooks/{made.json()['id']}/test"
        with trio.move_on_after(1):
            await api.ask("POST", path, None, uid=OWN_UID, headers=HEADERS)
        assert len(api.world.sender.sent) == 1
        again = await api.ask("POST", path, None, uid=OWN_UID, headers=HEADERS)
        assert (again.status_code, again.json()["code"]) == (409, "CONFLICT")
        assert "was cut off" in again.json()["detail"]
        assert len(api.world.sender.sent) == 1
        other = await api.ask("POST", path, None, uid=OWN_UID, headers={"Idempotency-Key": "another"})
        assert (other.status_code, len(api.world.sender.sent)) == (200, 2)
        # A day later the key is free.
        await trio.sleep(idempotency.KEPT_SECONDS)
        later = await api.ask("POST", path, None, uid=OWN_UID, headers=HEADERS)
        assert (later.status_code, len(api.world.sender.sent)) == (200, 3)


async def test_what_was_refused_for_now_is_forgotten(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A 503 and the start of its request aren't kept: the repeated request runs again."""
    async with api_in_process(tmp_path, Signer()) as api:
        api.world.journal.refuse_events()
        event = {"type": "user.created", "data": {}}
        for _ in range(2):
            refused = await api.ask("POST", "/api/events", None, body=event, uid=OWN_UID, headers=HEADERS)
            assert (refused.status_code, refused.json()["code"]) == (503, "SHUTTING_DOWN")


REFUSED: tuple[tuple[str, dict[str, object], int, dict[str, object] | None], ...] = (
    # route, the body that is refused, its status, the body that is accepted
    ("/api/events", {"type": "order.paid", "data": {}}, 400, {"type": "user.created", "data": {}}),
    ("/api/events", {"type": "user.created", "data": []}, 400, {"type": "user.created", "data": {}}),
    ("/api/webhooks", {**WEBHOOK, "events": ["order.paid"]}, 400, WEBHOOK),
    ("/api/webhooks", {**WEBHOOK, "organizationId": "other"}, 403, WEBHOOK),
    ("/api/keys", {"role": "king"}, 400, {"role": "viewer"}),
    ("{webhook}/rotate-secret", {"secret": "whsec_short"}, 400, {}),
    ("{webhook}/replay", {"since": "yesterday"}, 400, {"since": "2020-01-01T00:00:00Z"}),
    ("{gone}/test", {}, 404, None),
    ("/api/webhooks/deliveries/dlv_none/retry", {}, 404, None),
)


@pytest.mark.parametrize(("route", "bad", "status", "good"), REFUSED)
async def test_what_was_refused_leaves_its_key_free(
    tmp_path: Path, route: str, bad: dict[str, object], status: int, good: dict[str, object] | None
) -> None:
    """A 4xx isn't kept: the repeated request runs again, and the same key then works with a valid body."""
    async with api_in_process(tmp_path, Signer()) as api:
        _, key = await api.key("admin", organizationId="acme")
        made = await api.ask("POST", "/api/webhooks", key, body=WEBHOOK)
        path = route.format(webhook=f"/api/webhooks/{made.json()['id']}", gone="/api/webhooks/wh_none")
        for _ in range(2):
            refused = await api.ask("POST", path, key, body=bad, headers=HEADERS)
            assert refused.status_code == status, refused.text
            assert "idempotency-replayed" not in refused.headers
        if good is None:
            return
        first, again = [await api.ask("POST", path, key, body=good, headers=HEADERS) for _ in range(2)]
        assert first.is_success, first.text
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert again.headers["idempotency-replayed"] == "true"
        assert (await api.ask("POST", path, key, body=bad, headers=HEADERS)).status_code == 422


async def test_a_refusal_for_what_has_changed_since_is_not_repeated(tmp_path: Path) -> None:
    """An event of an unknown type is accepted with the same key and body once the type is in the catalogue."""
    async with api_in_process(tmp_path, Signer()) as api:
        event = {"type": "order.paid", "data": {}}
        refused = await api.ask("POST", "/api/events", None, body=event, uid=OWN_UID, headers=HEADERS)
        assert refused.json()["code"] == "UNKNOWN_EVENT_TYPE"
        await api.ask("PUT", "/api/event-types/order.paid", None, body={}, uid=OWN_UID)
        accepted = await api.ask("POST", "/api/events", None, body=event, uid=OWN_UID, headers=HEADERS)
        assert accepted.status_code == 202
        again = await api.ask("POST", "/api/events", None, body=event, uid=OWN_UID, headers=HEADERS)
        assert (again.headers["idempotency-replayed"], again.json()) == ("true", accepted.json())


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"content-type": "text/plain"}, b"{}", 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, b"{}", 415),
        ({"content-type": "application/json"}, b"{", 400),
        ({"content-type": "application/json"}, b"[" * 500, 400),
        (
            {"content-type": "application/json"},
            b'{"type": "user.created", "data": {"a": "' + b"a" * 300_000 + b'"}}',
            413,
        ),
    ],
)
async def test_what_can_not_be_read_leaves_its_key_free(
    tmp_path: Path, headers: dict[str, str], content: bytes, status: int
) -> None:
    """After a body of another media type, one that is no JSON, or one that is too large, the key is free."""
    async with api_in_process(tmp_path, Signer()) as api:
        _, key = await api.key("admin")
        for _ in range(2):
            refused = await api.ask("POST", "/api/events", key, content=content, headers={**headers, **HEADERS})
            assert refused.status_code == status, refused.text
        event = {"type": "user.created", "data": {}}
        accepted = await api.ask("POST", "/api/events", key, body=event, headers=HEADERS)
        assert accepted.status_code == 202


async def test_a_conflict_is_not_kept(tmp_path: Path) -> None:
    """A 409 isn't kept: a refused retry of a succeeded delivery is done with the same key and force."""
    async with api_in_process(tmp_path, Signer()) as api:
        await api.ask("POST", "/api/webhooks", None, body={**WEBHOOK, "isActive": True}, uid=OWN_UID)
        event = {"type": "user.created", "data": {}, "id": "e1"}
        await api.ask("POST", "/api/events", None, body=event, uid=OWN_UID)
        while not (sent := (await api.ask("GET", "/api/events/e1/deliveries", None, uid=OWN_UID)).json()["data"])[0][
            "completedAt"
        ]:
            await trio.lowlevel.checkpoint()
        path = f"/api/webhooks/deliveries/{sent[0]['id']}/retry"
        refused = await api.ask("POST", path, None, body={}, uid=OWN_UID, headers=HEADERS)
        assert refused.status_code == 409
        done = await api.ask("POST", path, None, body={"force": True}, uid=OWN_UID, headers=HEADERS)
        assert done.status_code == 200


class Blind:
    """A router that makes every change, but fails to report a webhook's health."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def __getattr__(self, name: str) -> Any:
        return getattr(self._router, name)

    async def health(self, subjects: list[Endpoint]) -> NoReturn:
        raise ReadTimeoutError("the query took too long")


async def _fails(_: str) -> None:
    raise RuntimeError("a fault")


async def test_what_failed_before_it_changed_anything_is_tried_again(tmp_path: Path) -> None:
    """A 500 before a change was submitted leaves the key free; a request that fails later is never done twice."""
    async with api_in_process(tmp_path, Signer()) as api:
        faulty = Api(api.world, dataclasses.replace(api.services, check_url=_fails), api.signer)
        failed = await faulty.ask("POST", "/api/webhooks", None, body=WEBHOOK, uid=OWN_UID, headers=HEADERS)
        assert failed.status_code == 500
        made = await api.ask("POST", "/api/webhooks", None, body=WEBHOOK, uid=OWN_UID, headers=HEADERS)
        assert made.status_code == 201
        router = Blind(api.world.router)
        services = dataclasses.replace(api.services, router=router)  # type: ignore[arg-type]  # all but one method is it
        blind = Api(api.world, services, api.signer)
        headers = {"Idempotency-Key": "another"}
        unknown = await blind.ask("POST", "/api/webhooks", None, body=WEBHOOK, uid=OWN_UID, headers=headers)
        assert unknown.status_code == 504
        again = await api.ask("POST", "/api/webhooks", None, body=WEBHOOK, uid=OWN_UID, headers=headers)
        assert (again.status_code, "was cut off" in again.text) == (409, True)
        assert len((await api.ask("GET", "/api/webhooks", None, uid=OWN_UID)).json()["data"]) == 2


async def _waits(_: str) -> None:
    await trio.sleep_forever()


async def test_a_client_that_leaves_before_any_change_leaves_its_key_free(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A request whose client left during the lookup of the receiver's name can be repeated."""
    async with api_in_process(tmp_path, Signer()) as api:
        slow = Api(api.world, dataclasses.replace(api.services, check_url=_waits), api.signer)
        with trio.move_on_after(1):
            await slow.ask("POST", "/api/webhooks", None, body=WEBHOOK, uid=OWN_UID, headers=HEADERS)
        made = await api.ask("POST", "/api/webhooks", None, body=WEBHOOK, uid=OWN_UID, headers=HEADERS)
        assert made.status_code == 201, made.text


async def test_only_one_of_two_at_once_is_done(tmp_path: Path, autojump_clock: MockClock) -> None:
    """While the first request runs, the second gets a 409, which doesn't affect the first."""
    async with api_in_process(tmp_path, Signer()) as api:
        api.world.sender.seconds = 5.0
        made = await api.ask("POST", "/api/webhooks", None, body=WEBHOOK, uid=OWN_UID)
        path = f"/api/webhooks/{made.json()['id']}/test"
        answers = []

        async def ask() -> None:
            answers.append(await api.ask("POST", path, None, uid=OWN_UID, headers=HEADERS))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
        assert sorted(answer.status_code for answer in answers) == [200, 409]
        assert len(api.world.sender.sent) == 1
        again = await api.ask("POST", path, None, uid=OWN_UID, headers=HEADERS)
        assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")


async def test_a_refusal_that_was_kept_before_is_looked_at_again(tmp_path: Path) -> None:
    """An error that an earlier version kept is not returned any more."""
    async with api_in_process(tmp_path, Signer()) as api:
        kept = KeptAnswer(
            caller="local",
            route="POST /api/webhooks",
            key="once",
            body_hash=bytes(32),
            status=400,
            sealed=b"",
            created_at=api.world.clock.now(),
        )
        await api.world.journal.transactions.write(idempotency.keep, api.world.vault, kept, b"")
        made = await api.ask("POST", "/api/webhooks", None, body=WEBHOOK, uid=OWN_UID, headers=HEADERS)
        assert made.status_code == 201
