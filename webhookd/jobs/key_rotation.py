"""The master key: found at the start, checked against the journal, and rotated while the server runs.

A rotation replaces key A, which is in its place (a file, or a credential of the service manager), by key B:

    1. begin    B is written next to A's file and synced, which shows that it can be. Then one transaction stores that B
                seals from now on, B itself sealed with A, and A itself sealed with B. In the callback of this commit
                the vault begins to seal with B.
    2. reseal   Every value that isn't sealed with B is opened and sealed with B, a bounded number of rows in each
                write. Each sealed value names its key, so a half resealed journal is valid. Only the writer seals
                values, so none is sealed with A after the vault has changed, and one pass is enough.
    3. forget   A, sealed with B, is deleted from the journal, since nothing needs it any more.
    4. install  B takes A's place by one atomic rename. If webhookd can't write there, the operator does it and starts
                webhookd again; until then webhookd asks for it.
    5. end      B, sealed with A, is deleted from the journal. From now on A opens nothing.

After a crash at any point, the key that is in its place opens the journal: up to step 4 that is A, which opens B; after
it, it is B, which seals, and which opens A up to step 3. The next start continues with the step that was due. All that
is removed or replaced is overwritten with zeros, and the write-ahead log is cut, so a key A that has leaked opens
nothing in the files. It still opens older copies of them: A alone opens those from before the rotation, and either key
opens one from during it.

In memory A is kept for as long as a reader may hold a value that it read before.

Several nodes share a journal on PostgreSQL, and each has its own key files. There the operator stages B first, in the
file next to A's on every node; each node tells the others which keys it has in its files, and opens with B from then
on. The rotation begins only when every living node has B. From its commit on, nothing is sealed with A: a transaction
that seals something holds the check value, and is begun again with B if that was sealed with another key than its own.
The leader reseals and forgets, and each node installs B in its own files. A node that neither has B in its files can't
go on: it seals nothing, and ends.
"""

from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum

import trio
from msgspec import Struct
from msgspec.structs import replace

from webhookd.base.errors import ErrorCode, MasterKeyError, Rejected
from webhookd.base.secret import Secret
from webhookd.base.stages import reached
from webhookd.config import Config
from webhookd.crypto.key_file import KeyPlace, create_master_key, find_key_place, missing_key
from webhookd.crypto.vault import Vault, key_id, new_master_key
from webhookd.journal import (
    READ_LIMIT_SECONDS,
    AuditEntry,
    DatabaseReplaced,
    FencedError,
    MasterKeyChanged,
    MasterKeys,
    Position,
    Store,
)
from webhookd.observe.logs import get_logger

ROWS_A_STEP = 100
PAUSE_SECONDS = 0.005
LOOK_SECONDS = 1.0
"""How often a node looks for a new key in its files, and whether it leads by now."""

_log = get_logger("master_key")


class Stage(StrEnum):
    """How far a rotation of the master key is."""

    SETTLED = "settled"
    CHANGING = "changing"
    TO_BE_INSTALLED = "to_be_installed"  # by the operator


class RotationProgress(Struct, frozen=True, kw_only=True):
    """The progress of a rotation: the id of the sealing key, the number of resealed values, and what is left to do."""

    key_id: str
    stage: Stage
    resealed: int
    instruction: str | None


