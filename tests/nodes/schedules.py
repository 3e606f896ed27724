"""Random schedules: a few faults one after the other, each drawn from a seed, on nodes with load."""

import random
from collections.abc import Awaitable, Callable
from types import MappingProxyType

import trio

from tests.nodes.node import Node
from tests.nodes.play import Play
from tests.nodes.scenarios import STAGES

_FEWEST, _MOST = 2, 5
_LONGEST_PAUSE = 2.0  # of leases
_LONGEST_STOP = 2.5

Fault = Callable[[Play, random.Random], Awaitable[None]]


async def run_schedule(play: Play) -> None:
    """Do some random faults, each in the state that the ones before have left."""
    dice = play.plan
    play.produce()
    await play.flowing()
    names = [name for name in FAULTS if name != "cut" or play.network is not None]
    drawn = dice.choices(names, k=dice.randint(_FEWEST, _MOST))
    play.report.drawn = tuple(drawn)
    for name in drawn:
        await FAULTS[name](play, dice)
        await _wait(play, dice, _LONGEST_PAUSE)
    play.note("after the last fault until all webhooks get events", await play.flowing())
    await play.balanced()


async def _kill(play: Play, dice: random.Random) -> None:
    node = dice.choice(play.nodes)
    await node.kill()
    await _wait(play, dice, _LONGEST_STOP)
    await node.begin()


async def _kill_all(play: Play, dice: random.Random) -> None:
    for node in play.nodes:
        await node.kill()
    await _wait(play, dice, _LONGEST_STOP)
    async with trio.open_nursery() as nursery:
        for node in play.nodes:
            nursery.start_soon(node.begin)


async def _leave(play: Play, dice: random.Random) -> None:
    node = dice.choice(play.nodes)
    status = await node.leave()
    play.expect(status == 0, f"{node.directory.name} left with status {status}")
    await _wait(play, dice, 1.0)
    await node.begin()


async def _suspend(play: Play, dice: random.Random) -> None:
    chosen = dice.sample(play.nodes, dice.randint(1, len(play.nodes)))
    for node in chosen:
        await node.suspend()
    await _wait(play, dice, _LONGEST_STOP)
    for node in chosen:
        node.go_on()


async def _stop_at(play: Play, dice: random.Random) -> None:
    node: Node = dice.choice(play.nodes)
    stage = dice.choice(list(STAGES))
    with trio.move_on_after(2 * play.times.lease):  # a node without deliveries comes to few of them
        await node.stop_at(stage)
    if node.is_stopped:
        await _wait(play, dice, _LONGEST_STOP)
        node.go_on()
    else:
        await node.stop_nowhere()


async def _lose_database(play: Play, dice: random.Random) -> None:
    await play.operate(dice.choice((play.server.stop, play.server.kill_all)))
    await _wait(play, dice, _LONGEST_STOP)
    await play.operate(play.server.start)


async def _cut(play: Play, dice: random.Random) -> None:
    assert play.network is not None
    play.network.pull()
    await _wait(play, dice, _LONGEST_STOP)
    play.network.plug()


async def _wait(play: Play, dice: random.Random, leases: float) -> None:
    await trio.sleep(dice.random() * leases * play.times.lease)


FAULTS: MappingProxyType[str, Fault] = MappingProxyType(
    {
        "kill": _kill,
        "kill all": _kill_all,
        "leave": _leave,
        "suspend": _suspend,
        "stop at a stage": _stop_at,
        "lose the database": _lose_database,
        "cut": _cut,
    }
)
"""What a schedule is made of, by name."""
