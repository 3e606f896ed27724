"""How the store's methods reach the database: queries on a snapshot, changes in the next group commit."""

from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import trio
from peewee import Database

from webhookd.journal.feed import Feed, Setting
from webhookd.journal.operations import DatabaseCall, Publish, Ticket
from webhookd.journal.ownership import LEADING
from webhookd.journal.reader import Readers
from webhookd.journal.storage import Engine
from webhookd.journal.writer import Writer

P = ParamSpec("P")
T = TypeVar("T")


class Transactions:
    """Runs queries and changes, which are functions of a `Database`; for the journal's own modules."""

    def __init__(self, writer: Writer, readers: Readers, engine: Engine, feed: Feed) -> None:
        self.ownership = engine.ownership
        self.process = engine.process
        self.sharing = engine.sharing
        self.leftovers = engine.leftovers
        self.drop_old = engine.drop_old
        self._writer = writer
        self._engine = engine
        self._feed = feed
        self._readers = readers

    @property
    def is_shared(self) -> bool:
        """Whether other processes may use the journal, too."""
        return bool(self.process)

    async def read(self, query: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a query on one snapshot; raises ReadTimeoutError after 5 s."""
        return await self._readers.run(lambda database: query(database, *args, **kwargs))

    def submit(
        self,
        change: Callable[[Database], T],
        committed: Callable[[T], None] | None = None,
        *,
        announces: Callable[[T], Setting] | None = None,
        insists: bool = False,
        is_barrier: bool = False,
        notices_of: Callable[[T], Sequence[Publish]] | None = None,
        driving: Iterable[int] = (),
        stores: Iterable[str] = (),
    ) -> Ticket[T]:
        """Submit a change, which runs in its own savepoint: a Rejected that it raises undoes only this change.

        `committed` is called on the event loop after the commit; or the feed, of every node, passes on what `announces`
        returns for the result. A change that `insists` can't be requested again, so
        it waits while the disk is full; others fail. No operation overtakes a barrier or is overtaken by it; other
        changes may overtake operations that wait for room. `notices_of` returns the operational events about the
        result, which are stored in the same commit; it is called in the writer's thread. A change that is only for the
        node that drives some endpoints, those in `driving`, fails with FencedError once another node drives one. One
        that `stores` settings, by their names in `known_settings`, is Rejected CONFLICT while a node is registered that
        doesn't know all of them; it must announce something.
        """
        if settings := tuple(stores):
            assert announces is not None  # noqa: S101 - what is announced is locked against nodes that register
            change = partial(self._change_known, settings, change)
        operation = DatabaseCall(
            change,
            cast("Callable[[object], None] | None", committed),
            announces=cast("Callable[[object], Setting] | None", announces),
            insists=insists,
            is_barrier=is_barrier,
            notices_of=cast("Callable[[object], Sequence[Publish]] | None", notices_of),
            fences=[fence for pk in driving if (fence := self._engine.ownership.fence(pk)) is not None],
        )
        if announces is not None:
            operation.committed = partial(self._announce, operation)
        self._writer.submit(operation)
        return cast("Ticket[T]", operation.ticket)

    def _change_known(self, settings: Sequence[str], change: Callable[[Database], T], database: Database) -> T:
        self.check_known(database, settings)
        return change(database)

    def check_known(self, database: Database, settings: Sequence[str]) -> None:
        """Raise Rejected CONFLICT if a registered node doesn't know one of the settings that this change stores."""
        if settings and self.sharing is not None:
            self.sharing.check_known(database, settings)

    def _announce(self, operation: DatabaseCall, result: object) -> None:
        assert operation.announces is not None  # noqa: S101 - that is why it is called
        marks = operation.marks
        # If later changes of other nodes are known, the feed has passed on this one with them, as it is by now.
        if marks is None or marks[1].number > self._engine.changes_known.number:
            self._feed.announce(operation.announces(result))
        if marks is not None:
            self._engine.announced(*marks)

    async def write(self, change: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a change and return once it is on disk, even if the caller is canceled meanwhile."""
        return await finished(self.submit(lambda database: change(database, *args, **kwargs)))

    async def insist(self, change: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a change that can't be requested again: it waits while the disk is full."""
        return await self.submit(lambda database: change(database, *args, **kwargs), insists=True).wait()

    async def lead(self, change: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a change that only the leader makes, as `insist` does; raises FencedError if another node leads."""
        return await self.submit(
            lambda database: change(database, *args, **kwargs), insists=True, driving=[LEADING]
        ).wait()


async def finished(ticket: Ticket[T]) -> T:
    """Return a ticket's result once it is on disk, even if the caller is canceled meanwhile."""
    with trio.CancelScope(shield=True):
        result = await ticket.wait()
    return result  # noqa: RET504 - to mypy the scope may swallow the return


class StorePart:
    """A group of the store's methods, such as `store.events`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions


def reads(
    query: Callable[Concatenate[Database, P], T],
) -> Callable[Concatenate[StorePart, P], Coroutine[Any, Any, T]]:
    """Return the method that runs a query on one snapshot: it takes the query's parameters and has its docstring."""

    @wraps(query)
    async def method(part: StorePart, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await part._transactions.read(query, *args, **kwargs)  # noqa: SLF001 - a method of that class

    return method
