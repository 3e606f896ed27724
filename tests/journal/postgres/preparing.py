"""Make the tables of a journal in a process of its own: `python -m tests.journal.postgres.preparing URL`.

It waits until the lock `START`, which a test holds, is free, so that several processes begin at the same time.
"""

import sys

from tests.journal.postgres.connections import connected, rows
from webhookd.journal.postgres.migrations import prepare

START = 1


def main() -> None:
    """Make the tables, once it is time."""
    with connected(sys.argv[1]) as database:
        rows(database, "SET lock_timeout = 0; SET statement_timeout = 0")
        rows(database, "SELECT pg_advisory_lock_shared(%s)", START)
        prepare(database, now=0.0)


if __name__ == "__main__":
    main()
