"""Live pages: what is sent when, how a stream ends, and how many there may be."""

import trio

from tests.dashboard.browsing import Site, Visitor
from webhookd.admin.ports import Readiness
from webhookd.dashboard.live import HEARTBEAT_SECONDS, event
from webhookd.dashboard.sessions import IDLE_SECONDS
from webhookd.dashboard.streams import MOST_OF_ONE_CALLER, MOST_STREAMS
from webhookd.dashboard.webhook_page import PARTS


def names(stream: str) -> list[str]:
    return [line.removeprefix("event: ") for line in stream.splitlines() if line.startswith("event: ")]


async def test_what_has_changed_is_sent(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """Each part comes once at the start and again when it differs; a quiet stream says that it is alive."""
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
    """A revoked key and an hour without a request end the stream, which says so; listening is no use of a session."""
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
        [session] = site.dashboard.sessions._sessions.values()
        session.used_at -= IDLE_SECONDS - 10

    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_time_pass)
        _, said = await unused.stream("/live", 60)
    assert names(said)[-1] == "ended"
    assert 15 < trio.current_time() - began_at < 20
    assert site.dashboard.streams.open == 0


async def test_a_stream_ends_at_the_drain(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """A server that drains waits a second for its streams at most."""
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
    """One stream too many is refused, over all and with one key, and there is room again when one has ended."""
    visitors = [await site.visitor() for _ in range(MOST_STREAMS // MOST_OF_ONE_CALLER + 1)]

    async def listen(visitor: Visitor) -> None:
        assert (await visitor.stream("/live", 3))[0] == 200

    async with trio.open_nursery() as nursery:
        for visitor in visitors[:-1]:
            for _ in range(MOST_OF_ONE_CALLER):
                nursery.start_soon(listen, visitor)
            await trio.sleep(0.5)
            assert (await visitor.stream("/live", 0.5))[0] == 429
        assert site.dashboard.streams.open == MOST_STREAMS
        assert (await visitors[-1].stream("/live", 0.5))[0] == 429
    assert site.dashboard.streams.open == 0
    assert (await visitors[0].stream("/live", 1))[0] == 200


def test_text_keeps_its_lines() -> None:
    """An event's text is cut where a reader of the stream would cut it, and nowhere else."""
    assert (
        event("a", "one\ntwo\r\nthree\u2028four")
        == "event: a\ndata: one\ndata: two\ndata: three\u2028four\n\n".encode()
    )
