"""A process that owns a journal: it holds the lock, or publishes without end and prints each id that was answered."""

import sys
from pathlib import Path

import trio

from tests.journal.harness import add_endpoint, event, publish, running
from webhookd.journal.queries import endpoints

_TOGETHER = 20


async def own(path: Path, task: str) -> None:
    """Run until killed."""
    async with running(path) as journal:
        known = await journal.transactions.read(endpoints.all)
        endpoint = known[0] if known else await add_endpoint(journal)
        print("ready", flush=True)
        if task == "hold":
            await trio.sleep_forever()
        number = 0
        while True:
            tickets = [publish(journal, event(f"{task}-{number + step}"), endpoint) for step in range(_TOGETHER)]
            number += _TOGETHER
            for ticket in tickets:
                result = await ticket.wait()
                print(result.id, flush=True)


if __name__ == "__main__":
    trio.run(own, Path(sys.argv[1]), sys.argv[2])
