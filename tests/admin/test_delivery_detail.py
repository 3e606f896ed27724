"""One delivery over the API with many attempts and large answers."""

from pathlib import Path

import trio
from trio.testing import MockClock

from tests.admin.inprocess import OWN_UID, Api, Signer, api_in_process
from webhookd.base.models import DeliveryError, Outcome


async def made(api: Api) -> str:
    """Send an event to a webhook, and return the path of its delivery."""
    webhook = {"url": "https://a.example/", "events": ["*"]}
    await api.ask("POST", "/api/webhooks", None, body=webhook, uid=OWN_UID)
    event = {"type": "user.created", "data": {}, "id": "e1"}
    await api.ask("POST", "/api/events", None, body=event, uid=OWN_UID)
    [row] = (await api.ask("GET", "/api/events/e1/deliveries", None, uid=OWN_UID)).json()["data"]
    return f"/api/webhooks/deliveries/{row['id']}"


async def test_the_last_attempts_are_shown(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An answer has the last 100 attempts, or the 100 before a given number."""
    async with api_in_process(tmp_path, Signer()) as api:
        api.world.sender.script = lambda _: DeliveryError.CONNECT
        path = await made(api)
        await trio.sleep(60 * 3600)
        detail = (await api.ask("GET", path, None, uid=OWN_UID)).json()
        assert detail["attempts"] > 200
        numbers = [attempt["number"] for attempt in detail["attemptLog"]]
        assert numbers == list(range(detail["attempts"] - 99, detail["attempts"] + 1))
        assert detail["request"]["headers"]["x-webhook-attempt"] == str(numbers[-1])
        before = (await api.ask("GET", f"{path}?before={numbers[0]}", None, uid=OWN_UID)).json()
        assert [attempt["number"] for attempt in before["attemptLog"]] == list(range(numbers[0] - 100, numbers[0]))
        assert before["request"]["headers"]["x-webhook-attempt"] == str(numbers[0] - 1)
        assert (await api.ask("GET", f"{path}?before=1", None, uid=OWN_UID)).json()["attemptLog"] == []
        for number in ("0", str(2**63)):
            assert (await api.ask("GET", f"{path}?before={number}", None, uid=OWN_UID)).status_code == 400


async def test_an_answers_headers_are_stored_up_to_a_bound(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Of 60 KiB of response headers the first 4 KiB are stored and marked; all headers take effect."""
    headers = tuple((f"x-{number}", "y" * 100) for number in range(600))
    async with api_in_process(tmp_path, Signer()) as api:
        answer = Outcome(duration_seconds=0.1, status=200, headers=(*headers, ("webhook-delivery", "abort")))
        api.world.sender.script = lambda _: answer
        path = await made(api)
        while not (detail := (await api.ask("GET", path, None, uid=OWN_UID)).json())["completedAt"]:
            await trio.sleep(1)
        [attempt] = detail["attemptLog"]
        assert detail["error"] == "receiver"
        assert attempt["truncated"]
        stored = list(attempt["responseHeaders"].items())
        assert stored == list(headers[: len(stored)])
        assert 3900 < sum(len(name) + len(value) for name, value in stored) <= 4096


async def test_a_delivery_is_in_flight_while_its_receiver_is_asked(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Lists and the single view say so from the request until its answer is recorded."""
    async with api_in_process(tmp_path, Signer()) as api:
        api.world.sender.seconds = 5.0
        path = await made(api)

        async def shown() -> list[bool]:
            detail = (await api.ask("GET", path, None, uid=OWN_UID)).json()
            lists = [f"/api/webhooks/{detail['webhookId']}/deliveries", "/api/events/e1/deliveries"]
            rows = [(await api.ask("GET", each, None, uid=OWN_UID)).json()["data"][0] for each in lists]
            return [detail["inFlight"], *(row["inFlight"] for row in rows)]

        await trio.sleep(1)
        assert await shown() == [True] * 3
        await trio.sleep(5)
        assert await shown() == [False] * 3