class Rotator:
    """Rotates the master key; `run` it under a supervisor, which also continues a rotation that was interrupted.

    `vault` opens every value of this journal at any time. `rows_a_step` bounds the rows that one write reseals. Where
    several nodes share the journal, `look` must run as well.
    """

    def __init__(self, store: Store, place: KeyPlace, keys: MasterKeys, *, staged: Secret[bytes] | None = None) -> None:
        self._store = store
        self._place = place
        self._keys = keys
        self.rows_a_step = ROWS_A_STEP
        self.vault = Vault(keys.sealing)
        if keys.previous is not None:
            self.vault.admit(keys.previous)
        self._staged: Secret[bytes] | None = None
        self._stage_in_memory(staged)
        self._in_files: tuple[str, ...] = ()
        self._not_opened: str | None = None  # what is wrong with the key files, as it was logged
        self._unknown: MasterKeyChanged | None = None
        self._is_without_key = trio.Event()
        self._position = Position()
        self._resealed = 0
        self._problem: str | None = None
        self._changing = trio.Lock()
        self._asked = trio.Event()
        self._threads = trio.CapacityLimiter(1)
        self._is_replaceable = place.is_replaceable
        self._replaced = 0
        store.feed.follow(MasterKeyChanged, self._follow)
        store.feed.follow(DatabaseReplaced, self._reseal_again)

    def progress(self) -> RotationProgress:
        """Return the progress of the rotation, if there is one."""
        keys = self._keys
        stage = Stage.SETTLED if keys.is_settled else Stage.CHANGING
        can_install = self._problem is None and self._is_replaceable
        if keys.previous is None and keys.sealing != keys.installed and not can_install:
            stage = Stage.TO_BE_INSTALLED
        return RotationProgress(
            key_id=self.vault.key_id.hex(),
            stage=stage,
            resealed=self._resealed,
            instruction=self._instruction() if stage is Stage.TO_BE_INSTALLED else None,
        )

    async def begin(self, new: Secret[bytes] | None, entry: AuditEntry | None = None) -> RotationProgress:
        """Begin the rotation to this key, or to a new one without it; `run` continues it.

        Rejected CONFLICT if another rotation isn't done, this key already seals or another node doesn't have it in its
        files; VALIDATION_ERROR if only the operator can put a key in its place and gives none, or if no file can be
        written in the key's directory.
        """
        async with self._changing:
            if new is not None and new == self._keys.sealing and self._keys.sealing != self._keys.installed:
                return self.progress()  # repeated by an operator who hasn't put the key in its place yet
            if self._keys.previous is not None:
                raise Rejected(ErrorCode.CONFLICT, "the master key is being changed; wait until that is through")
            await self._look()
            if self._store.is_shared:
                await self._read_files()
                new = await self._shared_key(new)
            self._check(new)
            key = new_master_key() if new is None else new
            if self._is_replaceable and not (self._store.is_shared and key == self._staged):
                await self._stage(key)
            self._stage_in_memory(key)
            await self._store.master_key.begin_rotation(self._keys, key, entry=entry)
        return self.progress()

    async def run(self) -> None:
        """Carry out rotations until canceled."""
        while True:
            self._asked = trio.Event()
            has_more = True
            while has_more:
                has_more = await self.step()
                reached("master_key.step")
                await trio.sleep(PAUSE_SECONDS)  # other writes come in between
            if self.progress().stage is Stage.TO_BE_INSTALLED:
                _log.warning("master_key.to_be_installed", key_id=self.vault.key_id.hex(), todo=self._instruction())
            with trio.move_on_after(READ_LIMIT_SECONDS + 1):
                await self._asked.wait()
            if not self._asked.is_set() and self._keys.previous is None:
                self.vault.forget_others(but=None if self._staged is None else key_id(self._staged))
            await self._asked.wait()

    async def look(self) -> None:
        """Keep knowing the keys in this node's files, and tell the other nodes which, until canceled."""
        while self._store.is_shared:
            async with self._changing:
                await self._read_files()
                self._find_unknown()
            await self._store.tell_keys(self._in_files)
            if self._keys.previous is not None and self._store.ownership.is_leader:
                self._asked.set()
            await trio.sleep(LOOK_SECONDS)

    async def catch_up(self) -> None:
        """Follow what other nodes have changed of the key since it was read."""
        async with self._store.holding_changes():
            self._follow(await self._store.master_key.state())

    async def end_without_key(self) -> None:
        """Raise MasterKeyError when another node has changed to a key that is not in this node's files."""
        await self._is_without_key.wait()
        assert self._unknown is not None  # noqa: S101 - set before
        raise MasterKeyError(
            f"the master key was changed to {self._unknown.key_id} at another node, and neither {self._place} nor "
            f"{self._place.next_path} has it: put it into one of them, and start webhookd again"
        )

    async def step(self) -> bool:
        """Do the next bounded part of a rotation; return False if webhookd can do no more of it."""
        # One at a time: nothing may change between a step's decision and its write.
        async with self._changing:
            if self._keys.is_settled:
                return False
            if self._keys.previous is not None:
                if not self._store.ownership.is_leader:
                    return False
                with suppress(FencedError):  # another node leads by now
                    await self._reseal()
                return True
            if self._keys.sealing != self._keys.installed:
                return await self._install()
            if self._store.is_shared:  # each node has files of its own, and there is nothing stored to be deleted
                self._keys = replace(self._keys, is_settled=True)
            else:
                await self._store.master_key.end_rotation(self._ended)
            _log.info("master_key.changed", key_id=self.vault.key_id.hex(), place=str(self._place))
            return False

    async def _reseal(self) -> None:
        replaced = self._replaced
        position, count = await self._store.master_key.reseal(self.vault, self._position, self.rows_a_step)
        if replaced != self._replaced:
            return
        self._resealed += count
        if position is not None:
            self._position = position
            return
        await self._store.master_key.forget_previous(self.vault, self._resealed)

    def _reseal_again(self, _: DatabaseReplaced) -> None:
        """Begin again where a database may have lost what was resealed."""
        self._position, self._resealed = Position(), 0
        self._replaced += 1

    async def _look(self) -> None:
        """Look whether a key can be put in its place now."""
        self._is_replaceable = await trio.to_thread.run_sync(lambda: self._place.is_replaceable, limiter=self._threads)

    def _check(self, new: Secret[bytes] | None) -> None:
        if new is not None and new == self._keys.sealing:
            raise Rejected(ErrorCode.CONFLICT, "this master key is the one in force; give another one")
        if new is None and not self._is_replaceable:
            raise Rejected(
                ErrorCode.VALIDATION_ERROR,
                f"the master key is {self._place}, which webhookd can't replace: make a new key yourself (head -c 32 "
                "/dev/urandom | base64), keep it where its place is filled from, and give it as --new-key-file",
            )

    async def _shared_key(self, new: Secret[bytes] | None) -> Secret[bytes] | None:
        """Return the key to change to where nodes share the journal: the given or the staged one; None for a new one.

        Every node must have it in its files, so that it also knows it after its next start.
        """
        key = self._staged if new is None and self._staged != self._keys.sealing else new
        sharing = await self._store.read_nodes()
        is_alone = sharing is None or len(sharing.nodes) <= 1
        if key is None and not is_alone:
            raise Rejected(
                ErrorCode.CONFLICT,
                f"several nodes use this journal: put one new key next to the master key of each, as "
                f"{self._place.next_path.name}, and call this again",
            )
        if key is not None and not self._is_replaceable and key != self._staged:
            raise Rejected(
                ErrorCode.VALIDATION_ERROR,
                f"the master key is {self._place}, which webhookd can't replace: provide the new key as "
                f"{self._place.next_path} first, on every node",
            )
        return key

    async def _read_files(self) -> None:
        """Read the keys in this node's files; what can't be read is logged, and the keys in memory stay."""

        def read() -> tuple[Secret[bytes], Secret[bytes] | None]:
            return self._place.load(), self._place.load_next()

        try:
            installed, staged = await trio.to_thread.run_sync(read, limiter=self._threads)
        except MasterKeyError as error:
            self._in_files = ()
            if str(error) != self._not_opened:
                self._not_opened = str(error)
                _log.error("master_key.unreadable", error=str(error))
            return
        self._not_opened = None
        self._in_files = tuple(key_id(key).hex() for key in (installed, staged) if key is not None)
        if installed == self._keys.sealing and installed != self._keys.installed:
            # The operator has put the new key in its place.
            self._keys = replace(self._keys, installed=installed)
            self._asked.set()
        is_early = staged is None and installed not in (self._keys.sealing, self._keys.installed)
        self._stage_in_memory(installed if is_early else staged)

    def _stage_in_memory(self, key: Secret[bytes] | None) -> None:
        """Open with a key that is in the file next to the master key, from now on."""
        if key is not None and key != self._staged:
            self.vault.admit(key)
        self._staged = key

    def _find_unknown(self) -> None:
        """Change to the key that was unknown when another node changed to it, or give up."""
        if self._unknown is None:
            return
        if self._known(self._unknown.key_id) is None:
            self._is_without_key.set()
        else:
            changed, self._unknown = self._unknown, None
            self._follow(changed)

    def _known(self, name: str) -> Secret[bytes] | None:
        keys = (self._keys.sealing, self._staged, self._keys.installed, self._keys.previous)
        return next((key for key in keys if key is not None and key_id(key).hex() == name), None)

    async def _stage(self, key: Secret[bytes]) -> None:
        try:
            await trio.to_thread.run_sync(self._place.stage, key, limiter=self._threads)
        except MasterKeyError as error:
            raise Rejected(ErrorCode.VALIDATION_ERROR, f"nothing was changed: {error}") from error

    async def _install(self) -> bool:
        await self._look()
        if not self._is_replaceable:
            return False
        key = self._keys.sealing
        try:
            await trio.to_thread.run_sync(self._place.install, key, limiter=self._threads)
        except MasterKeyError as error:
            # The key in its place opens the journal too; the operator must make it possible to write the new one.
            self._problem = str(error)
            return False
        self._problem = None
        self._keys = replace(self._keys, installed=key)
        return True

    def _instruction(self) -> str:
        if self._problem is not None:
            return self._problem
        if self._store.is_shared:
            return (
                f"everything is sealed with the new master key, but {self._place} still holds the previous one: put "
                f"the new key, which is in {self._place.next_path}, in its place"
            )
        return (
            f"everything is sealed with the new master key, but {self._place} still holds the previous one, which "
            "opens the new one: put the new key there and start webhookd again"
        )

    # Callbacks of commits, on the event loop and before anything else is written.

    def _follow(self, changed: MasterKeyChanged) -> None:
        """Seal with the key that this node or another one has changed to, and note when all is resealed."""
        key, keys = self._known(changed.key_id), self._keys
        if key is None:
            self._unknown = changed  # `look` reads the files once more
            return
        if key == keys.sealing and changed.is_resealed is (keys.previous is None):
            return  # this is known already
        previous = keys.previous
        if key != keys.sealing:
            self.vault.seal_with(key)
            previous = keys.sealing
            self._position, self._resealed, self._problem = Position(), 0, None
            _log.info("master_key.change_begun", key_id=changed.key_id)
        if changed.is_resealed:
            previous = None
            self._position, self._resealed = Position(), changed.resealed
            self._store.cut_log()
            _log.info("master_key.resealed", key_id=changed.key_id, values=changed.resealed)
        self._keys = MasterKeys(installed=keys.installed, sealing=key, previous=previous, is_settled=False)
        self._asked.set()

    def _ended(self, _: None) -> None:
        self._keys = MasterKeys(installed=self._keys.installed, sealing=self._keys.sealing)
        self._store.cut_log()


async def unlock(store: Store, config: Config, environ: Mapping[str, str]) -> Rotator:
    """Return the rotator of a journal, whose vault opens it; make a key if there is none and nothing is sealed yet.

    Raises MasterKeyError for a key that is invalid, missing, or not this journal's.
    """
    place = find_key_place(config, environ)
    if place.exists():
        installed = place.load()
    elif await store.master_key.holds_secrets():
        raise missing_key(place, config, environ)
    elif config.journal.url is not None and (known := await store.master_key.id()) is not None:
        # Another node may be about to seal a secret with it.
        raise MasterKeyError(
            f"the master key {place} is missing, and the journal {config.journal.name} has the key {known} already: "
            "copy it from the node that created it"
        )
    else:
        await store.master_key.forget()
        installed = create_master_key(place.path)
    staged = place.load_next() if store.is_shared else None
    try:
        # This must work on a full disk too, so it writes only if it has to.
        keys = await store.master_key.adopt(installed, staged)
    except MasterKeyError as error:
        raise MasterKeyError(f"{place} ({key_id(installed).hex()}): {error}") from error
    rotator = Rotator(store, place, keys, staged=staged)
    if store.is_shared:
        await rotator.catch_up()
    return rotator
