"""The errors of the journal's storage, whichever it is."""

from collections.abc import Sequence
from typing import Any

from webhookd.base.errors import JournalError, WebhookdError


class JournalFullError(WebhookdError):
    """There is no room on the disk, or the configuration allows no more; the transaction was rolled back."""


class DiskError(JournalError):
    """The journal is damaged, or a read or write of the disk has failed."""


class StaleTargetsError(WebhookdError):
    """Settings were changed elsewhere since the targets of events were found: nothing of `left` was committed.

    So it is if the master key was changed elsewhere, for a change that would have sealed something.
    """

    def __init__(self, left: Sequence[Any]) -> None:
        super().__init__("settings were changed elsewhere since the targets of events were found")
        self.left = left


class StaleKeyError(WebhookdError):
    """Another node has changed the master key, and this process has not followed that yet: it may seal nothing."""


class ConnectionLostError(WebhookdError):
    """The database can't be reached; if the connection was lost during a commit, that may have succeeded or not."""


class DamagedDatabaseError(ConnectionLostError):
    """The database's disk has failed, or its data is damaged: it is of no more use than one that can't be reached."""


class OtherDatabaseError(ConnectionLostError):
    """What can be reached may be a past of the database: nothing of it is used until what was known is dropped.

    `found` is its incarnation.
    """

    def __init__(self, text: str, found: Any) -> None:
        super().__init__(text)
        self.found = found


class MustRepeatError(WebhookdError):
    """The database rolled the transaction back because of another one, and the same transaction may succeed now."""


class NoPartitionError(WebhookdError):
    """A row of `table` whose time is `at` has no partition to go into; the transaction was rolled back."""

    def __init__(self, table: str, at: float) -> None:
        super().__init__(f"{table} has no partition for {at}")
        self.table = table
        self.at = at


class FencedError(WebhookdError):
    """Another node drives the endpoint by now: what this one has to record of it was refused."""
