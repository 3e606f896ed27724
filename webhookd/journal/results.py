"""Pass on the results of committed operations: on the event loop, in the order of the batch."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import trio

from webhookd.base.errors import WebhookdError
from webhookd.journal.operations import Publish, Record, Submission
from webhookd.observe.logs import get_logger
from webhookd.observe.measures import Measures

# Results, or queued deliveries, that are passed on before other tasks get a turn: each may send a request.
STEP = 64

_log = get_logger("journal")


class StoredCallback(Protocol):
    """Gets each event that was stored, with its row number, before anything else about it is passed on."""

    def __call__(self, publish: Publish) -> None:
        """Take note of the event; called on the event loop."""
        ...


class Results:
    """Reports the results of operations, and calls their callbacks."""

    def __init__(self, stored: StoredCallback, measures: Measures) -> None:
        self._stored = stored
        self._measures = measures

    async def pass_on(self, operations: Sequence[Submission]) -> None:
        """Pass on the result or the error of each operation; other tasks get a turn after every `STEP` rows."""
        count = 0
        for operation in _with_notices(operations):
            if isinstance(operation, Publish) and operation.error is None:
                self._note(operation)
                for start in range(0, len(operation.queued), STEP):
                    part = operation.queued[start : start + STEP]
                    if (count := count + len(part)) > STEP:
                        await trio.lowlevel.checkpoint()
                        count = len(part)
                    operation.committed(part)
            if (count := count + 1) > STEP:
                await trio.lowlevel.checkpoint()
                count = 1
            _settle(operation)

    def _note(self, publish: Publish) -> None:
        if publish.event_pk is not None:
            self._stored(publish)
        else:
            self._measures.duplicates += 1


def _settle(operation: Submission) -> None:
    if operation.error is not None:
        if not isinstance(operation.error, WebhookdError):
            _log.error("journal.operation_failed", exc_info=operation.error)
        operation.fail(operation.error)
    elif isinstance(operation, Record):
        operation.succeed()
    elif isinstance(operation, Publish):
        assert operation.result is not None  # noqa: S101 - there was no error
        operation.ticket.succeed(operation.result)
    else:
        if operation.committed is not None:
            operation.committed(operation.result)
        operation.ticket.succeed(operation.result)


def _with_notices(operations: Iterable[Submission]) -> Iterator[Submission]:
    """Yield operations, each followed by the operational events that were stored with it."""
    for operation in operations:
        yield operation
        if not isinstance(operation, Publish) and operation.error is None:
            yield from operation.notices
