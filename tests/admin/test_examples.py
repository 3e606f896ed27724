"""The examples of the OpenAPI document: one for every operation, valid by its schema, and all consistent."""

import re
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator
from werkzeug.datastructures import Headers

from tests.admin.inprocess import OWN_UID, Api, Signer, api_in_process
from webhookd.admin import system
from webhookd.admin.app import all_operations
from webhookd.admin.auth import local_administrator
from webhookd.admin.example_story import SECRET
from webhookd.admin.examples import EXAMPLES, REFUSALS
from webhookd.admin.operations import Operation
from webhookd.base.clock import parse_iso
from webhookd.base.errors import ErrorCode
from webhookd.journal import EventTypeRow
from webhookd.verify import verify

ULID = "[0-7][0-9A-HJKMNP-TV-Z]{25}"
PREFIXES = "wh|evt|dlv|att|key|rpl|req"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z")


@pytest.fixture
async def document(tmp_path: Path, autojump_clock: object) -> AsyncIterator[dict[str, Any]]:
    async with api_in_process(tmp_path, Signer()) as api:
        yield await described(api)


async def described(api: Api) -> dict[str, Any]:
    answer = await api.ask("GET", "/api/openapi.json", None, uid=OWN_UID)
    found: dict[str, Any] = answer.json()
    return found


async def test_the_description_is_made_once_and_off_the_event_loop(tmp_path: Path, autojump_clock: object) -> None:
    """A full catalogue takes too long for the loop: a thread describes it, and again only after it has changed."""
    threads: list[threading.Thread] = []

    def listed() -> tuple[Operation, ...]:
        threads.append(threading.current_thread())
        return ()

    [describing] = [each for each in system.operations(listed) if each.name == "getOpenapi"]
    request: Any = SimpleNamespace(query_string=b"", headers=Headers())
    async with api_in_process(tmp_path, Signer()) as api:
        for _ in range(2):
            await describing.run(api.services, local_administrator(OWN_UID), request, "req_1", {})
        await api.world.journal.event_types.put(EventTypeRow(name="order.paid"), 0.0, entry=None, condition=None)
        await describing.run(api.services, local_administrator(OWN_UID), request, "req_1", {})
    assert len(threads) == 2
    assert threading.main_thread() not in threads


def contents(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every media type of every request and answer with its place."""
    for path, by_method in document["paths"].items():
        for method, operation in by_method.items():
            places = {"request": operation.get("requestBody", {}), **operation["responses"]}
            for place, part in places.items():
                for media_type, content in part.get("content", {}).items():
                    yield f"{method.upper()} {path} {place} {media_type}", content


def examples(content: dict[str, Any]) -> list[Any]:
    single = [content["example"]] if "example" in content else []
    return single + [named["value"] for named in content.get("examples", {}).values()]


def complaints(document: dict[str, Any], schema: dict[str, Any], example: object) -> list[str]:
    whole = {**schema, "components": document["components"]}
    return [error.message for error in Draft202012Validator(whole).iter_errors(example)]


async def test_every_operation_has_examples_that_are_as_described(document: dict[str, Any]) -> None:
    """Each request body, answer and error, in every media type, is valid by its own schema."""
    found = list(contents(document))
    assert len(found) > 200
    for place, content in found:
        shown = examples(content)
        assert shown, f"{place} has no example"
        for example in shown:
            assert complaints(document, content["schema"], example) == [], place


async def test_an_example_that_is_not_as_described_is_found(document: dict[str, Any]) -> None:
    """The check finds a missing field, one of another type, and an unknown one."""
    content = document["paths"]["/api/webhooks"]["post"]["requestBody"]["content"]["application/json"]
    right = content["example"]
    for wrong in ({"events": ["*"]}, {**right, "url": 1}, {**right, "urls": []}, {**right, "events": ["a b"]}):
        assert complaints(document, content["schema"], wrong)
    answer = document["paths"]["/api/webhooks"]["post"]["responses"]["201"]["content"]["application/json"]
    assert complaints(document, answer["schema"], {**answer["example"], "ordering": "sideways"})
    assert complaints(document, answer["schema"], right)


async def test_parameters_of_paths_have_examples(document: dict[str, Any]) -> None:
    """Each path parameter's example matches its pattern and is the id used in the other examples."""
    for by_method in document["paths"].values():
        for operation in by_method.values():
            for parameter in operation["parameters"]:
                if parameter["in"] == "path":
                    assert re.search(parameter["schema"]["pattern"], parameter["example"])


async def test_what_the_connection_itself_refuses_is_described(document: dict[str, Any]) -> None:
    """Each operation lists the errors of a too long request line or head, and of an incomplete body."""
    for by_method in document["paths"].values():
        for operation in by_method.values():
            of_the_connection = {"414", "431"} | ({"408", "501"} if "requestBody" in operation else set())
            assert of_the_connection <= operation["responses"].keys()


def test_no_example_is_of_an_operation_that_is_gone() -> None:
    """There is one example for each operation and one for each error code."""
    assert EXAMPLES.keys() == {operation.name for operation in all_operations()}
    assert REFUSALS.keys() == set(ErrorCode) - {ErrorCode.METHOD_NOT_ALLOWED}


def test_the_examples_are_one_story() -> None:
    """Ids and times are well formed, an object has the same id everywhere, and the request is signed correctly."""
    text = msgspec.json.encode(EXAMPLES).decode()
    ids = set(re.findall(rf'"((?:{PREFIXES})_[^"\\]*)', text))
    assert all(re.fullmatch(rf"(?:{PREFIXES})_{ULID}", each) for each in ids)
    kinds = [each.partition("_")[0] for each in sorted(ids)]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == dict.fromkeys(PREFIXES.split("|"), 1) | {"att": 2}
    times = re.findall(r'"\w+(?:At|Since|Until|since|until|timestamp)":"([^"]*)"', text)
    assert len(times) > 40
    assert all(TIME.fullmatch(each) and parse_iso(each) for each in times)
    request = msgspec.to_builtins(EXAMPLES["getDelivery"].answers)[200]["request"]
    sent_at = int(request["headers"]["webhook-timestamp"])
    verified = verify(SECRET, request["headers"], request["body"].encode(), now=sent_at)
    assert verified.event_id == request["headers"]["webhook-id"]


async def test_the_description_follows_the_catalogue(tmp_path: Path, autojump_clock: object) -> None:
    """The document follows the catalogue: a new event type is added, a deleted one is removed."""
    async with api_in_process(tmp_path, Signer()) as api:
        seen = []
        for method in ("GET", "PUT", "DELETE"):
            if method != "GET":
                await api.ask(
                    method, "/api/event-types/order.paid", None, body={} if method == "PUT" else None, uid=OWN_UID
                )
            seen.append("order.paid" in (await described(api))["webhooks"])
        assert seen == [False, True, False]
