"""The leases of slots, on several connections to a real server; the ends of leases are set, not waited for."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from webhookd.base.database_url import parse
from webhookd.journal.ownership import LEADING, SLOTS, slot_of
from webhookd.journal.postgres import leases
from webhookd.journal.postgres.database import ConnectionRole, connect
from webhookd.journal.postgres.leases import Scanned, surplus_of
from webhookd.journal.postgres.migrations import prepare
from webhookd.journal.postgres.storage import _HOLD_SLOTS
from webhookd.journal.server import LeaseTimes

Connection = psycopg.Connection[Any]
SLEEPS = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
TIMES = LeaseTimes(lease=600.0, limit=500.0, beat=200.0, settle=600.0)


@pytest.fixture
def url(empty_database: str) -> str:
    database = connect(parse(empty_database), ConnectionRole.WRITER, application_name="test")
    prepare(database, now=0.0)
    database.close()
    return empty_database


@dataclass
class Node:
    """A node that calls the leases' functions at the times that a test chooses."""

    url: str
    process: str
    number: int = 1
    held: dict[int, int] = field(default_factory=dict)
    writers: list[Connection] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Under a name of its own: a node whose sessions are ended connects again, which is no matter of these tests.
        self.connection = psycopg.connect(self.url, autocommit=True, application_name="test")
        leases.register(self.connection, self.id, "test", 1, TIMES)

    @property
    def id(self) -> str:
        return f"{self.process}.{self.number}"

    def writer(self, name: str | None = None) -> Connection:
        """Connect as the process's writer does, or under another name, as a session that isn't ended with it."""
        name = name or f"webhookd/{self.process}/writer"
        self.writers.append(psycopg.connect(self.url, autocommit=True, application_name=name))
        return self.writers[-1]

    def close(self) -> None:
        for connection in (self.connection, *self.writers):
            connection.close()

    def scan(self) -> Scanned:
        found = leases.scan(self.connection, self.id, self.held, TIMES)
        for slot in found.lost:
            del self.held[slot]
        self.held |= found.taken
        return found

    def beat(self) -> bool:
        return leases.beat(self.connection, self.id, TIMES) is not None

    def hold(self, connection: Connection, slot: int) -> None:
        """Begin a transaction that records something of a slot; DivisionByZero if another node has it."""
        connection.execute("BEGIN")
        connection.execute(_HOLD_SLOTS, (1, [slot], [self.held[slot]], self.process))


Start = Callable[[str], Node]


@pytest.fixture
def start(url: str) -> Iterator[Start]:
    """Return a function that starts a node by its process."""
    nodes: list[Node] = []

    def started(process: str) -> Node:
        nodes.append(Node(url, process))
        return nodes[-1]

    yield started
    for node in nodes:
        node.close()


def end_lease(connection: Connection, node: str) -> None:
    connection.execute("UPDATE nodes SET expires_at = clock_timestamp() - interval '1 s' WHERE id = %s", (node,))


