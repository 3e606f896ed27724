"""What is done to the nodes, by name; each scenario also measures what it waits for."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import trio

from tests.nodes.node import Node
from tests.nodes.play import REAL, Play, eventually
from tests.nodes.producers import FAST, HELD, body_of, post, stream
from tests.nodes.receivers import Watched, held_webhook
from tests.patience import until

_OUTAGE_SECONDS = {True: 60.0, False: 3.0}
_REFUSAL_SECONDS = 60.0
_BATCHES, _EVENTS_A_BATCH = 8, 10
_BACKLOG = 40
_MOST_TRIES = 64

# What a session of the stopped process holds at each: a transaction, or nothing.
STAGES = MappingProxyType(
    {
        "event.written": True,  # in a transaction, between two trips to the server
        "sequences.locked": True,  # publishing, with what other publishers wait for
        "record.written": True,  # before the commit of an attempt
        "request.begun": False,  # before the send
        "answer.received": False,
        "beat.answered": False,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is done; `shows` says what holds nevertheless. With `needs_cable` the last node's cable can be pulled."""

    shows: str
    body: Callable[[Play], Awaitable[None]]
    needs_cable: bool = False
    is_of_leases: bool = True
    """Whether it takes another time with real leases."""


async def kill_server(play: Play) -> None:
    """Kill a node and start it again."""
    play.produce()
    play.note("first deliveries", await play.flowing())
    node = play.dice.choice(play.nodes)
    await node.kill()
    play.note("from kill -9 of a node until all webhooks get events again", await play.flowing())
    await node.begin()
    await play.balanced()
    await play.flowing()


async def lose_database(play: Play, *, act: str) -> None:
    """Stop or kill the database, and start it after a while."""
    play.produce()
    await play.flowing()
    await play.operate(play.server.stop if act == "stop" else play.server.kill_all)
    if act == "stop":
        await trio.sleep(_OUTAGE_SECONDS[play.scale == REAL])
    await play.operate(play.server.start)
    play.note("from the return of the database until all webhooks get events", await play.flowing())
    await play.balanced()


async def stop_at(play: Play, *, stage: str) -> None:
    """Stop a node at a stage for longer than its lease, and let it go on."""
    play.produce()
    await play.flowing()
    node = play.dice.choice(play.nodes)
    await node.stop_at(stage)
    if STAGES[stage]:
        stands = play.witness.stand_in_transaction(node.process_id)
        play.expect(stands, f"no session stood in a transaction at {stage}")
    play.note("from a stop until others have all webhooks", await play.taken_from(node.process_id))
    await play.flowing()
    node.go_on()
    await play.balanced()
    await play.flowing()


async def cut_network(play: Play) -> None:
    """Pull the cable of a node that has requests in flight and a backlog; plug it in again."""
    assert play.network is not None
    far = play.nodes[-1]
    play.produce()
    await play.flowing()
    backlog = await _webhook_of(play, far, "backlog", ordering="none", concurrency=32, rate=3.0)
    hanging = await _webhook_of(play, far, "hanging", timeout_seconds=30)
    hanging.hangs = True
    for number in range(_BACKLOG):
        await _publish(play, far, number)
    await until(lambda: hanging.hung and backlog.exchanges)
    play.network.pull()
    play.note("from a cut network until others have all webhooks", await play.taken_from(far.process_id))
    await until(lambda: play.has_ended(hanging.hung[0]))
    hanging.hangs = False
    sent = play.ledger.submit("cut-off", 0, FAST)
    refused = await post(far, body_of(sent), patience_seconds=_REFUSAL_SECONDS)
    play.expect(refused.status_code == 503, f"a node without the database answered {refused.status_code}")
    play.expect("retry-after" in refused.headers, "its 503 has no Retry-After")
    await play.flowing()
    play.network.plug()
    await play.balanced()
    await play.flowing()


