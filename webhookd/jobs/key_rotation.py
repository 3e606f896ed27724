"""The master key's life: found, checked against the journal, and changed while everything goes on.

A change replaces key A, which is in its place (a file, or a credential of the service manager's), by key B:

    1. begin    B is written beside A's file and synced, to see that it can be. Then one transaction says: B seals from
                now on; B itself, sealed with A; A itself, sealed with B. In the step in which the journal tells of the
                commit, the vault begins to seal with B.
    2. reseal   Row by row, a bounded number in each write, what isn't sealed with B is opened and sealed with B. Every
                sealed value names its key, so a journal half way is as good as any other. Values are sealed in the
                writer's turn alone: none comes in under A once the vault has changed over, and one pass is enough.
    3. forget   A, sealed with B, leaves the journal: nothing needs it any more.
    4. install  B takes A's place by one atomic rename. Where the place isn't ours the operator does this, and starts
                webhookd again; it says so until then.
    5. end      B, sealed with A, leaves the journal, and from now on A opens nothing.

Killed anywhere, the key that is then in its place opens the journal: A up to step 4, since it opens B; B after it,
since it seals and, up to step 3, opens A. The next start goes on with the step that was due. Whatever the steps remove
or replace is overwritten with zeros and the write-ahead log is cut, so that a key A that has leaked finds nothing to
open in the files. It does in older copies of them: those of the time before, with A; one made during the change, with
both.

In memory A stays for as long as a reader may hold what it read before.
"""

from collections.abc import Mapping
from enum import StrEnum

import trio
from msgspec import Struct

from webhookd.base.errors import ErrorCode, MasterKeyError, Rejected
from webhookd.base.secret import Secret
from webhookd.base.stages import reached
from webhookd.config import Config
from webhookd.crypto.key_file import KeyPlace, find_key_place, missing_key
from webhookd.crypto.vault import Vault, key_id, new_master_key
from webhookd.journal import READ_LIMIT_SECONDS, AuditEntry, MasterKeys, Position, Store
from webhookd.observe.logs import get_logger

ROWS_A_STEP = 100
PAUSE_SECONDS = 0.005

_log = get_logger("master_key")


class Stage(StrEnum):
    """How far a change of the master key has come."""

    SETTLED = "settled"
    CHANGING = "changing"
    TO_BE_INSTALLED = "to_be_installed"  # by the operator


class RotationProgress(Struct, frozen=True, kw_only=True):
    """Where a change is: the id of the key that seals, how many values were sealed anew, and what is left to do."""

    key_id: str
    stage: Stage
    resealed: int
    instruction: str | None


