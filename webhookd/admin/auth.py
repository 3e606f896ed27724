"""Authentication and permissions of callers.

API keys are in memory: loaded at the start, and changed in the step in which the journal announces a commit, so that a
revoked key no longer works when its revocation is answered. Of several nodes, each follows what the others change; one
that can't do so for some seconds accepts no key, since any may have been revoked. A key has the form
`whd_<role>_<ULID>_<secret>`. The ULID finds the key, and the SHA-256 of the whole text is compared in constant time,
also if no key has the ULID.
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
from webhookd.journal import AuditActor, AuditActorKind, Feed, KeyAdded, KeyRevoked, KeyRow, SettingsReread

_SECRET_BYTES = 32
_LONGEST_KEY = 128
_KEY_PREFIX = "whd"
_NO_HASH = bytes(32)

OUTDATED_RETRY_SECONDS = 1
"""After that long, a node that couldn't follow the changes of other nodes may be able to again."""


class Permission(StrEnum):
    """What a caller needs for an operation."""

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
    """Return the roles that grant a permission."""
    return tuple(role for role, granted in _GRANTS.items() if permission in granted)


class Caller(Struct, frozen=True, kw_only=True):
    """The sender of a request: a key, a token, the machine's administrator, or anonymous (no role, no actor).

    `expires_at` is the expiry of a token; that of a key is looked up, since the key may also be revoked.
    """

    role: Role | None
    organization_id: str | None = None
    actor: AuditActor | None = None
    expires_at: float | None = None

    @property
    def is_local(self) -> bool:
        """Whether it is the machine's administrator, as the kernel reports on the control socket."""
        return self.actor is not None and self.actor.kind is AuditActorKind.CONTROL

    @property
    def place(self) -> str:
        """The unique name of this caller, for what no other caller may see."""
        if self.actor is None or self.actor.kind is AuditActorKind.CONTROL:
            return "local"
        if self.actor.kind is AuditActorKind.KEY:
            return self.actor.id
        # An organization's id has no slash and isn't a star.
        return f"jwt/{self.organization_id or '*'}/{self.actor.id}"

    @property
    def share(self) -> str:
        """The name under which shared resources are counted: the organization, or this caller if it has none."""
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
            raise Rejected(ErrorCode.FORBIDDEN, "this is for the machine's administrator, over the control socket")
        raise Rejected(ErrorCode.FORBIDDEN, f"the role {self.role.value} may not do this")

    def require_unbound(self, what: str) -> None:
        """Raise Rejected FORBIDDEN for a caller that is bound to an organization."""
        if self.organization_id is not None:
            raise Rejected(ErrorCode.FORBIDDEN, f"a caller bound to an organization can't change {what}")

    def stamp(self, organization_id: str | None) -> str | None:
        """Return the organization of what this caller creates; FORBIDDEN if a bound caller names another one."""
        if self.organization_id is None:
            return organization_id
        if organization_id not in {None, self.organization_id}:
            raise Rejected(
                ErrorCode.FORBIDDEN, f"you are bound to organization {self.organization_id} and can't name another"
            )
        return self.organization_id


NOBODY = Caller(role=None)


def local_administrator(uid: int) -> Caller:
    """Return the caller of the control socket with this uid, as the kernel reports it."""
    return Caller(role=Role.ADMIN, actor=AuditActor(kind=AuditActorKind.CONTROL, id=str(uid), role=Role.ADMIN))


