"""Who is asking, and what that caller may do.

API keys live in memory: loaded at boot, and changed in the step in which the journal tells of a commit, so that a
revoked key stops with the answer to its revocation. A key reads `whd_<role>_<ULID>_<secret>`; the ULID finds it, and
the SHA-256 of the whole text is compared in constant time.
"""

import base64
import hmac
import os
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from webhookd.errors import ErrorCode, Rejected
from webhookd.hidden import Secret
from webhookd.ids import IdFactory, Prefix
from webhookd.models import Role
from webhookd.secrets import hash_api_key

_SECRET_BYTES = 32
_LONGEST_KEY = 128


class Permission(StrEnum):
    """What an operation asks of its caller."""

    READ = "read"
    OPERATE = "operate"
    PUBLISH = "publish"
    ADMINISTER = "administer"
    ADMINISTER_HERE = "administer_here"
    NOTHING = "nothing"


_GRANTS = {
    Role.ADMIN: frozenset(Permission),
    Role.OPERATOR: frozenset({Permission.READ, Permission.OPERATE}),
    Role.VIEWER: frozenset({Permission.READ}),
    Role.INGEST: frozenset({Permission.PUBLISH}),
}


class ApiKey(Protocol):
    """What is needed of a stored key; times are epoch seconds."""

    @property
    def id(self) -> str:
        """The public id, `key_…`."""
        ...

    @property
    def role(self) -> Role:
        """What it may do."""
        ...

    @property
    def organization_id(self) -> str | None:
        """The organization it is bound to."""
        ...

    @property
    def key_hash(self) -> bytes:
        """What `hash_api_key` made of its text."""
        ...

    @property
    def expires_at(self) -> float | None:
        """When it stops working."""
        ...


class Caller(Struct, frozen=True, kw_only=True):
    """Whoever sent a request: a key, the machine's own administrator (`is_local`), or nobody (no role)."""

    role: Role | None
    organization_id: str | None = None
    key_id: str | None = None
    is_local: bool = False

    def require(self, permission: Permission) -> None:
        """Raise Rejected FORBIDDEN unless the caller's role grants it."""
        if permission is Permission.NOTHING:
            return
        if self.role is None:
            raise Rejected(ErrorCode.UNAUTHORIZED, "this needs an API key")
        if permission is Permission.ADMINISTER_HERE and not self.is_local:
            raise Rejected(ErrorCode.FORBIDDEN, "this is for the machine's own administrator, over the control socket")
        if permission not in _GRANTS[self.role]:
            raise Rejected(ErrorCode.FORBIDDEN, f"a key of the role {self.role.value} may not do this")

    def require_unbound(self, what: str) -> None:
        """Raise Rejected FORBIDDEN for a caller who is bound to an organization."""
        if self.organization_id is not None:
            raise Rejected(ErrorCode.FORBIDDEN, f"a key that is bound to an organization can't touch {what}")

    def stamp(self, organization_id: str | None) -> str | None:
        """Return the organization of what this caller makes; FORBIDDEN where a bound caller names another."""
        if self.organization_id is None:
            return organization_id
        if organization_id not in {None, self.organization_id}:
            raise Rejected(
                ErrorCode.FORBIDDEN, f"the key is bound to organization {self.organization_id} and can't name another"
            )
        return self.organization_id


LOCAL_ADMINISTRATOR = Caller(role=Role.ADMIN, is_local=True)
NOBODY = Caller(role=None)


def new_key(role: Role, ids: IdFactory, random_bytes: Callable[[int], bytes] = os.urandom) -> tuple[str, Secret[str]]:
    """Return a new key's id and its text, which is shown once and stored as a hash."""
    key_id = ids.new(Prefix.KEY)
    secret = base64.urlsafe_b64encode(random_bytes(_SECRET_BYTES)).decode().rstrip("=")
    return key_id, Secret(f"whd_{role.value}_{key_id.removeprefix(f'{Prefix.KEY.value}_')}_{secret}")


class KeyRing:
    """The keys in force, in memory. Every method is one synchronous step."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._keys = {key.id: key for key in keys}

    def put(self, key: ApiKey) -> None:
        """Let a key in."""
        self._keys[key.id] = key

    def remove(self, key_id: str) -> None:
        """Let a key in no longer; one that isn't there is no error."""
        self._keys.pop(key_id, None)

    def identify(self, text: str, now: float) -> Caller | None:
        """Return the caller whose key this is, or None for what is no key in force."""
        parts = text.split("_", 3)
        if len(parts) != 4 or parts[0] != "whd" or len(text) > _LONGEST_KEY:
            return None
        key = self._keys.get(f"{Prefix.KEY.value}_{parts[2]}")
        # Compared before its expiry is looked at, so that only its owner can tell an expired key from a wrong one.
        if key is None or not hmac.compare_digest(key.key_hash, hash_api_key(text)):
            return None
        if key.expires_at is not None and key.expires_at <= now:
            return None
        return Caller(role=key.role, organization_id=key.organization_id, key_id=key.id)

    def authenticate(self, authorization: list[str], now: float) -> Caller:
        """Return the caller of a request, given its Authorization headers; Rejected UNAUTHORIZED for nobody."""
        if not authorization:
            raise Rejected(ErrorCode.UNAUTHORIZED, "send an API key as Authorization: Bearer <key>")
        scheme, _, text = authorization[0].strip().partition(" ")
        caller = None
        # What is no ASCII is no key, and a header may hold any byte.
        if len(authorization) == 1 and scheme.lower() == "bearer" and text.isascii():
            caller = self.identify(text.strip(), now)
        if caller is None:
            raise Rejected(ErrorCode.UNAUTHORIZED, "the API key is not known, or it has expired or been revoked")
        return caller
