"""How many webhooks and API keys an organization may have, checked in the transaction that adds one.

Changes take turns, so two that are added at the same time can't both be the last one allowed. What belongs to no
organization has no quota. A lower limit removes nothing that exists.
"""

from peewee import SQL, Database, fn

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import Endpoint
from webhookd.crypto.vault import Vault
from webhookd.journal.queries import endpoints, keys
from webhookd.journal.queries.locks import take_turn
from webhookd.journal.queries.schema import EndpointTable, KeyTable
from webhookd.journal.rows import KeyRow, NewEndpoint


def insert_endpoint(database: Database, vault: Vault, new: NewEndpoint, *, most: int) -> Endpoint:
    """Register an endpoint; raises Rejected QUOTA_EXCEEDED if its organization has `most` of them."""
    if new.organization_id is not None:
        take_turn(database)
        there_are = webhooks_of(database, new.organization_id)
        if there_are >= most:
            raise _exceeded(new.organization_id, f"{there_are} webhooks", "max_webhooks", most, "delete")
    return endpoints.insert(database, vault, new)


def insert_key(database: Database, row: KeyRow, *, most: int) -> KeyRow:
    """Store a key; raises Rejected QUOTA_EXCEEDED if its organization has `most` of them.

    Expired keys count until they are revoked, as they are listed until then.
    """
    if row.organization_id is not None:
        take_turn(database)
        there_are = keys_of(database, row.organization_id)
        if there_are >= most:
            raise _exceeded(row.organization_id, f"{there_are} API keys", "max_keys", most, "revoke")
    return keys.insert(database, row)


def webhooks_of(database: Database, organization_id: str) -> int:
    """Return how many webhooks an organization has."""
    query = EndpointTable.select(fn.COUNT(SQL("*"))).where(
        (EndpointTable.organization_id == organization_id) & EndpointTable.deleted_at.is_null()
    )
    [[there_are]] = query.tuples().execute(database)
    return int(there_are)


def keys_of(database: Database, organization_id: str) -> int:
    """Return how many API keys are bound to an organization."""
    query = KeyTable.select(fn.COUNT(SQL("*"))).where(KeyTable.organization_id == organization_id)
    [[there_are]] = query.tuples().execute(database)
    return int(there_are)


def _exceeded(organization_id: str, there_are: str, key: str, most: int, remove: str) -> Rejected:
    return Rejected(
        ErrorCode.QUOTA_EXCEEDED,
        f"the organization {organization_id} has {there_are}, and organizations.{key} allows {most}: {remove} one that "
        "isn't needed any more, or have the operator of this server raise the limit",
    )
