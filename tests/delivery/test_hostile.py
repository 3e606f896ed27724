"""Misbehaving receivers: each gives its own error in time, directly and through an egress proxy."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from tests.delivery.cases import CASES, TIMEOUT, Case, Proxied
from tests.delivery.hostile import proxying, serving
from tests.delivery.out import Out, sending, through
from tests.patience import PATIENCE_SECONDS
from webhookd.base.models import Outcome
from webhookd.delivery.http.wire import KEPT_BODY_BYTES

AT_ONCE = 24
DEADLINE_SECONDS = 0.5  # for those who never answer; the others have far more than they need
CONNECT_SECONDS = 20.0

Result = tuple[list[Outcome], int]


async def attack(out: Out, case: Case, results: dict[str, Result]) -> None:
    async with serving(case.script, ssl_context=case.tls() if case.tls else None) as receiver:
        url = receiver.url
        if case.asked_by is not None:
            url = f"{case.asked_by}://{url.partition('://')[2]}"
        seconds = DEADLINE_SECONDS if TIMEOUT in {case.comes_to, case.proxied} else PATIENCE_SECONDS
        outcomes = []
        for number in range(case.sends):
            if number and case.shows:
                await out.noticed(case.name)
            outcomes.append(await out.send(url, body=case.body, seconds=seconds, endpoint_id=case.name))
        results[case.name] = outcomes, receiver.connections


async def attack_all(out: Out, cases: list[Case]) -> dict[str, Result]:
    results: dict[str, Result] = {}
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def one(case: Case) -> None:
        async with limiter:
            await attack(out, case, results)

    # A deadline that isn't kept would be waited for without end.
    with trio.fail_after(10 * PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            for case in cases:
                nursery.start_soon(one, case)
    return results


async def directly(cases: list[Case]) -> dict[str, Result]:
    async with sending(connect=CONNECT_SECONDS) as out:
        return await attack_all(out, cases)


async def through_a_proxy(cases: list[Case]) -> dict[str, Result]:
    async with proxying() as proxy, sending(through(proxy), connect=CONNECT_SECONDS) as out:
        return await attack_all(out, [case for case in cases if case.proxied is not Proxied.NOT_ASKED])


def all_of(attacks: Callable[[list[Case]], Awaitable[dict[str, Result]]]) -> dict[str, Result]:
    """Attack in time as it is where a deadline must come, and elsewhere in time so slow that none can."""
    to_the_deadline = [case for case in CASES if TIMEOUT in {case.comes_to, case.proxied}]
    others = [case for case in CASES if case not in to_the_deadline]
    return trio.run(attacks, to_the_deadline) | trio.run(attacks, others, clock=MockClock(rate=0.1))


@pytest.fixture(scope="module")
def direct() -> dict[str, Result]:
    return all_of(directly)


@pytest.fixture(scope="module")
def proxied() -> dict[str, Result]:
    return all_of(through_a_proxy)


def judge(case: Case, expected: object, result: Result) -> None:
    outcomes, connections = result
    last = outcomes[-1]
    assert (last.error or last.status) == expected, last
    assert (last.error is None) != (last.detail != "")
    if case.kept is not None:
        assert (last.body, last.truncated) == (case.kept, len(case.kept) == KEPT_BODY_BYTES)
    if case.connections is not None:
        assert connections == case.connections
    for earlier in outcomes[:-1]:
        assert earlier.error is None, earlier


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_receiver_comes_to_its_code(case: Case, direct: dict[str, Result]) -> None:
    """Directly, every receiver gives its own status or error within the deadline."""
    judge(case, case.comes_to, direct[case.name])


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.proxied is not Proxied.NOT_ASKED], ids=lambda case: case.name
)
def test_a_hostile_receiver_behind_a_proxy_comes_to_its_code(case: Case, proxied: dict[str, Result]) -> None:
    """Through an egress proxy the same receivers give the same results."""
    expected = case.comes_to if isinstance(case.proxied, Proxied) else case.proxied
    judge(case, expected, proxied[case.name])
