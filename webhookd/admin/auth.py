"""Who is asking, and what that caller may do.

API keys live in memory: loaded at boot, and changed in the step in which the journal tells of a commit, so that a
revoked key stops with the answer to its revocation. A key reads `whd_<role>_<ULID>_<secret>`; the ULID finds it, and
the SHA-256 of the whole text is compared in constant time, for a ULID that finds nothing too.
"""

import base64
import hmac
import os
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import Role
from webhookd.base.secret import Secret
from webhookd.crypto.vault import hash_api_key
from webhookd.journal import AuditActor, AuditActorKind, Feed, KeyAdded, KeyRevoked, KeyRow

_SECRET_BYTES = 32
_LONGEST_KEY = 128
_KEY_PREFIX = "whd"
_NO_HASH = bytes(32)


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


def roles_with(permission: Permission) -> tuple[Role, ...]:
    """Return the roles that grant it."""
    return tuple(role for role, granted in _GRANTS.items() if permission in granted)


class Caller(Struct, frozen=True, kw_only=True):
    """Whoever sent a request: a key, a token, the machine's own administrator, or nobody (no role, no actor).

    `expires_at` is a token's own end; a key's is looked up, since the key may also be revoked.
    """

    role: Role | None
    organization_id: str | None = None
    actor: AuditActor | None = None
    expires_at: float | None = None

    @property
    def is_local(self) -> bool:
        """Whether it is the machine's own administrator, by the kernel's word."""
        return self.actor is not None and self.actor.kind is AuditActorKind.CONTROL

    @property
    def place(self) -> str:
        """What tells this caller from every other: what is kept for one is for no other to see."""
        if self.actor is None or self.actor.kind is AuditActorKind.CONTROL:
            return "local"
        if self.actor.kind is AuditActorKind.KEY:
            return self.actor.id
        # No organization's id has a slash or is a star.
        return f"jwt/{self.organization_id or '*'}/{self.actor.id}"

    @property
    def share(self) -> str:
        """Whose share of what all callers share is used: the organization's, or its own where it belongs to none."""
        return self.place if self.organization_id is None else f"organization/{self.organization_id}"

    def may(self, permission: Permission) -> bool:
        """Whether the caller has this permission."""
        if permission is Permission.NOTHING:
            return True
        is_granted = self.role is not None and permission in _GRANTS[self.role]
        return is_granted and (permission is not Permission.ADMINISTER_HERE or self.is_local)

    def require(self, permission: Permission) -> None:
        """Raise Rejected FORBIDDEN unless the caller has this permission, UNAUTHORIZED for a request without a key."""
        if self.may(permission):
            return
        if self.role is None:
            raise Rejected(ErrorCode.UNAUTHORIZED, "this needs an API key")
        if permission is Permission.ADMINISTER_HERE and not self.is_local:
            raise Rejected(ErrorCode.FORBIDDEN, "this is for the machine's own administrator, over the control socket")
        raise Rejected(ErrorCode.FORBIDDEN, f"the role {self.role.value} may not do this")

    def require_unbound(self, what: str) -> None:
        """Raise Rejected FORBIDDEN for a caller who is bound to an organization."""
        if self.organization_id is not None:
            raise Rejected(ErrorCode.FORBIDDEN, f"who is bound to an organization can't touch {what}")

    def stamp(self, organization_id: str | None) -> str | None:
        """Return the organization of what this caller makes; FORBIDDEN where a bound caller names another."""
        if self.organization_id is None:
            return organization_id
        if organization_id not in {None, self.organization_id}:
            raise Rejected(
                ErrorCode.FORBIDDEN, f"you are bound to organization {self.organization_id} and can't name another"
            )
        return self.organization_id


NOBODY = Caller(role=None)


def local_administrator(uid: int) -> Caller:
    """Return the caller whom the kernel vouches for on the control socket."""
    return Caller(role=Role.ADMIN, actor=AuditActor(kind=AuditActorKind.CONTROL, id=str(uid), role=Role.ADMIN))


def new_key(role: Role, ids: IdFactory, random_bytes: Callable[[int], bytes] = os.urandom) -> tuple[str, Secret[str]]:
    """Return a new key's id and its text, which is shown once and stored as a hash."""
    key_id = ids.new(Prefix.KEY)
    secret = base64.urlsafe_b64encode(random_bytes(_SECRET_BYTES)).decode().rstrip("=")
    return key_id, Secret(f"{_KEY_PREFIX}_{role.value}_{key_id.removeprefix(f'{Prefix.KEY.value}_')}_{secret}")


