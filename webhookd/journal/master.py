"""Whether a master key is this journal's: a known value, sealed with the key when the journal was made."""

from peewee import Database

from webhookd.errors import MasterKeyError
from webhookd.journal.schema import MetaTable, SecretTable
from webhookd.secrets import Vault

_CHECK = "master_key_check"
_CONTEXT = f"meta:value:{_CHECK}"
_KNOWN = b"webhookd"


def check_master_key(database: Database, vault: Vault) -> None:
    """Raise MasterKeyError where this isn't the journal's master key; a journal without one takes it as its own."""
    query = MetaTable.select(MetaTable.value).where(MetaTable.name == _CHECK)
    stored = list(query.tuples().execute(database))
    if not stored:
        MetaTable.insert({"name": _CHECK, "value": vault.encrypt(_KNOWN, context=_CONTEXT)}).execute(database)
        return
    try:
        vault.decrypt(bytes(stored[0][0]), context=_CONTEXT)
    except MasterKeyError as error:
        raise MasterKeyError(
            "the master key isn't the one this journal was made with: point secrets.master_key_file to that one"
        ) from error


def holds_secrets(database: Database) -> bool:
    """Whether anything in the journal is sealed that a new master key couldn't open."""
    return SecretTable.select().exists(database)


def forget_master_key(database: Database) -> None:
    """Let a journal that holds no secret take another master key as its own."""
    MetaTable.delete().where(MetaTable.name == _CHECK).execute(database)
