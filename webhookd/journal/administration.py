"""The store's methods for the catalogue, API keys, audit log, kept answers, statistics and master key."""

from collections.abc import Callable, Mapping, Sequence

import msgspec
from peewee import Database

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.secret import Secret
from webhookd.crypto.vault import Vault
from webhookd.crypto.vault import key_id as master_key_id
from webhookd.journal.audit_entries import AuditEntry
from webhookd.journal.errors import FencedError
from webhookd.journal.feed import EventTypeAdded, EventTypeRemoved, KeyAdded, KeyRevoked, MasterKeyChanged
from webhookd.journal.known_settings import EVENT_TYPE, KEY, chosen
from webhookd.journal.operations import Ticket
from webhookd.journal.ownership import LEADING
from webhookd.journal.queries import audit, event_types, idempotency, keys, master_key, quotas, statistics
from webhookd.journal.rows import EventTypeCondition, EventTypeRow, KeptAnswer, KeyRow
from webhookd.journal.transactions import StorePart, finished, reads
from webhookd.observe.statistics import Counts, CountsRow, Key


class EventTypes(StorePart):
    """The catalogue of event types."""

    all = reads(event_types.all)
    page = reads(event_types.page)
    find = reads(event_types.find)

    async def put(
        self,
        row: EventTypeRow,
        now: float,
        *,
        entry: AuditEntry | None,
        condition: EventTypeCondition | None,
    ) -> EventTypeRow:
        """Add an event type, or replace it; raises what `condition` raises, or Rejected QUOTA_EXCEEDED."""
        put = audit.recorded(event_types.put, entry, lambda stored: (stored.name, None))
        return await self._transactions.submit(
            lambda database: put(database, row, now, condition=condition),
            announces=lambda stored: EventTypeAdded(stored.name),
            stores=chosen(EVENT_TYPE, row),
        ).wait()

    async def delete(self, name: str, *, entry: AuditEntry | None, condition: EventTypeCondition | None) -> None:
        """Delete an event type; raises Rejected NOT_FOUND, or what `condition` raises."""
        delete = audit.recorded(event_types.delete, entry, lambda _: (name, None))
        await self._transactions.submit(
            lambda database: delete(database, name, condition=condition),
            announces=lambda _: EventTypeRemoved(name),
        ).wait()


class Keys(StorePart):
    """The API keys, of which the journal stores only hashes."""

    all = reads(keys.all)
    page = reads(keys.page)
    ending = reads(keys.ending)

    async def create(self, row: KeyRow, *, most: int, entry: AuditEntry | None) -> KeyRow:
        """Store a new key; raises Rejected QUOTA_EXCEEDED if its organization has `most` of them."""
        insert = audit.recorded(quotas.insert_key, entry, keys.about)
        return await self._transactions.submit(
            lambda database: insert(database, row, most=most), announces=KeyAdded, stores=chosen(KEY, row)
        ).wait()

    async def create_first(self, row: KeyRow, entry: AuditEntry) -> bool:
        """Store a key with its audit entry if the journal has no key yet; return whether it did."""

        def change(database: Database) -> KeyAdded:
            if not keys.insert_first(database, row, entry):
                raise Rejected(ErrorCode.CONFLICT, "there is an API key already")
            return KeyAdded(row)

        try:
            await finished(self._transactions.submit(change, announces=lambda added: added))
        except Rejected as refused:
            if refused.code is not ErrorCode.CONFLICT:
                raise
            return False
        return True

    async def revoke(self, key_id: str, organization_id: str | None, entry: AuditEntry | None) -> KeyRow:
        """Delete a key, and end its sessions at all nodes.

        Raises Rejected NOT_FOUND, also for another organization's key if one is given.
        """

        def change(database: Database) -> KeyRow:
            row = keys.revoke(database, key_id, organization_id)
            if (sharing := self._transactions.sharing) is not None:
                sharing.sessions.end_all_of(database, row.id)
            return row

        revoke = audit.recorded(change, entry, keys.about)
        return await self._transactions.submit(revoke, announces=lambda row: KeyRevoked(row.id)).wait()

    def note_uses(self, uses: Mapping[str, float]) -> Ticket[None]:
        """Store when keys were used last, by id; ids of keys that have been revoked are ignored."""
        return self._transactions.submit(lambda database: keys.note_uses(database, uses))


class AuditLog(StorePart):
    """The audit log; changes of the journal append their entries themselves."""

    page = reads(audit.page)
    last_sequence = reads(audit.last_sequence)
    verify = reads(audit.verify)

    async def append(self, entry: AuditEntry, what: str, organization_id: str | None) -> None:
        """Append an entry for an action that changes nothing in the journal, such as a backup."""
        await self._transactions.write(audit.append, entry, what, organization_id)


class KeptAnswers(StorePart):
    """The answers that are kept for Idempotency-Keys."""

    find = reads(idempotency.find)

    async def begin(self, begun: KeptAnswer) -> KeptAnswer | None:
        """Store that a request has begun, in place of an older answer; `begun.status` is `BEGUN`.

        Where other processes may use the journal, return what one of them has stored for the key, if anything.
        Otherwise it isn't waited for: it is written before any change that is submitted later.
        """
        transactions = self._transactions
        if transactions.sharing is not None:
            return await transactions.write(transactions.sharing.claim, begun)
        transactions.submit(lambda database: idempotency.begin(database, begun))
        return None

    def give_up(self, caller: str, route: str, key: str) -> None:
        """Note that a request was cut off, so that its result is unknown: no other process waits for it."""
        if (sharing := self._transactions.sharing) is not None:
            self._transactions.submit(lambda database: sharing.give_up(database, caller, route, key), insists=True)

    def keep(self, vault: Vault, answer: KeptAnswer, plain: bytes) -> Ticket[None]:
        """Store an answer in place of an older one; `answer.sealed` becomes `plain` sealed."""
        return self._transactions.submit(
            lambda database: idempotency.keep(database, vault, answer, plain), insists=True
        )

    def forget(self, caller: str, route: str, key: str) -> Ticket[None]:
        """Delete a request's answer, so that the request is carried out when it is sent again."""
        return self._transactions.submit(
            lambda database: idempotency.forget(database, caller, route, key), insists=True
        )


