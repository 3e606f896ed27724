"""What the store asks only of a journal that several processes use: a `Sharing`."""

from collections.abc import Sequence

from peewee import Database

from webhookd.journal.known_settings import KnownSettings
from webhookd.journal.postgres import claims, known_keys, recent_attempts, sessions, versions
from webhookd.journal.rows import KeptAnswer
from webhookd.journal.storage import SessionQueries
from webhookd.observe.attempt_feed import FeedPage, Place


class PostgresSharing:
    """The queries of one process, of whose settings `known` says which other versions know them."""

    def __init__(self, process: str, known: KnownSettings) -> None:
        self.sessions: SessionQueries = sessions
        self._process = process
        self._known = known

    def nodes_without_key(self, database: Database, key_id: str) -> list[str]:
        """Return the names of the other living nodes that don't have a master key in their files."""
        return known_keys.nodes_without(database, key_id, self._process)

    def claim(self, database: Database, begun: KeptAnswer) -> KeptAnswer | None:
        """Store that this process has begun a request, unless one with its key was begun before; return that one."""
        return claims.claim(database, begun, self._process)

    def give_up(self, database: Database, caller: str, route: str, key: str) -> None:
        """Note that no process works on a request any more; its result is unknown."""
        claims.give_up(database, caller, route, key)

    def recent_attempts(self, database: Database, place: Place | None) -> FeedPage:
        """Return the attempts of all nodes after a place, or without one the last ones, oldest first."""
        return recent_attempts.after(database, place)

    def check_known(self, database: Database, settings: Sequence[str]) -> None:
        """Raise Rejected CONFLICT if a registered node doesn't know one of the settings that this change stores."""
        versions.check_known(database, self._known, settings)
