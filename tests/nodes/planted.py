"""Faults planted in every node from outside, before it starts; each has a scenario that must find it.

The product has no switch for any of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import trio
from peewee import SQL

from tests.planted import replace
from webhookd.journal.postgres import storage
from webhookd.journal.postgres.membership import Membership
from webhookd.journal.queries import events


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault: what plants it, the scenario that must find it, and what that scenario then reports."""

    plant: Callable[[], None]
    found_by: str
    says: str


def _hold_no_slots() -> None:
    held = storage._HOLD_SLOTS
    replace(storage, "_HOLD_SLOTS", held.replace(" FOR SHARE OF slots", ""))
    assert held != storage._HOLD_SLOTS


def _have_no_limit() -> None:
    async def watch_nothing(_: Membership) -> None:
        await trio.sleep_forever()

    replace(Membership, "may_send", lambda _: True)
    replace(Membership, "_watch_limit", watch_nothing)


def _page_by_number() -> None:
    replace(events, "_IS_SETTLED", "true")
    replace(events, "_IS_LATER", '(%s::bigint, CAST(%s AS text)) IS NOT NULL AND "t1"."pk" > %s')
    replace(events, "_ORDER", (SQL('"t1"."pk"'),))


PLANTED: dict[str, Fault] = {
    "holds no slots while it records": Fault(
        plant=_hold_no_slots, found_by="lease-ends", says="was recorded by a node that had lost the webhook"
    ),
    "has no limit of its own": Fault(plant=_have_no_limit, found_by="cut-network", says="late requests"),
    "pages through the feed by number": Fault(
        plant=_page_by_number, found_by="publishers-at-once", says="is missing in the feed"
    ),
}
