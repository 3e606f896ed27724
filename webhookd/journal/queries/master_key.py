"""Which master key this journal has, and how far a rotation of it has got.

The *sealing* key seals everything; the *installed* key is the one in the server's key file. Three sealed values:

- `check`: a known value, sealed with the sealing key.
- `next`: the sealing key, sealed with the installed key; stored until the sealing key is installed.
- `previous`: the previous sealing key, sealed with the sealing key; stored until nothing is sealed with it any more.

So at any moment of a rotation, a journal opens with the key that was installed before it and with the new one.

On PostgreSQL there is no `next`: what was deleted stays in the write-ahead log for long, and the previous key, which
may have leaked, must not open the new one. There the new key is *staged* in a file of each node before the rotation.
"""

import msgspec
from msgspec import Struct
from peewee import Database

from webhookd.base.errors import ErrorCode, MasterKeyError, Rejected
from webhookd.base.secret import Secret
from webhookd.crypto.vault import Vault, sealed_under
from webhookd.journal.queries import idempotency, sealing
from webhookd.journal.queries.dialect import is_postgres
from webhookd.journal.queries.locks import MASTER_KEY_CHECK, hold_master_key, lock, take_turn
from webhookd.journal.queries.schema import MetaTable, SecretTable
from webhookd.journal.queries.sealing import erasing

_CHECK, _NEXT, _PREVIOUS = MASTER_KEY_CHECK, "master_key_next", "master_key_previous"
_KNOWN = b"webhookd"


class MasterKeys(Struct, frozen=True, kw_only=True):
    """The keys of a journal: the installed one, the one that seals, and the previous one that sealed.

    `previous` is None once nothing is sealed with it any more; `is_settled` says that no rotation is under way.
    """

    installed: Secret[bytes]
    sealing: Secret[bytes]
    previous: Secret[bytes] | None = None
    is_settled: bool = True


class Position(Struct, frozen=True, kw_only=True):
    """How far resealing has got: the last row of each table that was looked at, None before the first.

    `session` is set once the answers are done.
    """

    is_in_answers: bool = False
    secret: tuple[int, str] | None = None
    answer: tuple[str, str, str] | None = None
    session: bytes | None = None


def adopt_master_key(database: Database, installed: Secret[bytes], staged: Secret[bytes] | None = None) -> MasterKeys:
    """Return the journal's keys, given the installed one, and the staged one if there is one.

    A journal without a key takes the installed one as its own. Raises MasterKeyError if it is neither the journal's key
    nor the one that its rotation began with.
    """
    vault = Vault(installed)
    check = _read(database, _CHECK)
    if check is None:
        take_turn(database)
        check = _read(database, _CHECK)
    if check is None:
        _write(database, _CHECK, vault.encrypt(_KNOWN, context=_context(_CHECK)))
        return MasterKeys(installed=installed, sealing=installed)
    following = _read(database, _NEXT)
    previous = _read(database, _PREVIOUS)
    sealing_key = installed
    if following is not None and not _opens(vault, check, _CHECK) and _opens(vault, following, _NEXT):
        sealing_key = Secret(vault.decrypt(following, context=_context(_NEXT)))
        vault = Vault(sealing_key)
    if staged is not None and not _opens(vault, check, _CHECK) and _opens(Vault(staged), check, _CHECK):
        sealing_key, vault = staged, Vault(staged)
    if not _opens(vault, check, _CHECK):
        raise MasterKeyError(
            "the master key isn't the one this journal was made with, nor the one it was changed to last: point "
            "secrets.master_key_file to that one"
        )
    return MasterKeys(
        installed=installed,
        sealing=sealing_key,
        previous=None if previous is None else Secret(vault.decrypt(previous, context=_context(_PREVIOUS))),
        is_settled=following is None and previous is None and sealing_key == installed,
    )


def sealing_key_id(database: Database) -> str | None:
    """Return the id of the master key that opens this journal; None if it has no key yet, or none with an id."""
    check = _read(database, _CHECK)
    name = None if check is None else sealed_under(check)
    return None if name is None else name.hex()


def is_resealed(database: Database) -> bool:
    """Whether nothing is sealed with a previous key any more."""
    return _read(database, _PREVIOUS) is None


def begin_change(database: Database, keys: MasterKeys, new: Secret[bytes]) -> MasterKeys:
    """Make `new` the sealing key; everything still opens with the installed key.

    On PostgreSQL it waits for the transactions that seal something, and raises Rejected CONFLICT if another node has
    begun a rotation.
    """
    if is_postgres(database):
        take_turn(database)
        lock(database, MetaTable.name == _CHECK, MetaTable.name)
        check = _read(database, _CHECK)
        if check is None or not Vault(keys.sealing).seals_like(check) or not is_resealed(database):
            raise Rejected(
                ErrorCode.CONFLICT, "another node is changing the master key; wait until that is through on all nodes"
            )
    else:
        _write(database, _NEXT, Vault(keys.installed).encrypt(new.reveal(), context=_context(_NEXT)))
    _write(database, _CHECK, Vault(new).encrypt(_KNOWN, context=_context(_CHECK)))
    _write(database, _PREVIOUS, Vault(new).encrypt(keys.sealing.reveal(), context=_context(_PREVIOUS)))
    return MasterKeys(installed=keys.installed, sealing=new, previous=keys.sealing, is_settled=False)


def reseal(database: Database, vault: Vault, position: Position, limit: int) -> tuple[Position | None, int]:
    """Seal the next rows with the vault's key; return where to continue (None: all are done) and their number."""
    if not position.is_in_answers:
        secret, count = sealing.reseal(database, vault, position.secret, limit)
        return msgspec.structs.replace(position, secret=secret, is_in_answers=secret is None), count
    answer, count = idempotency.reseal(database, vault, position.answer, limit)
    return (None if answer is None else msgspec.structs.replace(position, answer=answer)), count


def forget_previous(database: Database, vault: Vault) -> None:
    """Delete the previous key: nothing is sealed with it any more, but with the vault's key."""
    hold_master_key(database, vault)
    _remove(database, _PREVIOUS)


def end_change(database: Database) -> None:
    """End a rotation: the sealing key is installed."""
    _remove(database, _NEXT, _PREVIOUS)


def holds_secrets(database: Database) -> bool:
    """Whether the journal holds a secret that a new master key couldn't open."""
    return SecretTable.select().exists(database)


def forget_master_key(database: Database) -> None:
    """Let a journal that holds no secret take another master key as its own.

    The answers kept for Idempotency-Keys are deleted too, because nothing opens them: if such a request is repeated, it
    is carried out again.
    """
    idempotency.forget_all(database)
    _remove(database, _CHECK, _NEXT, _PREVIOUS)


def _opens(vault: Vault, sealed: bytes, name: str) -> bool:
    try:
        vault.decrypt(sealed, context=_context(name))
    except MasterKeyError:
        return False
    return True


def _read(database: Database, name: str) -> bytes | None:
    query = MetaTable.select(MetaTable.value).where(MetaTable.name == name)
    return next((bytes(value) for (value,) in list(query.tuples().execute(database))), None)


def _write(database: Database, name: str, sealed: bytes) -> None:
    with erasing(database):
        row = MetaTable.insert({"name": name, "value": sealed})
        row.on_conflict(conflict_target=[MetaTable.name], preserve=[MetaTable.value]).execute(database)


def _remove(database: Database, *names: str) -> None:
    with erasing(database):
        MetaTable.delete().where(MetaTable.name.in_(names)).execute(database)


def _context(name: str) -> str:
    return f"meta:value:{name}"
