"""The audit log: one commit with the change, a chain that shows every tampering, and entries that can't be changed."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest
from peewee import Database

from tests.journal.harness import CLOCK, VAULT, new_endpoint, running
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import Role
from webhookd.journal import Action, AuditActor, AuditActorKind, AuditEntry, AuditRow, Store
from webhookd.journal.audit_entries import Chain
from webhookd.journal.queries import audit, endpoints

EVE_SAYS = (
    "(sequence, at, actor_kind, actor, action, object, fields, hash) "
    "VALUES ({}, 0, 'key', 'eve', 'key.create', 'x', '[]', x'00')"
)
ADA = AuditActor(kind=AuditActorKind.KEY, id="key_ada", role=Role.ADMIN)


def new_entry(action: Action = Action.WEBHOOK_CREATE, **fields: Any) -> AuditEntry:
    return AuditEntry(actor=ADA, action=action, at=CLOCK.now(), **fields)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Store]:
    async with running(tmp_path / "journal.db") as journal:
        yield journal


async def add(journal: Store, count: int) -> None:
    insert = audit.recorded(endpoints.insert, new_entry(fields=("url",)), endpoints.about)
    for _ in range(count):
        await journal.transactions.write(insert, VAULT, new_endpoint())


async def log(journal: Store) -> list[AuditRow]:
    filters = dict.fromkeys(("actor", "action", "what", "since", "until", "cursor"))
    return (await journal.transactions.read(audit.page, None, limit=100, **filters)).items[::-1]


def run(sql: str) -> Any:
    def change(database: Database) -> None:
        database.execute_sql(sql)  # type: ignore[no-untyped-call]  # peewee's stub

    return change


async def test_a_change_and_its_entry_are_one_commit(journal: Store) -> None:
    """A rejected change leaves no entry, and a change whose entry can't be written isn't made."""
    delete = audit.recorded(endpoints.delete, new_entry(Action.WEBHOOK_DELETE), endpoints.about)
    with pytest.raises(Rejected) as refused:
        await journal.transactions.write(delete, "wh_none", CLOCK.now())
    assert refused.value.code is ErrorCode.NOT_FOUND
    assert await log(journal) == []
    new = new_endpoint(organization_id="acme")
    await journal.transactions.write(audit.recorded(endpoints.insert, new_entry(), endpoints.about), VAULT, new)
    [entry] = await log(journal)
    assert (entry.sequence, entry.object, entry.organization_id) == (1, new.id, "acme")
    await journal.transactions.write(
        run("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END")
    )
    with pytest.raises(Exception, match="no"):
        await journal.transactions.write(delete, new.id, CLOCK.now())
    assert (await journal.transactions.read(endpoints.get, new.id)).id == new.id


async def test_nobody_in_particular_leaves_no_entry(journal: Store) -> None:
    """A change that webhookd makes by itself has no entry."""
    assert audit.recorded(endpoints.insert, None, endpoints.about) is endpoints.insert
    assert await journal.transactions.read(audit.verify) == Chain(entries=0, head=audit.GENESIS, broken=None)


async def test_changes_of_one_commit_are_chained_too(journal: Store) -> None:
    """Changes in one batch have numbers without a gap, also when some of them are rejected."""
    insert = audit.recorded(endpoints.insert, new_entry(), endpoints.about)
    delete = audit.recorded(endpoints.delete, new_entry(Action.WEBHOOK_DELETE), endpoints.about)
    tickets = [journal.transactions.submit(partial(insert, vault=VAULT, new=new_endpoint())) for _ in range(20)]
    refused = [
        journal.transactions.submit(partial(delete, endpoint_id=f"wh_{number}", now=CLOCK.now()))
        for number in range(20)
    ]
    tickets += [journal.transactions.submit(partial(insert, vault=VAULT, new=new_endpoint())) for _ in range(20)]
    for ticket in tickets:
        await ticket.wait()
    for ticket in refused:
        with pytest.raises(Rejected):
            await ticket.wait()
    chain = await journal.transactions.read(audit.verify)
    assert (chain.entries, chain.broken) == (40, None)


async def test_the_hash_is_as_documented(journal: Store) -> None:
    """Anyone can compute the chain: SHA-256 over the previous hash and a JSON array of the entry."""
    import hashlib  # noqa: PLC0415 - the point is that nothing else is needed
    import json  # noqa: PLC0415 - as above

    await add(journal, 2)
    before = bytes(32)
    for entry in await log(journal):
        values = [entry.sequence, entry.at, "key", "key_ada", "admin", "webhook.create", entry.object, None, None]
        text = json.dumps([*values, '["url"]'], separators=(",", ":"))
        before = hashlib.sha256(before + text.encode()).digest()
        assert entry.hash == before
    assert (await journal.transactions.read(audit.verify)).head == before


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE audit SET actor = 'eve' WHERE sequence = 2",
        "DELETE FROM audit WHERE sequence = 2",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE sequence = 2",
        f"REPLACE INTO audit {EVE_SAYS}".format(2),
        f"INSERT INTO audit {EVE_SAYS}".format(9),
    ],
)
async def test_an_entry_can_not_be_changed_or_removed(journal: Store, tmp_path: Path, sql: str) -> None:
    """The journal refuses UPDATE, DELETE, REPLACE and numbers out of order, on any connection."""
    await add(journal, 3)
    connection = apsw.Connection(str(tmp_path / "journal.db"))
    with pytest.raises(apsw.ConstraintError, match="only added to"):
        connection.execute(sql)
    connection.close()
    chain = await journal.transactions.read(audit.verify)
    assert (chain.entries, chain.broken) == (3, None)


@pytest.mark.parametrize(
    ("sql", "entries", "says"),
    [
        ("UPDATE audit SET actor = 'eve' WHERE sequence = 3", 2, "entry 3 (webhook.create of wh_"),
        ("UPDATE audit SET at = at + 0.001 WHERE sequence = 3", 2, "entry 3 ("),
        ("UPDATE audit SET role = NULL WHERE sequence = 3", 2, "entry 3 ("),
        ("UPDATE audit SET fields = '[]' WHERE sequence = 3", 2, "entry 3 ("),
        ("UPDATE audit SET organization_id = 'acme' WHERE sequence = 3", 2, "entry 3 ("),
        ("UPDATE audit SET hash = 7 WHERE sequence = 3", 2, "entry 3 ("),
        ("UPDATE audit SET object = x'ff' WHERE sequence = 3", 2, "entry 3 ("),
        ("DELETE FROM audit WHERE sequence = 3", 2, "entry 3 is missing"),
        ("DELETE FROM audit WHERE sequence = 1", 0, "entry 1 is missing"),
        ("DELETE FROM audit WHERE sequence > 3", 3, "entry 4 is missing: 2 at the end were taken out"),
        ("DELETE FROM audit", 0, "entry 1 is missing: 5 at the end were taken out"),
        ("UPDATE audit SET sequence = -1 WHERE sequence = 3", 0, "entry -1 has no place there"),
        (f"INSERT INTO audit {EVE_SAYS}".format(0), 0, "entry 0 has no place there"),
    ],
)
async def test_tampering_shows_where_the_chain_breaks(journal: Store, sql: str, entries: int, says: str) -> None:
    """Without the triggers, an entry that is changed, removed or inserted is found at its place."""
    await add(journal, 5)
    assert (await journal.transactions.read(audit.verify)).broken is None
    for name in ("audit_appends", "audit_keeps", "audit_stays"):
        await journal.transactions.write(run(f"DROP TRIGGER {name}"))
    await journal.transactions.write(run(sql))
    chain = await journal.transactions.read(audit.verify)
    assert chain.entries == entries
    assert chain.broken is not None
    assert chain.broken.startswith(says)


async def test_an_entry_with_its_hash_made_anew_breaks_at_the_next(journal: Store) -> None:
    """A rewritten entry with a new hash is found at the next entry."""
    await add(journal, 4)
    third, second = (await log(journal))[2], (await log(journal))[1]
    forged = (third.sequence, third.at, "key", "eve", "admin", "webhook.create", third.object, None, None, '["url"]')
    digest = audit.chained(second.hash, forged).hex()
    await journal.transactions.write(run("DROP TRIGGER audit_stays"))
    rewrite = f"UPDATE audit SET actor = 'eve', hash = x'{digest}' WHERE sequence = 3"  # noqa: S608 - a test's own
    await journal.transactions.write(run(rewrite))
    chain = await journal.transactions.read(audit.verify)
    assert chain.entries == 3
    assert chain.broken is not None
    assert chain.broken.startswith("entry 4 ")