class Statistics(StorePart):
    """The counts of a subject in a period."""

    async def running(self, now: float) -> list[CountsRow]:
        """Return the rows of every period that has not ended yet, which an earlier run of this server has stored.

        Of several nodes each run has rows of its own, so there are none.
        """
        transactions = self._transactions
        return [] if transactions.is_shared else await transactions.read(statistics.running, now)

    async def find(
        self, *, seconds: int, starts: Sequence[int], subjects: Sequence[str]
    ) -> tuple[dict[Key, Counts], dict[Key, Counts]]:
        """Return the stored rows of these subjects, for periods of `seconds` with these starts.

        They are those of this process, and the sums of all others.
        """
        process = self._transactions.process
        return await self._transactions.read(
            statistics.find, seconds=seconds, starts=starts, subjects=subjects, process=process
        )

    def put(self, rows: Sequence[CountsRow]) -> Ticket[None]:
        """Store rows with their present counts; each replaces the one with the same key."""
        encoded, process = statistics.encode(rows), self._transactions.process
        return self._transactions.submit(lambda database: statistics.put(database, encoded, process))

    async def prune(self, now: float, rows: int) -> bool:
        """Delete rows older than they are kept, at most `rows` of each length; return whether there may be more.

        Only the leader does; False elsewhere.
        """
        if not self._transactions.ownership.is_leader:
            return False
        prune = self._transactions.submit(lambda database: statistics.prune(database, now, rows), driving=[LEADING])
        try:
            return await finished(prune)
        except FencedError:
            return False


class MasterKeyState(StorePart):
    """Which master key this journal has, and how far a rotation of it has got (see `queries.master_key`).

    The feed passes on, before anything else is written, when the key is changed and when all is resealed.
    """

    holds_secrets = reads(master_key.holds_secrets)
    id = reads(master_key.sealing_key_id)

    async def forget(self) -> None:
        """Let a journal that holds no secret take another master key as its own."""
        await self._transactions.write(master_key.forget_master_key)

    async def adopt(self, installed: Secret[bytes], staged: Secret[bytes] | None = None) -> master_key.MasterKeys:
        """Return the journal's keys, given those in the files; raises MasterKeyError if they are another journal's."""
        return await self._transactions.insist(master_key.adopt_master_key, installed, staged)

    async def state(self) -> MasterKeyChanged:
        """Return which key seals, and whether all is resealed."""

        def read(database: Database) -> MasterKeyChanged:
            return MasterKeyChanged(master_key.sealing_key_id(database) or "", master_key.is_resealed(database))

        return await self._transactions.read(read)

    async def begin_rotation(
        self,
        keys: master_key.MasterKeys,
        new: Secret[bytes],
        *,
        entry: AuditEntry | None,
    ) -> None:
        """Make `new` the sealing key; everything still opens with the installed key.

        Raises Rejected CONFLICT if another node lacks the new key, or has begun a rotation.
        """
        new_id, sharing = master_key_id(new).hex(), self._transactions.sharing

        def begin(database: Database) -> master_key.MasterKeys:
            changed = master_key.begin_change(database, keys, new)
            # Last: a node that starts from now on finds the new key.
            if sharing is not None and (lacking := sharing.nodes_without_key(database, new_id)):
                raise Rejected(
                    ErrorCode.CONFLICT,
                    f"nothing was changed: the new master key {new_id} is not in the files of {', '.join(lacking)}",
                )
            return changed

        change = audit.recorded(begin, entry, lambda _: (new_id, None))
        await finished(
            self._transactions.submit(change, announces=lambda _: MasterKeyChanged(new_id, is_resealed=False))
        )

    async def reseal(
        self, vault: Vault, position: master_key.Position, limit: int
    ) -> tuple[master_key.Position | None, int]:
        """Seal the next rows with the vault's key; return where to continue (None: all are done) and their number.

        Raises FencedError if another node leads.
        """

        sharing = self._transactions.sharing

        def reseal(database: Database) -> tuple[master_key.Position | None, int]:
            if sharing is None or position.session is None:
                following, count = master_key.reseal(database, vault, position, limit)
                if following is None and sharing is not None:
                    following = msgspec.structs.replace(position, session=b"")
                return following, count
            session, count = sharing.sessions.reseal(database, vault, position.session, limit)
            return None if session is None else msgspec.structs.replace(position, session=session), count

        return await self._transactions.lead(reseal)

    async def forget_previous(self, vault: Vault, resealed: int) -> None:
        """Delete the previous key: nothing is sealed with it any more. Raises FencedError if another node leads."""
        changed = MasterKeyChanged(vault.key_id.hex(), is_resealed=True, resealed=resealed)
        await self._transactions.submit(
            lambda database: master_key.forget_previous(database, vault),
            announces=lambda _: changed,
            insists=True,
            driving=[LEADING],
        ).wait()

    async def end_rotation(self, committed: Callable[[None], None]) -> None:
        """End a rotation: the sealing key is installed."""
        await self._transactions.submit(master_key.end_change, committed, insists=True).wait()
