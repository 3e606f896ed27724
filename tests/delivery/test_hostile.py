"""Receivers that do what they like: each comes to its own code, in time, directly and through an egress proxy."""

import pytest
import trio

from tests.delivery.cases import CASES, TIMEOUT, Case, Proxied
from tests.delivery.hostile import proxying, serving
from tests.delivery.out import Out, sending, through
from webhookd.delivery.wire import KEPT_BODY_BYTES
from webhookd.models import Outcome

AT_ONCE = 24
PATIENCE_SECONDS = 0.5
ENOUGH_SECONDS = 8.0
CONNECT_SECONDS = 2.0
SLACK_SECONDS = 3.0  # what a busy machine may add to it

Result = tuple[list[Outcome], float, int]


async def attack(out: Out, case: Case, results: dict[str, Result]) -> None:
    async with serving(case.script, ssl_context=case.tls() if case.tls else None) as receiver:
        url = receiver.url
        if case.asked_by is not None:
            url = f"{case.asked_by}://{url.partition('://')[2]}"
        seconds = PATIENCE_SECONDS if TIMEOUT in {case.comes_to, case.proxied} else ENOUGH_SECONDS
        outcomes = []
        for number in range(case.sends):
            if number:
                await trio.sleep(0.1)  # the receiver does to the idle connection what it will
            began = trio.current_time()
            outcomes.append(await out.send(url, body=case.body, seconds=seconds, endpoint_id=case.name))
            took = trio.current_time() - began
        results[case.name] = outcomes, took, receiver.connections


async def attack_all(out: Out, cases: list[Case]) -> dict[str, Result]:
    results: dict[str, Result] = {}
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def one(case: Case) -> None:
        async with limiter:
            await attack(out, case, results)

    async with trio.open_nursery() as nursery:
        for case in cases:
            nursery.start_soon(one, case)
    return results


async def directly() -> dict[str, Result]:
    async with sending(connect=CONNECT_SECONDS) as out:
        return await attack_all(out, CASES)


async def through_a_proxy() -> dict[str, Result]:
    async with proxying() as proxy, sending(through(proxy), connect=CONNECT_SECONDS) as out:
        return await attack_all(out, [case for case in CASES if case.proxied is not Proxied.NOT_ASKED])


@pytest.fixture(scope="module")
def direct() -> dict[str, Result]:
    return trio.run(directly)


@pytest.fixture(scope="module")
def proxied() -> dict[str, Result]:
    return trio.run(through_a_proxy)


def judge(case: Case, expected: object, result: Result) -> None:
    outcomes, took, connections = result
    last = outcomes[-1]
    assert (last.error or last.status) == expected, last
    assert (last.error is None) != (last.detail != "")
    assert took < (PATIENCE_SECONDS if expected is TIMEOUT else 1.0) + SLACK_SECONDS
    if case.kept is not None:
        assert (last.body, last.truncated) == (case.kept, len(case.kept) == KEPT_BODY_BYTES)
    if case.connections is not None:
        assert connections == case.connections
    for earlier in outcomes[:-1]:
        assert earlier.error is None, earlier


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_receiver_comes_to_its_code(case: Case, direct: dict[str, Result]) -> None:
    """Over connections of our own every receiver comes to its own status or error, within the deadline."""
    judge(case, case.comes_to, direct[case.name])


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.proxied is not Proxied.NOT_ASKED], ids=lambda case: case.name
)
def test_a_hostile_receiver_behind_a_proxy_comes_to_its_code(case: Case, proxied: dict[str, Result]) -> None:
    """Through an egress proxy the same receivers come to the same."""
    expected = case.comes_to if isinstance(case.proxied, Proxied) else case.proxied
    judge(case, expected, proxied[case.name])
