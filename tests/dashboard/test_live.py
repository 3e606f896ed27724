"""Live pages: what is sent, how a stream ends, and the limits on streams."""

import trio

from tests.dashboard.browsing import Site, Visitor, kept_sessions
from webhookd.admin.lifecycle import Readiness
from webhookd.dashboard.live import HEARTBEAT_SECONDS, event
from webhookd.dashboard.sessions import IDLE_SECONDS
from webhookd.dashboard.streams import MOST_OF_ONE_CALLER, MOST_STREAMS
from webhookd.dashboard.webhook_page import PARTS


def names(stream: str) -> list[str]:
    return [line.removeprefix("event: ") for line in stream.splitlines() if line.startswith("event: ")]


async def test_what_has_changed_is_sent(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """Each part is sent at the start and when it changes; a quiet stream sends heartbeats."""
    visitor = await site.visitor("viewer")
    endpoint = await site.api.world.endpoint("https://quiet.example/", is_active=False)
    path = f"/webhooks/{endpoint.id}/live"
    status, quiet = await visitor.stream(path, HEARTBEAT_SECONDS * 2.5)
    assert status == 200
    assert names(quiet) == list(PARTS)
    assert quiet.count(": alive\n\n") == 2

    async def publish() -> None:
        await trio.sleep(5)
        await site.api.world.publish("evt_waits")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish)
        _, changed = await visitor.stream(path, 10)
    assert names(changed) == [*PARTS, "health", "queue", "latest"]
    assert "1 delivery" in changed.split("event: queue")[2]


async def test_a_stream_ends_with_its_session(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """A revoked key and an hour without a request end the stream with a message; a stream doesn't count as use."""
    key_id, key = await site.api.key("viewer")
    visitor, unused = Visitor(site), await site.visitor("viewer")
    await visitor.sign_in(key)

    async def revoke() -> None:
        await trio.sleep(5)
        await site.api.ask("DELETE", f"/api/keys/{key_id}", None, uid=4711)

    began_at = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(revoke)
        _, said = await visitor.stream("/live", 60)
    assert names(said)[-1] == "ended"
    assert trio.current_time() - began_at < 7

    async def let_time_pass() -> None:
        await trio.sleep(5)
        [kept] = kept_sessions(site).values()
        kept.used_at -= IDLE_SECONDS - 10

    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_time_pass)
        _, said = await unused.stream("/live", 60)
    assert names(said)[-1] == "ended"
    assert 15 < trio.current_time() - began_at < 20
    assert site.dashboard.streams.open == 0


async def test_a_stream_ends_at_the_drain(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """Streams end within a second when the server drains."""
    visitor = await site.visitor()
    began_at = trio.current_time()

    async def drain() -> None:
        await trio.sleep(5)
        site.state = Readiness.DRAINING

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        await visitor.stream("/live", 60)
    assert 5 <= trio.current_time() - began_at <= 6.1


async def test_streams_are_bounded(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """Streams are limited in total and for each key, and an ended stream makes room for another.

    A caller without a stream still gets one.
    """
    *busy, second, newcomer = [await site.visitor() for _ in range(MOST_STREAMS // MOST_OF_ONE_CALLER + 2)]

    async def listen(visitor: Visitor) -> None:
        assert (await visitor.stream("/live", 3))[0] == 200

    async with trio.open_nursery() as nursery:
        for number, visitor in enumerate(busy):
            for _ in range(MOST_OF_ONE_CALLER - number):
                nursery.start_soon(listen, visitor)
            await trio.sleep(0.5)
            if not number:
                assert (await visitor.stream("/live", 0.5))[0] == 429
        nursery.start_soon(listen, second)
        await trio.sleep(0.5)
        assert site.dashboard.streams.open == MOST_STREAMS
        assert (await second.stream("/live", 0.5))[0] == 429
        assert (await newcomer.stream("/live", 0.5))[0] == 200
    assert site.dashboard.streams.open == 0
    assert (await busy[0].stream("/live", 1))[0] == 200


async def test_an_organization_has_its_share_of_the_streams(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """The streams of all keys of an organization are limited together; other organizations are not affected."""
    share = site.api.services.config.organizations.max_live_pages
    first, second = [await site.visitor("viewer", organizationId="acme") for _ in range(2)]
    other = await site.visitor("viewer", organizationId="other")
    unbound = await site.visitor("viewer")
    statuses: dict[Visitor, list[int]] = {visitor: [] for visitor in (first, second, other, unbound)}

    async def listen(visitor: Visitor) -> None:
        statuses[visitor].append((await visitor.stream("/live", 3))[0])

    async with trio.open_nursery() as nursery:
        for visitor in (first, second):
            for _ in range(32):
                nursery.start_soon(listen, visitor)
        await trio.sleep(0.5)
        assert site.dashboard.streams.open == share
        for _ in range(share):
            nursery.start_soon(listen, other)
        for _ in range(share + 1):
            nursery.start_soon(listen, unbound)
    assert sorted(statuses[first] + statuses[second]) == [200] * share + [429] * (64 - share)
    assert statuses[other] == [200] * share
    assert statuses[unbound] == [200] * (share + 1)
    assert site.dashboard.streams.open == 0
    assert (await first.stream("/live", 1))[0] == 200


async def test_the_refusal_says_which_limit_it_is(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """The error for too many streams of an organization names the configuration key."""
    visitor = await site.visitor("viewer", organizationId="acme")
    async with trio.open_nursery() as nursery:
        for _ in range(site.api.services.config.organizations.max_live_pages):
            nursery.start_soon(visitor.stream, "/live", 3)
        await trio.sleep(0.5)
        status, said = await visitor.stream("/live", 0.5)
    assert status == 429
    assert "8 live pages are open in this organization already (organizations.max_live_pages)" in said


def test_text_keeps_its_lines() -> None:
    """The text of a server-sent event is split only at line ends of the HTML standard."""
    assert (
        event("a", "one\ntwo\r\nthree\u2028four")
        == "event: a\ndata: one\ndata: two\ndata: three\u2028four\n\n".encode()
    )
