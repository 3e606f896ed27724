"""Unusual but harmless input is accepted everywhere; other input is refused with a hint."""

from pathlib import Path

import pytest

from tests.admin.inprocess import OWN_UID, Api, Signer, api_in_process
from tests.dashboard.browsing import site_in_process
from webhookd.base.json_errors import BOM

WEBHOOK = b'{"url": "https://a.example/", "events": ["*"], "isActive": false}'
EVENT = b'{"type": "user.created", "data": {}, "id": "%d"}'
JSON, NDJSON = {"content-type": "application/json"}, {"content-type": "application/x-ndjson"}


async def created(api: Api) -> str:
    made = await api.ask("POST", "/api/webhooks", None, content=BOM + WEBHOOK, uid=OWN_UID, headers=JSON)
    assert made.status_code == 201, made.text
    location: str = made.headers["location"]
    return location


async def test_a_plus_that_was_not_encoded_is_the_zones(tmp_path: Path) -> None:
    """A space in a time of a query stands for an unencoded `+`, in lists and on pages."""
    async with site_in_process(tmp_path) as site:
        path = await created(site.api)
        for target in (f"{path}/deliveries", "/api/audit"):
            for name in ("since", "until"):
                for time in ("2024-01-01T00:00:00+02:00", "2024-01-01T00:00:00.5%2B02:00", "2024-01-01t00:00:00+0200"):
                    answer = await site.api.ask("GET", f"{target}?{name}={time}", None, uid=OWN_UID)
                    assert answer.status_code == 200, (target, time, answer.text)
                refused = await site.api.ask("GET", f"{target}?{name}=2024-13-01T00:00:00+02:00", None, uid=OWN_UID)
                assert refused.json()["detail"].startswith(f"/{name}: takes an ISO-8601 time with a zone")
        visitor = await site.visitor()
        for page in (f"{path.removeprefix('/api')}/deliveries", "/events", "/audit"):
            text = await visitor.page(f"{page}?since=2024-01-01T00:00:00+02:00")
            assert "ISO-8601" not in text
            assert "Write a time in UTC" not in text


async def test_a_byte_order_mark_is_left_out(tmp_path: Path) -> None:
    """A BOM before a body, an event or a line of a stream is ignored."""
    async with api_in_process(tmp_path, Signer()) as api:
        path = await created(api)
        changed = await api.ask("PATCH", path, None, content=BOM + b'{"description": "x"}', uid=OWN_UID, headers=JSON)
        assert changed.json()["description"] == "x"
        one = await api.ask("POST", "/api/events", None, content=BOM + EVENT % 1, uid=OWN_UID, headers=JSON)
        assert one.status_code == 202
        lines = b"\n".join(BOM + EVENT % number for number in (2, 3))
        many = await api.ask("POST", "/api/events", None, content=lines, uid=OWN_UID, headers=NDJSON)
        assert many.text.count('"ok":true') == 2


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"", "MALFORMED_JSON", "it is empty; send a JSON object"),
        (b'{"description": "\\ud800"}', "MALFORMED_JSON", "half of a surrogate pair"),
        (b'{"description": "a", "description": "b"}', "VALIDATION_ERROR", "/description: is repeated"),
        (b'{"description": "a", "descr\\u0069ption": "b"}', "VALIDATION_ERROR", "/description: is repeated"),
        (b'{"retry": {"jitter": 0, "jitter": 1}}', "VALIDATION_ERROR", "/retry/jitter: is repeated"),
        (b'{"headers": {"X-A": "1", "X-A": "2"}}', "VALIDATION_ERROR", "/headers/X-A: is repeated"),
        (b'{"metadata": {"a": "1", "a": "1"}}', "VALIDATION_ERROR", "/metadata/a: is repeated"),
    ],
)
async def test_a_patch_that_can_not_be_read_says_how_to_mend_it(
    tmp_path: Path, content: bytes, code: str, words: str
) -> None:
    """An empty body, half a character and a repeated name are refused with their place; nothing is changed."""
    async with api_in_process(tmp_path, Signer()) as api:
        path = await created(api)
        before = (await api.ask("GET", path, None, uid=OWN_UID)).headers["etag"]
        refused = await api.ask("PATCH", path, None, content=content, uid=OWN_UID, headers=JSON)
        assert (refused.status_code, refused.json()["code"]) == (400, code)
        assert words in refused.json()["detail"]
        assert (await api.ask("GET", path, None, uid=OWN_UID)).headers["etag"] == before


async def test_a_field_twice_costs_its_line_alone(tmp_path: Path) -> None:
    """In a stream, an event with a repeated `data` or `type` is refused, and the other events are accepted."""
    async with api_in_process(tmp_path, Signer()) as api:
        bad = (
            b'{"type": "user.created", "data": {}, "data": {"a": 1}}',
            b'{"type": "a", "type": "user.created", "data": {}}',
        )
        lines = b"\n".join([EVENT % 1, *bad, EVENT % 2])
        answer = await api.ask("POST", "/api/events", None, content=lines, uid=OWN_UID, headers=NDJSON)
        results = [line.startswith('{"id"') or '"ok":true' in line for line in answer.text.splitlines()]
        assert results == [True, False, False, True]
        assert answer.text.count("is repeated") == 2
