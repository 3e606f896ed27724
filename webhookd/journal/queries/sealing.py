"""The sealed secrets of endpoints; each is bound to its table, its kind and its endpoint's id.

What is replaced or deleted is overwritten in the file, so that a leaked master key opens nothing that is no longer
stored.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from peewee import Database, Query, Tuple

from webhookd.base.errors import MasterKeyError
from webhookd.base.secret import Secret
from webhookd.crypto.vault import Vault
from webhookd.journal.queries.dialect import is_postgres
from webhookd.journal.queries.locks import hold_master_key, lock, locking
from webhookd.journal.queries.schema import EndpointTable, SecretTable
from webhookd.observe.logs import get_logger

CURRENT, PREVIOUS, ED25519, HEADERS = "current", "previous", "ed25519", "headers"

_log = get_logger("journal")


@contextmanager
def erasing(database: Database) -> Iterator[None]:
    """Overwrite what is deleted in this block with zeros, in the file's pages and in those that become free.

    On PostgreSQL it does nothing: what is deleted stays in the table's pages until a vacuum and a later write, and in
    the write-ahead log, its archive and standbys as long as these are kept.
    """
    if is_postgres(database):
        yield
        return
    database.execute_sql("PRAGMA secure_delete = ON").fetchall()
    try:
        yield
    finally:
        database.execute_sql("PRAGMA secure_delete = OFF").fetchall()


def seal(database: Database, vault: Vault, pk: int, endpoint_id: str, *, kind: str, plain: Secret[str]) -> None:
    """Store a secret of an endpoint, in place of the older one of its kind; raises StaleKeyError."""
    hold_master_key(database, vault)
    sealed = vault.encrypt(plain.reveal().encode(), context=_context(kind, endpoint_id))
    with erasing(database):
        _put([{"endpoint_pk": pk, "kind": kind, "sealed": sealed}]).execute(database)


def unseal(database: Database, vault: Vault, pk: int, endpoint_id: str) -> dict[str, Secret[str]]:
    """Return the secrets of an endpoint by kind.

    Raises MasterKeyError for a value that doesn't open: the file was changed without the key.
    """
    query = SecretTable.select(SecretTable.kind, SecretTable.sealed).where(SecretTable.endpoint_pk == pk)
    return {
        kind: Secret(vault.decrypt(bytes(sealed), context=_context(kind, endpoint_id)).decode())
        # All rows are read first: an error during the query would leave its cursor open, and the log couldn't be cut.
        for kind, sealed in list(query.tuples().execute(database))
    }


def remove(database: Database, pk: int, *kinds: str) -> None:
    """Delete the secrets of these kinds that an endpoint has."""
    with erasing(database):
        SecretTable.delete().where((SecretTable.endpoint_pk == pk) & SecretTable.kind.in_(kinds)).execute(database)


def expired(database: Database, now: float) -> list[int]:
    """Return the row numbers of the endpoints whose previous secret is stored although the overlap has ended."""
    query = (
        SecretTable.select(SecretTable.endpoint_pk)
        .join(EndpointTable, on=(EndpointTable.pk == SecretTable.endpoint_pk))
        .where((SecretTable.kind == PREVIOUS) & (EndpointTable.previous_secret_expires_at <= now))
    )
    return [pk for (pk,) in query.tuples().execute(database)]


def delete_expired(database: Database, pks: Sequence[int], now: float) -> int:
    """Delete the previous secrets of those of the endpoints whose overlap has ended; return their number."""
    lock(database, EndpointTable.pk.in_(pks), EndpointTable.pk)
    ended = EndpointTable.select(EndpointTable.pk).where(
        EndpointTable.pk.in_(pks) & (EndpointTable.previous_secret_expires_at <= now)
    )
    query = SecretTable.delete().where((SecretTable.kind == PREVIOUS) & SecretTable.endpoint_pk.in_(ended))
    with erasing(database):
        count: int = query.execute(database)
    return count


def reseal(
    database: Database, vault: Vault, after: tuple[int, str] | None, limit: int
) -> tuple[tuple[int, str] | None, int]:
    """Seal the next secrets with the vault's key; return the place of the last one (None: all are done) and a count.

    One that doesn't open is left unchanged: it was tampered with, which each attempt of its endpoint reports.
    """
    hold_master_key(database, vault)
    query = (
        SecretTable.select(SecretTable.endpoint_pk, SecretTable.kind, SecretTable.sealed, EndpointTable.id)
        .join(EndpointTable, on=(EndpointTable.pk == SecretTable.endpoint_pk))
        .order_by(SecretTable.endpoint_pk, SecretTable.kind)
        .limit(limit)
    )
    if after is not None:
        query = query.where(Tuple(SecretTable.endpoint_pk, SecretTable.kind) > after)
    rows = list(locking(database, query, SecretTable).tuples().execute(database))
    changed = [
        {"endpoint_pk": pk, "kind": kind, "sealed": again}
        for pk, kind, sealed, endpoint_id in rows
        if (again := resealed(vault, bytes(sealed), _context(kind, endpoint_id))) is not None
    ]
    if changed:
        with erasing(database):
            _put(changed).execute(database)
    return ((rows[-1][0], rows[-1][1]) if len(rows) == limit else None), len(changed)


def resealed(vault: Vault, sealed: bytes, context: str) -> bytes | None:
    """Return a value sealed with the vault's key; None for one that already is, or that doesn't open."""
    if vault.seals_like(sealed):
        return None
    try:
        return vault.encrypt(vault.decrypt(sealed, context=context), context=context)
    except MasterKeyError as error:
        _log.error("secret.does_not_open", place=context, error=str(error))
        return None


def _put(rows: Sequence[Mapping[str, object]]) -> Query:
    """Return the query that stores secrets, each in place of the older one of its kind."""
    return SecretTable.insert_many(rows).on_conflict(
        conflict_target=[SecretTable.endpoint_pk, SecretTable.kind], preserve=[SecretTable.sealed]
    )


def _context(kind: str, endpoint_id: str) -> str:
    return f"secrets:{kind}:{endpoint_id}"
