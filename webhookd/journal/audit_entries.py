"""The entries of the audit log: who asked for a change, of what, and when. Times are epoch seconds."""

from enum import StrEnum

from msgspec import Struct

from webhookd.base.models import Role


class AuditActorKind(StrEnum):
    """How an actor was authenticated: by an API key, a token (JWT), the control socket, or as a command's user."""

    KEY = "key"
    TOKEN = "token"  # noqa: S105 - the name of a kind
    CONTROL = "control"
    COMMAND = "command"


class Action(StrEnum):
    """An action that the audit log records."""

    WEBHOOK_CREATE = "webhook.create"
    WEBHOOK_CHANGE = "webhook.change"
    WEBHOOK_DELETE = "webhook.delete"
    WEBHOOK_ROTATE_SECRET = "webhook.rotate_secret"  # noqa: S105 - the name of an action
    WEBHOOK_TEST = "webhook.test"
    WEBHOOK_RECOVER = "webhook.recover"
    WEBHOOK_REPLAY = "webhook.replay"
    WEBHOOK_STOP_REPLAY = "webhook.stop_replay"
    DELIVERY_RETRY = "delivery.retry"
    EVENT_TYPE_PUT = "event_type.put"
    EVENT_TYPE_DELETE = "event_type.delete"
    KEY_CREATE = "key.create"
    KEY_REVOKE = "key.revoke"
    MASTER_KEY_ROTATE = "master_key.rotate"
    JOURNAL_BACKUP = "journal.backup"
    JOURNAL_RESTORE = "journal.restore"


class AuditActor(Struct, frozen=True, kw_only=True):
    """Who made a change; `id` is a key's id, a token's subject, or a uid."""

    kind: AuditActorKind
    id: str
    role: Role | None = None


class AuditEntry(Struct, frozen=True, kw_only=True):
    """An entry before it is appended, which adds the object; `fields` are the names of the fields that were given."""

    actor: AuditActor
    action: Action
    at: float
    request_id: str | None = None
    fields: tuple[str, ...] = ()


class AuditRow(Struct, frozen=True, kw_only=True):
    """A stored entry; `hash` is that of the chain up to this entry."""

    sequence: int
    at: float
    actor_kind: AuditActorKind
    actor: str
    role: Role | None
    action: Action
    object: str
    organization_id: str | None
    request_id: str | None
    fields: tuple[str, ...]
    hash: bytes


class Chain(Struct, frozen=True, kw_only=True):
    """The result of a check: how many entries are intact from the start, the last one's hash, and what is wrong."""

    entries: int
    head: bytes
    broken: str | None
