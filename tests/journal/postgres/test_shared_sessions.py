"""A browser whose requests go to several nodes: its session, its forms, and its end; and keys at a node cut off."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import trio
from peewee import Database

from tests.admin.inprocess import OWN_UID, Signer, api_of
from tests.dashboard.browsing import Site, Visitor, text_of
from tests.journal.postgres.nodes import PATIENT, Open
from tests.patience import until
from webhookd.admin.lifecycle import Readiness
from webhookd.dashboard.sessions import IDLE_SECONDS, MOST_OF_ONE_CALLER
from webhookd.journal.server import LeaseTimes
from webhookd.server import _Lifecycle

OK, SEE, OUTDATED = 200, 303, 503
NOTICE = "Disabled. Its events are held until you enable it."


class Two(NamedTuple):
    """The dashboards of two nodes, and the browser that asks both."""

    one: Site
    other: Site


@asynccontextmanager
async def two_sites(open_nodes: Open, directory: Path, times: LeaseTimes = PATIENT) -> AsyncIterator[Two]:
    """Run two nodes, the other one with these times."""
    async with open_nodes() as nodes:
        sites: list[Site] = []
        signer = Signer()
        for number in range(2):
            own = directory / str(number)
            own.mkdir()
            node = await nodes.start(times=times if sites else PATIENT)
            sites.append(Site(await api_of(node, own, signer)))
        yield Two(*sites)


def at(site: Site, visitor: Visitor) -> Visitor:
    """Return the same browser, whose requests go to another node."""
    same = Visitor(site)
    same.client.cookies = visitor.client.cookies
    return same


async def is_in(visitor: Visitor) -> bool:
    return (await visitor.get("/")).status_code == OK


def count_sessions(database: Database) -> int:
    [(count,)] = database.execute_sql("SELECT count(*) FROM sessions")  # type: ignore[no-untyped-call]  # peewee's stub
    return int(count)


def used_at(database: Database) -> float:
    [(at,)] = database.execute_sql("SELECT used_at FROM sessions")  # type: ignore[no-untyped-call]  # as above
    return float(at)


def let_time_pass(database: Database, seconds: float) -> None:
    """Have every session unused for so long."""
    database.execute_sql("UPDATE sessions SET used_at = used_at - %s", (seconds,))  # type: ignore[no-untyped-call]  # as above


async def test_a_browser_may_ask_any_node(open_nodes: Open, tmp_path: Path) -> None:
    """A session that began at one node, with a key made a moment ago, holds at the other, with forms and secrets."""
    async with two_sites(open_nodes, tmp_path) as sites:
        here = await sites.one.visitor()
        there = at(sites.other, here)
        endpoint = await sites.one.api.world.endpoint()
        assert await is_in(there)
        csrf = await here.csrf()
        rotated = await there.post(f"/webhooks/{endpoint.id}/rotate", {"overlap": "24"}, csrf=csrf)
        assert rotated.status_code == SEE, text_of(rotated.text)
        assert "whsec_" in await here.page(rotated.headers["location"])
        assert "whsec_" not in await there.page(rotated.headers["location"]), "it is shown once"
        done = await here.post(f"/webhooks/{endpoint.id}/disable", csrf=csrf)
        assert done.status_code == SEE, text_of(done.text)
        page = done.headers["location"]
        assert NOTICE in text_of(await there.page(page))
        assert NOTICE not in text_of(await here.page(page)), "it is shown once"
        assert (await there.post("/sign-out", csrf=csrf)).status_code == SEE
        assert not await is_in(here)
        assert not await is_in(there)


async def test_a_use_is_stored_after_a_minute(open_nodes: Open, tmp_path: Path) -> None:
    """Requests within a minute write nothing; a later one keeps the session open for another hour."""
    async with open_nodes() as nodes:
        site = Site(await api_of(await nodes.start(times=PATIENT), tmp_path, Signer()))
        browser = await site.visitor()
        transactions = site.api.world.journal.transactions
        began_at = await transactions.read(used_at)
        for _ in range(3):
            assert await is_in(browser)
        assert await transactions.read(used_at) == began_at
        await transactions.write(let_time_pass, IDLE_SECONDS - 60)
        assert await is_in(browser)
        while await transactions.read(used_at) < began_at:
            await trio.sleep(0.01)
        await transactions.write(let_time_pass, IDLE_SECONDS + 60)
        assert not await is_in(browser)


async def test_a_revoked_key_ends_its_sessions_at_once(open_nodes: Open, tmp_path: Path) -> None:
    """The rows go with the key, so no node has to hear of it first; the sessions of other keys stay."""
    async with two_sites(open_nodes, tmp_path) as sites:
        key_id, key = await sites.one.api.key("viewer")
        here, kept = Visitor(sites.one), await sites.one.visitor()
        await here.sign_in(key)
        there = at(sites.other, here)
        assert await is_in(there)
        async with sites.other.api.world.journal.holding_changes():
            assert (await sites.one.api.ask("DELETE", f"/api/keys/{key_id}", None, uid=OWN_UID)).status_code == OK
            assert not await is_in(there)
        assert not await is_in(here)
        assert await is_in(at(sites.other, kept))


async def test_a_live_page_ends_with_its_session(open_nodes: Open, tmp_path: Path) -> None:
    """A stream at one node ends when the browser signs out at another."""
    async with two_sites(open_nodes, tmp_path) as sites:
        here = await sites.one.visitor()
        there = at(sites.other, here)
        csrf = await here.csrf()
        said: list[str] = []

        async def listen() -> None:
            said.append((await there.stream("/live", seconds=60))[1])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await until(lambda: sites.other.dashboard.streams.open == 1)
            assert (await here.post("/sign-out", csrf=csrf)).status_code == SEE
        assert "event: ended" in said[0]


async def test_sign_ins_at_several_nodes_keep_within_the_bounds(open_nodes: Open, tmp_path: Path) -> None:
    """They take turns: however many begin at once, a key has as many sessions as at one server."""
    async with two_sites(open_nodes, tmp_path) as sites:
        _, key = await sites.one.api.key("viewer")
        journal = sites.one.api.world.journal
        browsers = [Visitor(site) for site in sites for _ in range(MOST_OF_ONE_CALLER)]

        async def known() -> bool:
            return (await Visitor(sites.other).sign_in(key)).status_code == SEE

        while not await known():
            await trio.sleep(0.05)
        async with trio.open_nursery() as nursery:
            for browser in browsers:
                nursery.start_soon(browser.sign_in, key)
        assert await journal.transactions.read(count_sessions) == MOST_OF_ONE_CALLER
        assert sum([await is_in(at(sites.one, browser)) for browser in browsers]) == MOST_OF_ONE_CALLER


async def test_a_node_that_is_cut_off_accepts_no_key(open_nodes: Open, tmp_path: Path) -> None:
    """While it can't see what others revoke it answers 503; then a revoked key is refused, and others work again."""
    async with two_sites(open_nodes, tmp_path, replace(PATIENT, outdated=0.5)) as sites:
        revoked_id, revoked = await sites.one.api.key("viewer")
        _, good = await sites.one.api.key("viewer")
        here, there = sites.one.api, sites.other.api
        browser = at(sites.other, await sites.one.visitor())
        lifecycle = _Lifecycle(there.world.journal, there.world.router)
        lifecycle.state = Readiness.OK

        async def answers(status: int, key: str | None, path: str = "/api/webhooks") -> None:
            while (await there.ask("GET", path, key)).status_code != status:
                await trio.sleep(0.05)

        for key in (revoked, good):
            await answers(OK, key)
        while not await is_in(browser):
            await trio.sleep(0.05)
        said: list[str] = []

        async def listen() -> None:
            said.append((await browser.stream("/live", seconds=60))[1])

        async with trio.open_nursery() as nursery, there.world.journal.holding_changes():
            nursery.start_soon(listen)
            await until(lambda: said or sites.other.dashboard.streams.open)
            assert (await here.ask("DELETE", f"/api/keys/{revoked_id}", None, uid=OWN_UID)).status_code == OK
            await answers(OUTDATED, revoked)
            await until(lambda: said)
            assert "event: ended" not in said[0], "the browser asks again, maybe another node"
            assert lifecycle.readiness()[0] is Readiness.UNREACHABLE
            refused = await there.ask("GET", "/api/webhooks", good)
            assert (refused.status_code, refused.headers["retry-after"]) == (OUTDATED, "1")
            assert (refused.json()["code"], refused.json()["type"]) == (
                "KEYS_OUTDATED",
                "urn:webhookd:error:KEYS_OUTDATED",
            )
            event = {"type": "user.created", "data": {}}
            assert (await there.ask("POST", "/api/events", good, body=event)).status_code == OUTDATED
            assert (await browser.get("/")).status_code == OUTDATED
            signing_in = await Visitor(sites.other).sign_in(good)
            assert (signing_in.status_code, signing_in.headers["retry-after"]) == (OUTDATED, "1")
            # The others who are let in can't be revoked, or need no key.
            for path in ("/healthz", "/readyz", "/metrics"):
                await answers(OK, None, path)
            assert (await there.ask("GET", "/api/webhooks", there.signer.token())).status_code == OK
            assert (await there.ask("GET", "/api/webhooks", None, uid=OWN_UID)).status_code == OK
            assert (await there.ask("GET", "/api/webhooks", good, uid=OWN_UID)).status_code == OUTDATED
            assert (await here.ask("GET", "/api/webhooks", good)).status_code == OK
        await answers(401, revoked)
        await answers(OK, good)
        await until(lambda: lifecycle.readiness() == (Readiness.OK, ()))
        while not await is_in(browser):
            await trio.sleep(0.05)


async def test_a_revoked_key_is_refused_at_every_node(open_nodes: Open, tmp_path: Path) -> None:
    """A notified node follows a change before its next look."""
    async with two_sites(open_nodes, tmp_path) as sites:
        key_id, key = await sites.one.api.key("viewer")
        ask = partial(sites.other.api.ask, "GET", "/api/webhooks", key)
        while (await ask()).status_code != OK:
            await trio.sleep(0.01)
        assert (await sites.one.api.ask("DELETE", f"/api/keys/{key_id}", None, uid=OWN_UID)).status_code == OK
        while (await ask()).status_code != 401:
            await trio.sleep(0.01)
