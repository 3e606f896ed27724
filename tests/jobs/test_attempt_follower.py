"""The attempts of all nodes are read once for any number of callers; each answer says if its caller missed some."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import trio.testing

from tests.admin.test_attempts import add
from webhookd.jobs.attempt_follower import OWN_SECONDS, READ_SECONDS, AttemptFollower
from webhookd.observe.attempt_feed import MOST_KEPT, AttemptFacts, AttemptFeed, FeedPage, Place


@dataclasses.dataclass
class Database:
    """Attempts at the places `(1,)`, `(2,)` and so on, read as `recent_attempts.after` does."""

    attempts: list[AttemptFacts] = dataclasses.field(default_factory=list)
    reads: int = 0

    def grow(self, number: int) -> None:
        made = AttemptFeed()
        for at in range(len(self.attempts), len(self.attempts) + number):
            add(made, f"att_{at + 1}")
        self.attempts += [each for _, each in made.after(None).attempts]

    async def read(self, place: Place | None) -> FeedPage:
        await trio.lowlevel.checkpoint()
        self.reads += 1
        (after,) = place or (0,)
        newer = [((at,), each) for at, each in enumerate(self.attempts, 1) if at > after]
        last = newer[-1][0] if newer else (after,)
        return FeedPage(attempts=newer[-MOST_KEPT:], last=last, gap=place is not None and len(newer) > MOST_KEPT)


def ids(page: FeedPage) -> Sequence[str]:
    return [each.id for _, each in page.attempts]


async def test_many_callers_are_one_read_a_second(autojump_clock: trio.testing.MockClock) -> None:
    """All callers of a second share a read; what came since is shown by the next one."""
    database = Database()
    database.grow(2)
    follower = AttemptFollower(database.read, AttemptFeed())

    async def ask(_: Any) -> None:
        assert ids(await follower.after(None)) == ["att_1", "att_2"]

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(ask, number)
    assert database.reads == 1
    database.grow(1)
    assert ids(await follower.after((1,))) == ["att_2"]
    await trio.sleep(READ_SECONDS)
    page = await follower.after((2,))
    assert (ids(page), page.last, page.gap, database.reads) == (["att_3"], (3,), False, 2)
    assert ids(await follower.after(page.last)) == []
    ahead = await follower.after((7,))  # of a caller that another node has answered, which had read later
    assert (ids(ahead), ahead.last, ahead.gap) == ([], (7,), False)


async def test_own_attempts_are_shown_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """While this process has made attempts since the last read, the next one comes sooner."""
    database, own = Database(), AttemptFeed()
    follower = AttemptFollower(database.read, own)
    await follower.after(None)
    await trio.sleep(OWN_SECONDS)
    database.grow(1)
    assert ids(await follower.after(None)) == []
    add(own, "att_1")
    assert ids(await follower.after(None)) == ["att_1"]
    await trio.sleep(OWN_SECONDS)
    await follower.after(None)
    assert database.reads == 2


async def test_who_has_missed_attempts_is_told(autojump_clock: trio.testing.MockClock) -> None:
    """No more than the last ones are kept, whether there were too many at once or one after the other."""
    database = Database()
    database.grow(5)
    follower = AttemptFollower(database.read, AttemptFeed())
    assert len((await follower.after(None)).attempts) == 5
    database.grow(MOST_KEPT - 5)
    await trio.sleep(READ_SECONDS)
    assert not (await follower.after((0,))).gap
    database.grow(1)
    await trio.sleep(READ_SECONDS)
    page = await follower.after((1,))
    assert (len(page.attempts), page.attempts[0][0], page.gap) == (MOST_KEPT, (2,), True)
    assert not (await follower.after((2,))).gap
    database.grow(MOST_KEPT)
    database.grow(1)
    await trio.sleep(READ_SECONDS)
    page = await follower.after((MOST_KEPT,))
    assert (len(page.attempts), page.attempts[0][0], page.gap) == (MOST_KEPT, (MOST_KEPT + 3,), True)