async def end_lease(play: Play) -> None:
    """End the lease of a node while its record waits for a lock: it had the webhook when the record began."""
    node = play.nodes[0]
    others = play.nodes[1:]
    watched = await _webhook_of(play, node, "recorded")
    with play.server.administer(play.witness.database) as operator:
        operator.execute("BEGIN")
        operator.execute("SELECT FROM endpoint_state WHERE endpoint_pk = %s FOR UPDATE", (watched.pk,))
        await _publish(play, node, 0)
        await eventually(lambda: play.witness.waits_for_lock(node.process_id))
        for other in others:
            await other.suspend()
        registered = node.times_logged("node.registered")
        ended = play.witness.end_lease(node.process_id)
        await until(lambda: node.times_logged("node.registered") > registered)
        for other in others:
            other.go_on()
        await eventually(lambda: play.witness.slots_under(ended) <= {watched.slot})
        operator.execute("COMMIT")
    play.produce()
    await play.balanced()
    await play.flowing()


async def start_at_once(play: Play) -> None:
    """Kill all nodes, and start them at the same time once their leases have ended."""
    play.produce()
    await play.flowing()
    for _ in range(2):
        for node in play.nodes:
            await node.kill()
        await eventually(lambda: not play.witness.living())
        async with trio.open_nursery() as nursery:
            for node in play.nodes:
                nursery.start_soon(node.begin)
        await play.balanced()
        play.note("from a start of all nodes until all webhooks get events", await play.flowing())


async def publish_at_once(play: Play) -> None:
    """Publish streams of events for all webhooks at all nodes at the same time."""

    play.feed_seconds = 0.0

    async def publish(node: Node, name: str) -> None:
        for batch in range(_BATCHES):
            first = batch * _EVENTS_A_BATCH
            events = [play.ledger.submit(name, first + at, FAST) for at in range(_EVENTS_A_BATCH)]
            await stream(node, play.ledger, events)

    async with trio.open_nursery() as nursery:
        for number, node in enumerate(play.nodes):
            for side in ("a", "b"):
                nursery.start_soon(publish, node, f"stream{number}{side}")


async def _webhook_of(play: Play, node: Node, name: str, **settings: object) -> Watched:
    """Create webhooks until one is the node's; return it."""
    for number in range(_MOST_TRIES):
        watched = held_webhook(f"/{name}-{number}", **settings)
        await play.add(watched)
        if watched.slot in play.witness.slots_of(node.process_id):
            return watched
        await play.retire(watched)
    raise AssertionError(f"{node.directory.name} has none of {_MOST_TRIES} webhooks")


async def _publish(play: Play, node: Node, number: int) -> None:
    sent = play.ledger.submit("scenario", number, HELD)
    answer = await post(node, body_of(sent), patience_seconds=_REFUSAL_SECONDS)
    play.expect(answer.status_code == 202, f"{sent.id} was answered with {answer.status_code}")
    play.ledger.acknowledged.add(sent.id)


SCENARIOS = MappingProxyType(
    {
        "kill-server": Scenario(
            shows="A node that is killed and started again: others take its webhooks over.", body=kill_server
        ),
        "stop-database": Scenario(
            shows="A database that is stopped for a while: nothing is lost, and deliveries go on when it is back.",
            body=partial(lose_database, act="stop"),
        ),
        "kill-database": Scenario(
            shows="A database that is killed under load and started again.", body=partial(lose_database, act="kill")
        ),
        **{
            f"stop-at-{stage}": Scenario(
                shows=f"A node stopped at {stage} for longer than its lease, and going on then.",
                body=partial(stop_at, stage=stage),
            )
            for stage in STAGES
        },
        "cut-network": Scenario(
            shows="A node cut off from the database: it sends nothing any more, and refuses events.",
            body=cut_network,
            needs_cable=True,
        ),
        "lease-ends": Scenario(
            shows="A lease that ends while a record is under way: others take the webhook once it is committed.",
            body=end_lease,
            is_of_leases=False,
        ),
        "all-start-at-once": Scenario(
            shows="All nodes killed, and started at the same time: no slot is taken from a living node.",
            body=start_at_once,
        ),
        "publishers-at-once": Scenario(
            shows="Streams for the same webhooks at all nodes: no transaction waits in a circle, the feed skips none.",
            body=publish_at_once,
            is_of_leases=False,
        ),
    }
)
"""Each scenario, by its name."""
