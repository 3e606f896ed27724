"""Open a journal to look at it, wherever it is."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from webhookd.journal.node_rows import ServerFacts
from webhookd.journal.server import Server, check_driver
from webhookd.journal.sqlite.inspection import inspect
from webhookd.journal.views import Views


def look_at(place: Path | Server) -> AbstractContextManager[Views]:
    """Open a journal for its views, next to running servers or without one.

    Raises JournalError if it is no journal or is damaged, and CommandError if it can't be read.
    """
    return inspect(place) if isinstance(place, Path) else _look_at_database(place)


@contextmanager
def look_at_server(server: Server) -> Iterator[tuple[Views, ServerFacts]]:
    """Open a journal in a database for its views, and look at its server; raises as `look_at`."""
    check_driver()
    from webhookd.journal.postgres.inspection import inspect_database  # noqa: PLC0415 - as in `open_store`

    with inspect_database(server) as journal:
        yield journal, journal.facts()


@contextmanager
def _look_at_database(server: Server) -> Iterator[Views]:
    check_driver()
    from webhookd.journal.postgres.inspection import inspect_database  # noqa: PLC0415 - as in `open_store`

    with inspect_database(server) as journal:
        yield journal
