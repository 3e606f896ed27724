"""Custom headers in the API and the dashboard: their names are case-insensitive, and they can be removed."""

from pathlib import Path

import pytest
import trio

from tests.admin.inprocess import OWN_UID, Api, Signer, api_in_process
from tests.dashboard.browsing import site_in_process, text_of

WEBHOOK = {"url": "https://a.example/", "events": ["*"]}


async def sent_headers(api: Api, event_id: str) -> dict[str, str]:
    """Publish an event and return the headers of its request."""
    await api.world.publish(event_id)
    while not (sent := [one for one in api.world.sender.sent if one.event == event_id]):
        await trio.lowlevel.checkpoint()
    return {name: value for name, value in sent[0].headers.items() if not name.startswith(("webhook-", "x-webhook-"))}


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_header_is_changed_under_any_spelling(tmp_path: Path, method: str) -> None:
    """Another case in a merge patch removes or replaces the same header, whose stored spelling stays."""
    async with api_in_process(tmp_path, Signer()) as api:
        made = await api.ask("POST", "/api/webhooks", None, body={**WEBHOOK, "headers": {"X-A": "1"}}, uid=OWN_UID)
        path = made.headers["location"]

        async def patch(headers: object) -> tuple[int, object]:
            answer = await api.ask(method, path, None, body={"headers": headers}, uid=OWN_UID)
            return answer.status_code, answer.json().get("headers", answer.json().get("code"))

        assert await patch({"x-a": "2", "x-b": "3"}) == (200, ["X-A", "x-b"])
        assert {"X-A": "2", "x-b": "3"}.items() <= (await sent_headers(api, "e1")).items()
        for bad in (
            {"X-A": "1", "x-a": "1"},
            {"X-A": None, "x-a": "4"},
            {"X-C": "1", "x-c": None},
            {"x-a": 7},
            "x",
            [1],
        ):
            assert await patch(bad) == (400, "VALIDATION_ERROR"), bad
        assert await patch({"x-a": None, "X-NONE": None}) == (200, ["x-b"])
        assert "X-A" not in await sent_headers(api, "e2")
        assert await patch(None) == (200, [])
        assert "x-b" not in await sent_headers(api, "e3")


async def test_two_spellings_of_one_name_are_not_created(tmp_path: Path) -> None:
    """A body with a repeated header is refused with its name, and no webhook is created."""
    async with api_in_process(tmp_path, Signer()) as api:
        body = {**WEBHOOK, "headers": {"X-A": "1", "x-a": "2"}}
        refused = await api.ask("POST", "/api/webhooks", None, body=body, uid=OWN_UID)
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (400, "/headers/x-a")
        assert (await api.ask("GET", "/api/webhooks", None, uid=OWN_UID)).json()["data"] == []


async def test_the_form_has_the_same_rules(tmp_path: Path) -> None:
    """In the dashboard a header that is removed and given again is replaced; one given twice is refused."""
    async with site_in_process(tmp_path) as site:
        visitor = await site.visitor()
        fields = {"url": "https://hook.example/in", "events": "*", "isActive": "on", "signature/form": "timestamped"}
        made = await visitor.post("/webhooks", {**fields, "headers": "X-A: 1\nX-B: 1"})
        path = made.headers["location"].removesuffix("/secret") + "/edit"
        for twice in ("x-a: 2\nX-A: 3", "x-a: 2\nx-a: 2"):
            refused = await visitor.post(path, {**fields, "headers": twice})
            assert refused.status_code == 422
            assert "leave one out" in text_of(refused.text)
        assert (await visitor.post("/webhooks", {**fields, "metadata": "a=1\na=2"})).status_code == 422
        assert (await visitor.post(path, {**fields, "headers": "x-a: 2", "removeHeader": "X-A"})).status_code == 303
        headers = await sent_headers(site.api, "e1")
        assert (headers["X-A"], headers["X-B"]) == ("2", "1")
