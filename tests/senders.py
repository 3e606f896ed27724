"""Senders of tests: each request is a task that waits and returns an outcome."""

from dataclasses import dataclass, field

import trio

from webhookd.base.models import Outcome
from webhookd.delivery.request import Cancelable, Done, Request


@dataclass(slots=True, eq=False)
class Started:
    """A request that is a task in `scope`."""

    scope: trio.CancelScope
    started_at: float = field(default_factory=trio.current_time)

    def cancel(self) -> None:
        self.scope.cancel()


class TaskSender:
    """Base of senders that answer in `send`; `nursery` must be set before the first request."""

    nursery: trio.Nursery | None = None

    async def send(self, request: Request) -> Outcome:
        """Return the outcome of a request; an exception is passed on as a bug of the sender."""
        raise NotImplementedError

    def start(self, request: Request, done: Done) -> Cancelable:
        assert self.nursery is not None
        scope = trio.CancelScope()
        self.nursery.start_soon(self._run, request, done, scope)
        return Started(scope)

    async def forget(self, endpoint_id: str) -> None:
        await trio.lowlevel.checkpoint()

    async def _run(self, request: Request, done: Done, scope: trio.CancelScope) -> None:
        result: Outcome | Exception
        with scope:
            try:
                result = await self.send(request)
            except Exception as error:  # noqa: BLE001 - passed on as the real sender does
                result = error
            if not scope.cancel_called:
                done(result)
