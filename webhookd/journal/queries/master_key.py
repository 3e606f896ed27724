"""Which master key is this journal's, and how far a change of it has come.

Three facts, each a sealed value of its own:

- `check`: a known value, sealed with the key that seals everything else.
- `next`: while the key that seals isn't yet where the server finds its key: the key that seals, sealed with the one
  that is found there.
- `previous`: while something may still be sealed with the key of before: that key, sealed with the one that seals.

So a journal opens with the key that was put in place last, or with the one that follows it, at any moment of a change.
"""

import msgspec
from msgspec import Struct
from peewee import Database

from webhookd.base.errors import MasterKeyError
from webhookd.base.secret import Secret
from webhookd.crypto.vault import Vault, sealed_under
from webhookd.journal.queries import idempotency, sealing
from webhookd.journal.queries.schema import MetaTable, SecretTable
from webhookd.journal.queries.sealing import erasing

_CHECK, _NEXT, _PREVIOUS = "master_key_check", "master_key_next", "master_key_previous"
_KNOWN = b"webhookd"


class MasterKeys(Struct, frozen=True, kw_only=True):
    """The keys of a journal: the one that was found in its place, the one that seals, and the one of before.

    `previous` is None once nothing is sealed with it any more; `is_settled` says that no change of key is under way.
    """

    installed: Secret[bytes]
    sealing: Secret[bytes]
    previous: Secret[bytes] | None = None
    is_settled: bool = True


class Position(Struct, frozen=True, kw_only=True):
    """How far sealing anew has come: the last row of each table that was looked at, None before the first."""

    is_in_answers: bool = False
    secret: tuple[int, str] | None = None
    answer: tuple[str, str, str] | None = None


def adopt_master_key(database: Database, installed: Secret[bytes]) -> MasterKeys:
    """Return the journal's keys, given the one that was found; a journal without one takes it as its own.

    Raises MasterKeyError where it is neither the journal's key nor the one that its last change began with.
    """
    vault = Vault(installed)
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
    if not _opens(vault, check, _CHECK):
        raise MasterKeyError(
            "the master key isn't the one this journal was made with, nor the one it was changed to last: point "
            "secrets.master_key_file to that one"
        )
    return MasterKeys(
        installed=installed,
        sealing=sealing_key,
        previous=None if previous is None else Secret(vault.decrypt(previous, context=_context(_PREVIOUS))),
        is_settled=following is None and previous is None,
    )


def sealing_key_id(database: Database) -> str | None:
    """Return the name of the master key that opens this journal; None where none was taken yet, or it isn't named."""
    check = _read(database, _CHECK)
    name = None if check is None else sealed_under(check)
    return None if name is None else name.hex()


def begin_change(database: Database, keys: MasterKeys, new: Secret[bytes]) -> MasterKeys:
    """Make `new` the key that seals, in one step that leaves everything openable with the key that is installed."""
    _write(database, _CHECK, Vault(new).encrypt(_KNOWN, context=_context(_CHECK)))
    _write(database, _NEXT, Vault(keys.installed).encrypt(new.reveal(), context=_context(_NEXT)))
    _write(database, _PREVIOUS, Vault(new).encrypt(keys.sealing.reveal(), context=_context(_PREVIOUS)))
    return MasterKeys(installed=keys.installed, sealing=new, previous=keys.sealing, is_settled=False)


def reseal(database: Database, vault: Vault, position: Position, limit: int) -> tuple[Position | None, int]:
    """Seal the next rows under the vault's key; return where to go on (None: all is done) and how many it were."""
    if not position.is_in_answers:
        secret, count = sealing.reseal(database, vault, position.secret, limit)
        return msgspec.structs.replace(position, secret=secret, is_in_answers=secret is None), count
    answer, count = idempotency.reseal(database, vault, position.answer, limit)
    return (None if answer is None else msgspec.structs.replace(position, answer=answer)), count


def forget_previous(database: Database) -> None:
    """Forget the key of before: nothing is sealed with it any more."""
    _remove(database, _PREVIOUS)


def end_change(database: Database) -> None:
    """End a change: the key that seals is the one that is found in its place."""
    _remove(database, _NEXT, _PREVIOUS)


def holds_secrets(database: Database) -> bool:
    """Whether the journal holds a secret that a new master key couldn't open."""
    return SecretTable.select().exists(database)


def forget_master_key(database: Database) -> None:
    """Let a journal that holds no secret take another master key as its own.

    Answers that are kept for Idempotency-Keys go too, since nothing opens them: their requests would be done again.
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
        MetaTable.replace({"name": name, "value": sealed}).execute(database)


def _remove(database: Database, *names: str) -> None:
    with erasing(database):
        MetaTable.delete().where(MetaTable.name.in_(names)).execute(database)


def _context(name: str) -> str:
    return f"meta:value:{name}"
