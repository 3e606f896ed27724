"""The rows of the dashboard's sessions: their times, their bounds, and what is sealed in them."""

from collections.abc import Iterator
from threading import Thread

import pytest

from tests.journal.harness import MASTER_KEY, VAULT
from tests.journal.postgres.connections import connected, rows, value
from tests.patience import wait_until
from webhookd.crypto.vault import Vault, new_master_key
from webhookd.journal import NewSession, SessionLimits
from webhookd.journal.postgres import sessions
from webhookd.journal.postgres.database import PostgresDatabase

IDLE, LONGEST = 3600.0, 12 * 3600.0
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
LIMITS = SessionLimits(idle_seconds=IDLE, longest_seconds=LONGEST, most_of_one_caller=3, most=6)


@pytest.fixture
def database(journal_database: str) -> Iterator[PostgresDatabase]:
    with connected(journal_database) as database:
        yield database


def begin(
    database: PostgresDatabase, name: str, *, place: str = "key_a", share: str = "", expires_in: float | None = None
) -> bytes:
    key = name.encode()
    expires_at = (
        None if expires_in is None else value(database, "SELECT extract(epoch FROM now())::float8") + expires_in
    )
    new = NewSession(key=key, place=place, share=share or place, expires_at=expires_at)
    with database.atomic():
        sessions.begin(database, VAULT, new, b"content of " + key, LIMITS)
    return key


def names(database: PostgresDatabase) -> list[str]:
    return [bytes(key).decode() for (key,) in rows(database, "SELECT key FROM sessions ORDER BY key")]


def age(database: PostgresDatabase, key: bytes, seconds: float) -> None:
    """Have a session unused for so long."""
    rows(database, "UPDATE sessions SET used_at = extract(epoch FROM now()) - %s WHERE key = %s", seconds, key)


def test_a_session_is_found_until_it_is_over(database: PostgresDatabase) -> None:
    """It ends an hour after its last use, 12 hours after its beginning or with its key, by the database's clock."""
    key = begin(database, "one")
    found = sessions.find(database, key, IDLE)
    stored = sessions.opened(VAULT, key, found)
    assert stored is not None
    assert stored.content == b"content of one"
    assert 0 <= stored.idle_seconds < IDLE
    age(database, key, IDLE - 60)
    assert sessions.find(database, key, IDLE) is not None
    age(database, key, IDLE + 1)
    assert sessions.find(database, key, IDLE) is None
    begin(database, "two")
    assert names(database) == ["two"], "the next sign-in deletes what is over"
    lasts = value(database, "SELECT ends_at - extract(epoch FROM now()) FROM sessions")
    assert LONGEST - 60 < lasts <= LONGEST
    gone = begin(database, "gone", expires_in=-1.0)
    assert sessions.find(database, gone, IDLE) is None
    brief = begin(database, "brief", expires_in=100.0)
    assert sessions.find(database, brief, IDLE) is not None
    rows(database, "UPDATE sessions SET ends_at = 0 WHERE key = %s", brief)
    sessions.forget(database)
    assert names(database) == ["two"]


def test_a_use_is_stored_once_a_minute(database: PostgresDatabase) -> None:
    """Within a minute of the last one it isn't, so the requests of a browser cost no writes."""
    key = begin(database, "one")
    [(before,)] = rows(database, "SELECT used_at FROM sessions")
    sessions.note_use(database, key, 60.0)
    assert rows(database, "SELECT used_at FROM sessions") == [(before,)]
    age(database, key, 61.0)
    sessions.note_use(database, key, 60.0)
    [(after,)] = rows(database, "SELECT used_at FROM sessions")
    assert after >= before


def test_the_session_that_was_unused_the_longest_makes_room(database: PostgresDatabase) -> None:
    """At its own bound a caller loses one of its sessions, and at the total bound the greatest share loses one."""
    for number in range(LIMITS.most_of_one_caller):
        age(database, begin(database, f"a{number}", share="acme"), 100.0 - number)
    begin(database, "a3", share="acme")
    assert names(database) == ["a1", "a2", "a3"]
    age(database, begin(database, "b", place="key_b"), 3000.0)
    begin(database, "c0", place="key_c", share="acme")
    begin(database, "c1", place="key_c", share="acme")
    assert names(database) == ["a1", "a2", "a3", "b", "c0", "c1"]
    begin(database, "d", place="key_d")
    assert names(database) == ["a2", "a3", "b", "c0", "c1", "d"], "not b, which was unused for longer"


def test_sign_ins_take_turns(database: PostgresDatabase, journal_database: str) -> None:
    """One that begins while another isn't committed waits for it, and counts it."""
    for number in range(LIMITS.most_of_one_caller - 1):
        begin(database, f"a{number}")
    with connected(journal_database) as second, connected(journal_database) as watching:
        for each in (database, second):  # however slow the machine is
            rows(each, "SET lock_timeout = 0")
            rows(each, "SET statement_timeout = 0")
            rows(each, "SET idle_in_transaction_session_timeout = 0")
        thread = Thread(target=lambda: begin(second, "c"))
        with database.atomic():
            begin(database, "b")
            thread.start()
            wait_until(lambda: not thread.is_alive() or value(watching, WAITING) == 1)
            assert thread.is_alive()
        thread.join()
    assert names(database) == ["a1", "b", "c"]


def test_a_change_is_made_of_what_is_stored(database: PostgresDatabase) -> None:
    """Two changes in a row see each other; of a session that has ended nothing is changed."""
    key = begin(database, "one")

    def add(content: bytes) -> tuple[bytes, int]:
        return content + b"+", len(content)

    assert sessions.change(database, VAULT, key, add) == 14
    assert sessions.change(database, VAULT, key, add) == 15
    stored = sessions.opened(VAULT, key, sessions.find(database, key, IDLE))
    assert stored is not None
    assert stored.content == b"content of one++"
    sessions.end(database, key)
    assert sessions.change(database, VAULT, key, add) is None
    assert names(database) == []


def test_a_row_opens_only_in_its_place(database: PostgresDatabase) -> None:
    """The sealed content of one session opens with no other cookie, even if a row was copied in the table."""
    one, two = begin(database, "one"), begin(database, "two")
    rows(database, "UPDATE sessions SET sealed = (SELECT sealed FROM sessions WHERE key = %s) WHERE key = %s", one, two)
    assert sessions.opened(VAULT, two, sessions.find(database, two, IDLE)) is None
    assert sessions.opened(VAULT, one, sessions.find(database, one, IDLE)) is not None


def test_all_sessions_are_resealed_in_steps(database: PostgresDatabase) -> None:
    """After a change of the master key the new key alone opens them."""
    keys = [begin(database, str(number)) for number in range(LIMITS.most_of_one_caller)]
    new = new_master_key()
    both = Vault(MASTER_KEY)
    both.seal_with(new)
    assert sessions.reseal(database, both, b"", 2) == (keys[1], 2)
    assert sessions.reseal(database, both, keys[1], 2) == (None, 1)
    for key in keys:
        assert sessions.opened(Vault(new), key, sessions.find(database, key, IDLE)) is not None
    assert sessions.reseal(database, both, b"", 5) == (None, 0)
