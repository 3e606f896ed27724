"""Idempotency-Keys at several nodes: a request is carried out once, whichever of them gets it."""

from pathlib import Path

import trio

from tests.admin.inprocess import OWN_UID, Api, Signer, api_of
from tests.journal.postgres.nodes import Nodes, Open
from tests.patience import until

HEADERS = {"Idempotency-Key": "once"}
WEBHOOK = {"url": "https://a.example/", "events": ["*"], "isActive": False}


async def two_apis(nodes: Nodes, path: Path) -> list[Api]:
    apis = []
    for number in range(2):
        (path / str(number)).mkdir()
        apis.append(await api_of(await nodes.start(), path / str(number), Signer()))
    return apis


async def test_a_request_is_under_way_at_every_node(open_nodes: Open, tmp_path: Path) -> None:
    """While one node works on a request, another refuses it; once it is answered, both give that answer."""
    async with open_nodes() as nodes, trio.open_nursery() as nursery:
        one, other = await two_apis(nodes, tmp_path)
        answering = trio.Event()

        async def test(api: Api) -> tuple[int, str, bool]:
            answer = await api.ask("POST", path, None, uid=OWN_UID, headers=HEADERS)
            text = answer.json().get("detail") or answer.json()["id"]
            return answer.status_code, text, "idempotency-replayed" in answer.headers

        made = await one.ask("POST", "/api/webhooks", None, body=WEBHOOK, uid=OWN_UID)
        path = f"/api/webhooks/{made.json()['id']}/test"
        nodes.sender.held_by = lambda _: answering
        answers: list[tuple[int, str, bool]] = []

        async def first() -> None:
            answers.append(await test(one))

        nursery.start_soon(first)
        await until(lambda: len(nodes.sender.sent) == 1)
        for api in (one, other):
            status, detail, _ = await test(api)
            assert (status, "is running" in detail) == (409, True)
        answering.set()
        await until(lambda: answers)
        [(status, attempt_id, is_replayed)] = answers
        assert (status, is_replayed) == (200, False)
        for api in (one, other):
            assert await test(api) == (200, attempt_id, True)
        assert len(nodes.sender.sent) == 1


async def test_what_was_cut_off_is_known_everywhere(open_nodes: Open, tmp_path: Path) -> None:
    """Every node answers that the result is unknown, after the client left while its change was being made."""
    async with open_nodes() as nodes:
        one, other = await two_apis(nodes, tmp_path)
        never = trio.Event()
        nodes.sender.held_by = lambda _: never
        made = await one.ask("POST", "/api/webhooks", None, body=WEBHOOK, uid=OWN_UID)
        path = f"/api/webhooks/{made.json()['id']}/test"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: one.ask("POST", path, None, uid=OWN_UID, headers=HEADERS))
            await until(lambda: len(nodes.sender.sent) == 1)
            nursery.cancel_scope.cancel()
        for api in (one, other):
            detail = "is running"
            while "is running" in detail:  # until the cut is on disk
                answer = await api.ask("POST", path, None, uid=OWN_UID, headers=HEADERS)
                detail = answer.json()["detail"]
            assert "was cut off" in detail
        assert len(nodes.sender.sent) == 1
