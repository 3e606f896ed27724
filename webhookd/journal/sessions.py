"""The store's methods for the dashboard's sessions, where several nodes share a database."""

from collections.abc import Callable
from typing import TypeVar

from webhookd.crypto.vault import Vault
from webhookd.journal.session_rows import NewSession, SessionLimits, StoredSession
from webhookd.journal.storage import SessionQueries
from webhookd.journal.transactions import StorePart

T = TypeVar("T")


class Sessions(StorePart):
    """The sessions of all nodes; a journal in a file has none. A session's content is sealed here."""

    @property
    def _queries(self) -> SessionQueries:
        sharing = self._transactions.sharing
        assert sharing is not None  # noqa: S101 - otherwise sessions are in memory
        return sharing.sessions

    async def begin(self, vault: Vault, new: NewSession, content: bytes, limits: SessionLimits) -> None:
        """Add a session; at a bound, the one that was unused the longest ends."""
        await self._transactions.write(self._queries.begin, vault, new, content, limits)

    async def find(self, vault: Vault, key: bytes, idle_seconds: float) -> StoredSession | None:
        """Return a session, or None once it has ended, was not used for so long, or doesn't open."""
        found = await self._transactions.read(self._queries.find, key, idle_seconds)
        return self._queries.opened(vault, key, found)

    def note_use(self, key: bytes, seconds: float) -> None:
        """Store that a session is used now, unless that was stored less than `seconds` ago; it isn't waited for."""
        queries = self._queries
        self._transactions.submit(lambda database: queries.note_use(database, key, seconds))

    async def change(self, vault: Vault, key: bytes, changed: Callable[[bytes], tuple[bytes, T]]) -> T | None:
        """Store what `changed` makes of a session's content, and return its result; None once the session has ended.

        It is called in the writer's thread, and again if the transaction has to be repeated.
        """
        return await self._transactions.write(self._queries.change, vault, key, changed)

    async def end(self, key: bytes) -> None:
        """Delete a session, which may have ended already."""
        await self._transactions.write(self._queries.end, key)