def new_key(
    role: Role,
    ids: IdFactory,
    now: float,
    *,
    name: str = "",
    organization_id: str | None = None,
    expires_at: float | None = None,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> tuple[KeyRow, Secret[str]]:
    """Return the row and the text of a new key; the text is shown once and stored as a hash."""
    key_id = ids.new(Prefix.KEY)
    secret = base64.urlsafe_b64encode(random_bytes(_SECRET_BYTES)).decode().rstrip("=")
    text = f"{_KEY_PREFIX}_{role.value}_{key_id.removeprefix(f'{Prefix.KEY.value}_')}_{secret}"
    row = KeyRow(
        id=key_id,
        role=role,
        name=name,
        organization_id=organization_id,
        key_hash=hash_api_key(text),
        created_at=now,
        expires_at=expires_at,
    )
    return row, Secret(text)


class KeyRing:
    """The keys in force, in memory, with their last use. Every method is one synchronous step.

    With a `feed` it follows the changes in the journal. While `is_current` returns False, a key that was revoked may
    still be here: then nothing is said about any key, and Rejected KEYS_OUTDATED is raised.
    """

    def __init__(
        self, keys: Iterable[KeyRow] = (), *, feed: Feed | None = None, is_current: Callable[[], bool] = lambda: True
    ) -> None:
        self._keys = {key.id: key for key in keys}
        self._is_current = is_current
        if feed is not None:
            feed.follow(KeyAdded, lambda added: self.put(added.key))
            feed.follow(KeyRevoked, lambda revoked: self.remove(revoked.key_id))
            feed.follow(SettingsReread, self._replace)
        self._used: dict[str, float] = {}
        self._unsaved: set[str] = set()

    def put(self, key: KeyRow) -> None:
        """Add a key."""
        self._keys[key.id] = key

    def remove(self, key_id: str) -> None:
        """Remove a key, which may be unknown."""
        self._keys.pop(key_id, None)
        self._used.pop(key_id, None)
        self._unsaved.discard(key_id)

    def _replace(self, reread: SettingsReread) -> None:
        found = {key.id: key for key in reread.keys}
        for key_id in self._keys.keys() - found.keys():
            self.remove(key_id)
        self._keys |= found

    def identify(self, text: str, now: float) -> Caller | None:
        """Return the caller with this key; None if it is no key in force."""
        parts = text.split("_", 3)
        if len(parts) != 4 or parts[0] != _KEY_PREFIX or len(text) > _LONGEST_KEY:
            return None
        self._check_current()
        key = self._keys.get(f"{Prefix.KEY.value}_{parts[2]}")
        # An unknown key is hashed and compared too, so that the time doesn't show which ids exist. The expiry is
        # checked afterwards, so that only the owner of a key learns that it has expired.
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
        self._check_current()
        key = self._keys.get(caller.actor.id)
        return None if key is None or _has_ended(key.expires_at, now) else _caller(key)

    def _check_current(self) -> None:
        if not self._is_current():
            raise Rejected(
                ErrorCode.KEYS_OUTDATED,
                "this node can't see at present which API keys have been revoked, so it accepts none; send it to "
                "another node, or again later",
                retry_after_seconds=OUTDATED_RETRY_SECONDS,
            )

    def expires_at(self, caller: Caller) -> float | None:
        """Return when the key or token of a caller expires; None if it doesn't, or is no longer in force."""
        if caller.actor is None or caller.actor.kind is not AuditActorKind.KEY:
            return caller.expires_at
        key = self._keys.get(caller.actor.id)
        return None if key is None else key.expires_at

    def note_use(self, caller: Caller, now: float) -> None:
        """Note a use of the caller's key without its text, as by a session."""
        if caller.actor is not None and caller.actor.id in self._keys:
            self._used[caller.actor.id] = now
            self._unsaved.add(caller.actor.id)

    def last_used_at(self, key_id: str) -> float | None:
        """Return when a key was used last since the server's start; None if it wasn't."""
        return self._used.get(key_id)

    def take_uses(self) -> Mapping[str, float]:
        """Return the last uses since the previous call, by key id."""
        uses = {key_id: self._used[key_id] for key_id in self._unsaved}
        self._unsaved.clear()
        return uses


class Tokens(Protocol):
    """Verifies the tokens of the application's own sign-in."""

    def identify(self, text: str) -> Caller:
        """Return the caller with this token; Rejected UNAUTHORIZED, or FORBIDDEN if it gives no role here."""
        ...


def authenticate(authorization: list[str], keys: KeyRing, tokens: Tokens | None, now: float) -> Caller:
    """Return the caller with these Authorization headers; Rejected UNAUTHORIZED or FORBIDDEN."""
    if not authorization:
        raise Rejected(ErrorCode.UNAUTHORIZED, "send an API key as Authorization: Bearer <key>")
    scheme, _, text = authorization[0].strip().partition(" ")
    text = text.strip()
    caller = None
    # A key is ASCII, but a header may hold any byte.
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