class Rotator:
    """Changes the master key; `run` it under a supervisor, which also goes on with a change that was cut off.

    `vault` opens what this journal holds, at every moment. `rows_a_step` bounds what one write seals anew.
    """

    def __init__(self, store: Store, place: KeyPlace, keys: MasterKeys) -> None:
        self._store = store
        self._place = place
        self._keys = keys
        self.rows_a_step = ROWS_A_STEP
        self.vault = Vault(keys.sealing)
        if keys.previous is not None:
            self.vault.admit(keys.previous)
        self._position = Position()
        self._resealed = 0
        self._problem: str | None = None
        self._changing = trio.Lock()
        self._asked = trio.Event()
        self._threads = trio.CapacityLimiter(1)
        self._is_replaceable = place.is_replaceable

    def progress(self) -> RotationProgress:
        """Say where the change is, or that there is none."""
        keys = self._keys
        stage = Stage.SETTLED if keys.is_settled else Stage.CHANGING
        if keys.previous is None and keys.sealing != keys.installed and not self._can_install:
            stage = Stage.TO_BE_INSTALLED
        return RotationProgress(
            key_id=self.vault.key_id.hex(),
            stage=stage,
            resealed=self._resealed,
            instruction=self._instruction() if stage is Stage.TO_BE_INSTALLED else None,
        )

    async def begin(self, new: Secret[bytes] | None, entry: AuditEntry | None = None) -> RotationProgress:
        """Begin to change to this key, or to one that is made here; the rest goes on by itself.

        Rejected CONFLICT where the last change isn't through or this key seals already, VALIDATION_ERROR where only
        the operator can put a key in its place and gives none, and where the key's directory doesn't take a file.
        """
        async with self._changing:
            if new is not None and new == self._keys.sealing and self._keys.sealing != self._keys.installed:
                return self.progress()  # asked for again, by someone who hasn't put it in its place yet
            await self._look()
            self._check(new)
            key = new_master_key() if new is None else new
            if self._is_replaceable:
                await self._stage(key)
            await self._store.master_key.begin_rotation(self._keys, key, entry=entry, committed=self._change_over)
        return self.progress()

    async def run(self) -> None:
        """Carry out what was begun, until canceled."""
        while True:
            self._asked = trio.Event()
            is_going_on = True
            while is_going_on:
                is_going_on = await self.step()
                reached("master_key.step")
                await trio.sleep(PAUSE_SECONDS)  # others have their turn at the disk
            if self.progress().stage is Stage.TO_BE_INSTALLED:
                _log.warning("master_key.to_be_installed", key_id=self.vault.key_id.hex(), todo=self._instruction())
            with trio.move_on_after(READ_LIMIT_SECONDS + 1):
                await self._asked.wait()
            if not self._asked.is_set():
                self.vault.forget_others()
                await self._asked.wait()

    async def step(self) -> bool:
        """Do the next bounded part of a change; False where nothing is left that can be done here."""
        # One at a time: what a step was decided on must still be so when it is written.
        async with self._changing:
            if self._keys.is_settled:
                return False
            if self._keys.previous is not None:
                await self._reseal()
                return True
            if self._keys.sealing != self._keys.installed:
                return await self._install()
            await self._store.master_key.end_rotation(self._ended)
            _log.info("master_key.changed", key_id=self.vault.key_id.hex(), place=str(self._place))
            return False

    async def _reseal(self) -> None:
        going_on, count = await self._store.master_key.reseal(self.vault, self._position, self.rows_a_step)
        self._resealed += count
        if going_on is not None:
            self._position = going_on
            return
        await self._store.master_key.forget_previous(self._forgotten)
        _log.info("master_key.resealed", key_id=self.vault.key_id.hex(), values=self._resealed)

    @property
    def _can_install(self) -> bool:
        return self._problem is None and self._is_replaceable

    async def _look(self) -> None:
        """See whether a key can be put in its place, as it is now."""
        self._is_replaceable = await trio.to_thread.run_sync(lambda: self._place.is_replaceable, limiter=self._threads)

    def _check(self, new: Secret[bytes] | None) -> None:
        if self._keys.previous is not None:
            raise Rejected(ErrorCode.CONFLICT, "the master key is being changed; wait until that is through")
        if new is not None and new == self._keys.sealing:
            raise Rejected(ErrorCode.CONFLICT, "this master key is the one in force; give another one")
        if new is None and not self._is_replaceable:
            raise Rejected(
                ErrorCode.VALIDATION_ERROR,
                f"the master key is {self._place}, which webhookd can't replace: make a new key yourself (head -c 32 "
                "/dev/urandom | base64), keep it where its place is filled from, and give it as --new-key-file",
            )

    async def _stage(self, key: Secret[bytes]) -> None:
        try:
            await trio.to_thread.run_sync(self._place.stage, key, limiter=self._threads)
        except MasterKeyError as error:
            raise Rejected(ErrorCode.VALIDATION_ERROR, f"nothing was changed: {error}") from error

    async def _install(self) -> bool:
        await self._look()
        if not self._is_replaceable:
            return False
        try:
            await trio.to_thread.run_sync(self._place.install, self._keys.sealing, limiter=self._threads)
        except MasterKeyError as error:
            # The journal opens with the key that is in place, too; it is for the operator to make room for the other.
            self._problem = str(error)
            return False
        self._problem = None
        self._keys = MasterKeys(installed=self._keys.sealing, sealing=self._keys.sealing, is_settled=False)
        return True

    def _instruction(self) -> str:
        if self._problem is not None:
            return self._problem
        return (
            f"everything is sealed with the new master key, but {self._place} still holds the one before, which opens "
            "the new one: put the new key there and start webhookd again"
        )

    # What the journal tells of, on the loop and before anything else is written.

    def _change_over(self, keys: MasterKeys) -> None:
        self.vault.seal_with(keys.sealing)
        self._keys = keys
        self._position, self._resealed, self._problem = Position(), 0, None
        _log.info("master_key.change_begun", key_id=self.vault.key_id.hex())
        self._asked.set()

    def _forgotten(self, _: None) -> None:
        self._keys = MasterKeys(installed=self._keys.installed, sealing=self._keys.sealing, is_settled=False)
        self._position = Position()
        self._store.cut_log()

    def _ended(self, _: None) -> None:
        self._keys = MasterKeys(installed=self._keys.installed, sealing=self._keys.sealing)
        self._store.cut_log()


async def unlock(store: Store, config: Config, environ: Mapping[str, str]) -> Rotator:
    """Return what opens a journal and changes its key; the key is made where it is missing and nothing is sealed yet.

    Raises MasterKeyError for a key that can't be used, that is missing, or that isn't this journal's.
    """
    place = find_key_place(config, environ)
    if place.exists():
        installed = place.load()
    elif await store.master_key.holds_secrets():
        raise missing_key(place, config, environ)
    else:
        await store.master_key.forget()
        installed = place.create()
    try:
        # On a full disk as well, where it mostly writes nothing.
        keys = await store.master_key.adopt(installed)
    except MasterKeyError as error:
        raise MasterKeyError(f"{place} ({key_id(installed).hex()}): {error}") from error
    return Rotator(store, place, keys)