class KeyRing:
    """The keys in force, in memory, and when each was used last. Every method is one synchronous step.

    With a `feed` it lets keys in and out as the store says.
    """

    def __init__(self, keys: Iterable[KeyRow] = (), *, feed: Feed | None = None) -> None:
        self._keys = {key.id: key for key in keys}
        if feed is not None:
            feed.follow(KeyAdded, lambda added: self.put(added.key))
            feed.follow(KeyRevoked, lambda revoked: self.remove(revoked.key.id))
        self._used: dict[str, float] = {}
        self._unsaved: set[str] = set()

    def put(self, key: KeyRow) -> None:
        """Let a key in."""
        self._keys[key.id] = key

    def remove(self, key_id: str) -> None:
        """Let a key in no longer; one that isn't there is no error."""
        self._keys.pop(key_id, None)
        self._used.pop(key_id, None)
        self._unsaved.discard(key_id)

    def identify(self, text: str, now: float) -> Caller | None:
        """Return the caller whose key this is, or None for what is no key in force."""
        parts = text.split("_", 3)
        if len(parts) != 4 or parts[0] != _KEY_PREFIX or len(text) > _LONGEST_KEY:
            return None
        key = self._keys.get(f"{Prefix.KEY.value}_{parts[2]}")
        # Hashed and compared for an unknown key as well, so that the time says nothing of which ids there are; and
        # before the expiry is looked at, so that only its owner can tell an expired key from a wrong one.
        matches = hmac.compare_digest(_NO_HASH if key is None else key.key_hash, hash_api_key(text))
        if key is None or not matches or _has_ended(key.expires_at, now):
            return None
        self._used[key.id] = now
        self._unsaved.add(key.id)
        return _caller(key)

    def caller_now(self, caller: Caller, now: float) -> Caller | None:
        """Return the caller with the present role and organization of its key, since a stream may outlive its key.

        None once the key or token is no longer in force.
        """
        if caller.actor is None or caller.actor.kind is not AuditActorKind.KEY:
            return None if _has_ended(caller.expires_at, now) else caller
        key = self._keys.get(caller.actor.id)
        return None if key is None or _has_ended(key.expires_at, now) else _caller(key)

    def note_use(self, caller: Caller, now: float) -> None:
        """Remember that a caller's key is used, without its text having been shown again."""
        if caller.actor is not None and caller.actor.id in self._keys:
            self._used[caller.actor.id] = now
            self._unsaved.add(caller.actor.id)

    def last_used_at(self, key_id: str) -> float | None:
        """Return when a key was used last since the start, None where it wasn't."""
        return self._used.get(key_id)

    def take_uses(self) -> Mapping[str, float]:
        """Return the last uses that have not been returned before."""
        uses = {key_id: self._used[key_id] for key_id in self._unsaved}
        self._unsaved.clear()
        return uses


class Tokens(Protocol):
    """What knows the tokens of the application's own sign-in."""

    def identify(self, text: str) -> Caller:
        """Return the caller whose token this is; Rejected UNAUTHORIZED, or FORBIDDEN where it gives no role here."""
        ...


def authenticate(authorization: list[str], keys: KeyRing, tokens: Tokens | None, now: float) -> Caller:
    """Return the caller of a request, given its Authorization headers; Rejected for nobody."""
    if not authorization:
        raise Rejected(ErrorCode.UNAUTHORIZED, "send an API key as Authorization: Bearer <key>")
    scheme, _, text = authorization[0].strip().partition(" ")
    text = text.strip()
    caller = None
    # What is no ASCII is no key, and a header may hold any byte.
    if len(authorization) == 1 and scheme.lower() == "bearer" and text.isascii():
        if tokens is not None and not text.startswith(f"{_KEY_PREFIX}_"):
            return tokens.identify(text)
        caller = keys.identify(text, now)
    if caller is None:
        raise Rejected(ErrorCode.UNAUTHORIZED, "the API key is not known, or it has expired or been revoked")
    return caller


def _caller(key: KeyRow) -> Caller:
    actor = AuditActor(kind=AuditActorKind.KEY, id=key.id, role=key.role)
    return Caller(role=key.role, organization_id=key.organization_id, actor=actor)


def _has_ended(expires_at: float | None, now: float) -> bool:
    return expires_at is not None and expires_at <= now
