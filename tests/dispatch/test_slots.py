"""Slots for requests in flight: shared among owners, granted in turn to those that wait, and never lost."""

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from webhookd.dispatch.slots import Slots


def take_all(slots: Slots, owner: str) -> int:
    """Take as many slots as an owner may have; return how many."""
    for count in range(slots.most + 1):
        if not slots.may_take(owner):
            return count
        slots.take(owner)
    raise AssertionError("it could have more than there are")


def test_who_takes_all_it_can_leaves_a_third() -> None:
    """One owner gets at most two thirds, a second a part of the rest, and each further one some."""
    slots = Slots(512)
    assert take_all(slots, "first") == 342
    shares = [take_all(slots, f"owner {number}") for number in range(3)]
    assert shares == [114, 38, 12]
    assert slots.may_take("another")


def test_few_slots_are_all_of_use() -> None:
    """A single owner can have the only slot, and both of two."""
    assert [take_all(Slots(most), "alone") for most in (1, 2, 3)] == [1, 2, 2]


def test_many_owners_use_all() -> None:
    """With one request for each owner, as in strict order, every slot is taken."""
    slots = Slots(512)
    for number in range(512):
        assert slots.may_take(f"webhook {number}")
        slots.take(f"webhook {number}")
    assert slots.taken == 512
    assert not slots.may_take("one more")


async def test_owners_that_wait_have_their_turn(autojump_clock: trio.testing.MockClock) -> None:
    """Each slot that is given back goes to the next owner in turn, however many waits another has."""
    slots, got = Slots(2), list[str]()
    for owner in ("a", "b"):
        slots.take(owner)

    async def wait_for(owner: str) -> None:
        await slots.acquire(owner)
        got.append(owner)

    async with trio.open_nursery() as nursery:
        for owner in ("c", "c", "c", "d"):
            nursery.start_soon(wait_for, owner)
            await wait_all_tasks_blocked()
        for owner in ("a", "b", "c", "d"):
            slots.release(owner)
            await wait_all_tasks_blocked()
    assert got == ["c", "d", "c", "c"]


async def test_a_slot_that_came_too_late_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    """A task that is canceled when its slot is granted passes it on; one that was canceled before gets none."""
    slots, got = Slots(1), list[str]()
    slots.take("a")

    async def wait_for(owner: str, scope: trio.CancelScope) -> None:
        with scope:
            await slots.acquire(owner)
            got.append(owner)

    async with trio.open_nursery() as nursery:
        scopes = {owner: trio.CancelScope() for owner in "bcd"}
        for owner, scope in scopes.items():
            nursery.start_soon(wait_for, owner, scope)
            await wait_all_tasks_blocked()
        scopes["c"].cancel()
        await wait_all_tasks_blocked()
        slots.release("a")
        scopes["b"].cancel()  # in the same step: it has been granted, and doesn't know
        await wait_all_tasks_blocked()
        assert slots.taken == 1
        assert got in (["d"], ["b"])
        nursery.cancel_scope.cancel()


@given(
    most=st.integers(1, 40),
    steps=st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=200),
)
def test_no_owner_shuts_out_another(most: int, steps: list[tuple[str, bool]]) -> None:
    """No slot is ever lost, and while one is free an owner that has none may take it."""
    slots, taken = Slots(most), dict.fromkeys("abcdef", 0)
    for owner, takes in steps:
        if takes:
            if slots.may_take(owner):
                slots.take(owner)
                taken[owner] += 1
            else:
                assert taken[owner] or slots.taken == most
        elif taken[owner]:
            slots.release(owner)
            taken[owner] -= 1
        assert slots.taken == sum(taken.values()) <= most


async def test_while_none_may_begin_nobody_gets_one_and_later_all_do(autojump_clock: MockClock) -> None:
    """Who asked meanwhile gets one once requests may begin again, although nobody gives one back."""
    opens_at = trio.current_time() + 5.0
    slots = Slots(512, is_open=lambda: trio.current_time() >= opens_at)
    assert not slots.may_take("one")
    with trio.fail_after(6.0):
        await slots.acquire("one")
    assert trio.current_time() >= opens_at
    assert slots.taken == 1
    opens_at = float("inf")
    with trio.move_on_after(1.0):
        await slots.acquire("one")
    assert slots.taken == 1  # who stops waiting has none