def test_a_node_that_beats_keeps_its_slots_and_one_whose_lease_has_ended_loses_all(start: Start) -> None:
    """The next node to scan takes them, and the fenced node's beat says so."""
    one, other = start("one"), start("other")
    assert len(one.scan().taken) == SLOTS // 2
    assert len(other.scan().taken) == SLOTS // 2
    assert one.beat()
    assert not other.scan().taken
    end_lease(other.connection, one.id)
    assert not one.beat()
    found = other.scan()
    assert (len(found.taken), found.dead, found.nodes) == (SLOTS // 2, [one.id], 1)


def test_a_slot_can_not_be_taken_while_a_record_of_it_is_being_committed(start: Start) -> None:
    """The open transaction holds it, also against a node that finds its owner's lease ended."""
    one = start("one")
    one.scan()
    writer = one.writer("slow")
    one.hold(writer, 7)
    end_lease(one.connection, one.id)
    other = start("other")
    assert 7 not in other.scan().taken
    writer.execute("COMMIT")
    assert 7 in other.scan().taken
    with pytest.raises(psycopg.errors.DivisionByZero):
        one.hold(writer, 7)


def test_the_sessions_of_a_dead_node_are_ended(start: Start) -> None:
    """A process that was stopped in an open transaction keeps nobody from its slots."""
    one = start("one")
    one.scan()
    writer = one.writer()
    one.hold(writer, 7)
    end_lease(one.connection, one.id)
    other = start("other")
    taken = set(other.scan().taken)
    while 7 not in taken:
        taken |= set(other.scan().taken)
    assert len(taken) == SLOTS
    with pytest.raises(psycopg.OperationalError):
        writer.execute("COMMIT")


def test_nothing_is_taken_until_every_node_knows_of_a_restore(start: Start) -> None:
    """In an older copy all leases have ended, and slots are free that are driven: first all stop by themselves."""
    one = start("one")
    connection = one.connection
    one.scan()
    end_lease(connection, one.id)
    leases.give_back(connection, one.id, range(100))
    other = start("other")
    connection.execute("INSERT INTO incarnations VALUES (1, 1, now(), '-infinity'), (1, 2, now(), clock_timestamp())")
    found = other.scan()
    assert (found.taken, found.nodes) == ({}, 2)
    connection.execute("UPDATE incarnations SET noticed_at = noticed_at - interval '601 s' WHERE timeline = 2")
    found = other.scan()
    assert (len(found.taken), found.nodes) == (SLOTS, 1)


def test_a_take_whose_answer_was_lost_leaves_no_slot_without_a_driver(start: Start) -> None:
    """Slots that the table gives to the node, but that it doesn't know of, are given back and taken again."""
    one = start("one")
    one.scan()
    generations = dict(one.held)
    one.held.clear()
    found = one.scan()
    assert len(found.taken) == SLOTS
    assert all(found.taken[slot] > generations[slot] for slot in generations)


def test_a_slot_that_was_taken_is_noticed(start: Start) -> None:
    """A node that still believes to have a slot learns by its next scan that another has it."""
    one, other = start("one"), start("other")
    one.scan()
    end_lease(other.connection, one.id)
    other.scan()
    leases.register(one.connection, "one.2", "test", 1, TIMES)
    one.number = 2
    assert len(one.scan().lost) == SLOTS // 2


def test_a_slot_of_a_node_that_registers_during_a_take_stays_its_own(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A take that began before sees the row as it is by now, and must not judge it by the nodes of its beginning."""
    began = threading.Event()
    slow = leases._TAKE.replace("FROM slots WHERE", "FROM slots, pg_sleep(0.5) WHERE").replace(
        "UPDATE SKIP", "UPDATE OF slots SKIP"
    )
    assert slow.count("pg_sleep") == slow.count("OF slots") == 1
    one, other = start("one"), start("other")
    with ThreadPoolExecutor(1) as threads:

        def take_slowly() -> set[int]:
            monkeypatch.setattr(leases, "_TAKE", slow)
            began.set()
            return set(one.scan().taken)

        taking = threads.submit(take_slowly)
        began.wait()
        while not other.connection.execute(SLEEPS).fetchall():
            pass
        leases.register(other.connection, "late.1", "test", 1, TIMES)
        other.connection.execute("UPDATE slots SET node = 'late.1', generation = generation + 1 WHERE slot < 10")
        assert taking.result().isdisjoint(range(10))
    [[kept]] = other.connection.execute("SELECT count(*) FROM slots WHERE node = 'late.1'").fetchall()
    assert kept == 10


def test_what_is_given_back_is_spread() -> None:
    """Of two nodes neither has all the first slots, in which the first webhooks of an installation are."""
    held = set(range(SLOTS))
    while surplus := surplus_of(held, SLOTS // 2):
        assert len(surplus) <= max(1, len(held) // 8)
        held -= set(surplus)
    assert len(held) == SLOTS // 2
    assert all(0 < len(held & set(range(start, start + 16))) < 16 for start in range(0, SLOTS, 16))


def test_the_leadership_stays_where_it_is() -> None:
    """However many nodes join, the one that leads gives back all its surplus before the slot of the leader."""
    held, leading = set(range(SLOTS)), slot_of(LEADING)
    for nodes in range(2, 2 * SLOTS):
        share = -(-SLOTS // nodes)
        while surplus := surplus_of(held, share):
            held -= set(surplus)
        assert len(held) == share
        assert leading in held


class LeaseMachine(RuleBasedStateMachine):
    """Three nodes whose leases end, which beat, scan, record and lose answers in any order.

    A model knows the last generation of each slot that was taken: no record of an older one may be committed.
    """

    url = ""

    @initialize()
    def begin(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("DELETE FROM nodes")
            connection.execute("UPDATE slots SET node = NULL")
        self.nodes = [Node(self.url, f"p{number}") for number in range(3)]
        self.writers = [node.writer("slow") for node in self.nodes]
        self.open: dict[int, int] = {}  # the slot that each node's open transaction holds
        self.newest: dict[int, tuple[int, int]] = {}  # the node that took a slot last, and the generation

    @rule(at=st.integers(0, 2))
    def scan(self, at: int) -> None:
        for slot, generation in self.nodes[at].scan().taken.items():
            assert slot not in self.open.values(), "taken while a record of it was being committed"
            assert generation > self.newest.get(slot, (0, 0))[1]
            self.newest[slot] = (at, generation)

    @rule(at=st.integers(0, 2))
    def end(self, at: int) -> None:
        end_lease(self.nodes[at].connection, self.nodes[at].id)

    @rule(at=st.integers(0, 2))
    def beat(self, at: int) -> None:
        node = self.nodes[at]
        if not node.beat():
            node.number += 1
            node.held.clear()
            leases.register(node.connection, node.id, "test", 1, TIMES)

    @rule(at=st.integers(0, 2))
    def lose_answer(self, at: int) -> None:
        """Take slots, and never learn which."""
        node = self.nodes[at]
        for slot, generation in leases.scan(node.connection, node.id, node.held, TIMES).taken.items():
            self.newest[slot] = (at, generation)

    @rule(at=st.integers(0, 2), chosen=st.integers(0, SLOTS - 1))
    def record(self, at: int, chosen: int) -> None:
        node, writer = self.nodes[at], self.writers[at]
        if at in self.open or not node.held:
            return
        slot = sorted(node.held)[chosen % len(node.held)]
        is_newest = self.newest[slot] == (at, node.held[slot])
        try:
            node.hold(writer, slot)
        except psycopg.errors.DivisionByZero:
            writer.execute("ROLLBACK")
            return
        assert is_newest, "a record of an older generation was let in"
        self.open[at] = slot

    @rule(at=st.integers(0, 2))
    def commit(self, at: int) -> None:
        if (slot := self.open.pop(at, None)) is not None:
            assert self.newest[slot] == (at, self.nodes[at].held.get(slot, self.newest[slot][1]))
            self.writers[at].execute("COMMIT")

    @rule(at=st.integers(0, 2))
    def give_back(self, at: int) -> None:
        node = self.nodes[at]
        slots = [slot for slot in sorted(node.held)[:16] if slot not in self.open.values()]
        for slot in slots:
            del node.held[slot]
        leases.give_back(node.connection, node.id, slots)

    @invariant()
    def one_row_each(self) -> None:
        if hasattr(self, "nodes"):
            [[number]] = self.nodes[0].connection.execute("SELECT count(DISTINCT slot) FROM slots").fetchall()
            assert number == SLOTS

    def teardown(self) -> None:
        for node in getattr(self, "nodes", ()):
            node.close()


@pytest.fixture
def machine(url: str) -> type[LeaseMachine]:
    LeaseMachine.url = url
    return LeaseMachine


def test_no_record_of_a_generation_is_committed_after_the_next_one_began(machine: type[LeaseMachine]) -> None:
    """In any order of beats, scans, ended leases, lost answers and slow commits."""
    run_state_machine_as_test(machine, settings=settings(max_examples=15, stateful_step_count=30, deadline=None))
