"""Faults planted in every node from outside, before it starts; each has a scenario that must find it.

The product has no switch for any of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import trio
from peewee import SQL

from tests.planted import replace
from webhookd.journal.postgres import batch, leases, storage
from webhookd.journal.postgres.membership import Membership
from webhookd.journal.queries import events

# The list of living nodes is read when the statement begins. On a busy server it may take a while to come to the rows.
_CLAIM_IN_ONE_STATEMENT = """
UPDATE slots AS s SET node = %s, generation = generation + 1
FROM (
    SELECT slot FROM slots
    WHERE node IS NULL OR (node NOT IN (SELECT id FROM nodes) AND %s::text[] IS NOT NULL)
    ORDER BY hashtext(%s || slot) LIMIT (SELECT %s FROM pg_sleep(random() / 5)) FOR UPDATE SKIP LOCKED
) AS free
WHERE s.slot = free.slot RETURNING s.slot, s.generation
"""


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


def _lock_in_any_order() -> None:
    added = batch._ADD_DELIVERIES
    replace(batch, "_ADD_DELIVERIES", added.replace("ORDER BY endpoint_pk FOR NO KEY", "ORDER BY random() FOR NO KEY"))
    assert added != batch._ADD_DELIVERIES


def _page_by_number() -> None:
    replace(events, "_IS_SETTLED", "true")
    replace(events, "_IS_LATER", '(%s::bigint, CAST(%s AS text)) IS NOT NULL AND "t1"."pk" > %s')
    replace(events, "_ORDER", (SQL('"t1"."pk"'),))


def _claim_in_one_statement() -> None:
    replace(leases, "_TAKE", _CLAIM_IN_ONE_STATEMENT)


PLANTED: dict[str, Fault] = {
    "holds no slots while it records": Fault(
        plant=_hold_no_slots, found_by="lease-ends", says="was recorded by a node that had lost the webhook"
    ),
    "has no limit of its own": Fault(plant=_have_no_limit, found_by="cut-network", says="late requests"),
    "locks sequences in any order": Fault(
        plant=_lock_in_any_order, found_by="publishers-at-once", says="transactions waited for each other in a circle"
    ),
    "pages through the feed by number": Fault(
        plant=_page_by_number, found_by="publishers-at-once", says="is missing in the feed"
    ),
    "finds the dead and takes their slots in one statement": Fault(
        plant=_claim_in_one_statement, found_by="all-start-at-once", says="was taken from a living node"
    ),
}
