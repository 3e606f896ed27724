"""The table of crash points, in the order of their phases: an event's way, the files, and changes."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.crashpoints.changes import Deleted, MadeOnce, MasterKeyChanged, Rotated, replayed, retained
from tests.crashpoints.events import AGAIN, EITHER, NEXT, ONCE, Submitted, checkpointed, interrupted, resumed
from tests.crashpoints.files import BackedUp, FirstStart, Migrated, Restored
from tests.crashpoints.site import Site


@dataclass(frozen=True, slots=True)
class Point:
    """One point: its name, which begins with its phase, its stages, the expected outcome in words, and its check.

    The stages are a path, separated by commas, at whose end the process dies; see `webhookd/base/stages.py`.
    """

    name: str
    path: str
    expected: str
    check: Callable[[Site], Awaitable[None]]

    @property
    def phase(self) -> str:
        """What the process is doing there."""
        return self.name.partition(".")[0]

    @property
    def stages(self) -> tuple[str, ...]:
        """The path by its stages."""
        return tuple(self.path.split(", "))


_LOG, _JOURNAL = "webhookd.db-wal", "webhookd.db"
_SLOW = "200@0.3"
_IN_BATCH = "change.written, batch.committed"

EVENTS = (
    Point(
        "event.written",
        "event.written",
        "An event and its deliveries are written and not committed. Sent again the event is new, with no number lost.",
        Submitted(is_acknowledged=False, is_stored=False, seen=ONCE),
    ),
    Point(
        "event.torn",
        f"event.written{f', write {_LOG}' * 3}",
        "Half of a commit is in the log: it counts for nothing. Sent again the event is new.",
        Submitted(is_acknowledged=False, is_stored=False, seen=ONCE),
    ),
    Point(
        "event.committed",
        "event.written, batch.committed",
        "An event is on disk and not acknowledged. Sent again it is a duplicate, and it is delivered once.",
        Submitted(is_acknowledged=False, is_stored=True, seen=ONCE),
    ),
    Point(
        "event.posted",
        "event.written, batch.committed",
        "An event that came over HTTP is on disk, the 202 is not sent. Sent again it is a duplicate, delivered once.",
        Submitted(is_acknowledged=False, is_stored=True, seen=ONCE, over_http=True),
    ),
    Point(
        "event.acknowledged",
        "event.acknowledged",
        "The result line is sent: the event is on disk. Its request may have left, and is then made once more.",
        Submitted(is_acknowledged=True, is_stored=True, seen=EITHER, script=_SLOW),
    ),
    Point(
        "idempotency.begun",
        _IN_BATCH,
        "A change with an Idempotency-Key is on disk and its answer is not: sent again it is refused, not made twice.",
        MadeOnce(is_answer_kept=False),
    ),
    Point(
        "idempotency.kept",
        "answer.kept",
        "A change with an Idempotency-Key and its answer are on disk: sent again it gets the stored answer.",
        MadeOnce(is_answer_kept=True),
    ),
    Point(
        "queue.read",
        "window.read, window.read",
        "A start has read the second of three queues: the next start sends what is pending in all three.",
        resumed,
    ),
    Point(
        "request.begun",
        "request.begun",
        "The request is signed and not sent: the event is delivered once.",
        Submitted(is_acknowledged=None, is_stored=True, seen=ONCE),
    ),
    Point(
        "request.sent",
        "request.sent",
        "The request is sent, its answer not read: the same attempt of the same delivery is made once more.",
        Submitted(is_acknowledged=None, is_stored=True, seen=AGAIN),
    ),
    Point(
        "request.answered",
        "answer.received",
        "The answer was 200 and is not recorded: the same attempt of the same delivery is made once more.",
        Submitted(is_acknowledged=True, is_stored=True, seen=AGAIN, script=_SLOW),
    ),
    Point(
        "record.written",
        "record.written",
        "A 410, which disables the webhook, is written and not committed: the attempt is made once more.",
        Submitted(is_acknowledged=True, is_stored=True, seen=AGAIN, script="410@0.3,200"),
    ),
    Point(
        "record.committed",
        "record.committed",
        "The attempt is recorded, its actor has not gone on: it is not made again, and the next event is sent.",
        Submitted(is_acknowledged=True, is_stored=True, seen=ONCE, script=_SLOW, on_record=1),
    ),
    Point(
        "record.failed",
        "record.committed",
        "An attempt that was answered 500 is recorded: the next start makes the second attempt, in order.",
        Submitted(is_acknowledged=True, is_stored=True, seen=NEXT, script="500@0.3,200", on_record=1),
    ),
    Point(
        "drain.recorded",
        "record.written, batch.committed",
        "An attempt that a stop cut off is recorded as interrupted: the second attempt follows, no failure counts.",
        interrupted,
    ),
    Point(
        "checkpoint.half",
        f"write {_JOURNAL}, write {_JOURNAL}",
        "Some pages of the log are in the file: the next start reads the log, nothing is lost or sent again.",
        checkpointed,
    ),
    Point(
        "checkpoint.whole",
        f"truncate {_LOG}",
        "All pages are in the file and the log is not cut: nothing is lost or sent again.",
        checkpointed,
    ),
)

FILES = (
    Point(
        "start.master-key",
        "master_key.created",
        "The first start has made the tables and the master key's file: the next one takes it and makes an admin key.",
        FirstStart(is_key_shown=True),
    ),
    Point(
        "start.admin-key",
        "admin_key.created",
        "The first admin key is stored and was not shown: another is made over the control socket.",
        FirstStart(is_key_shown=False),
    ),
    Point(
        "migration.step",
        "migration.step, migration.step",
        "The copy is there, two steps are done and not committed: the journal is as before the first.",
        Migrated(is_done=False),
    ),
    Point(
        "migration.committed",
        "migration.committed",
        "The journal has the new version and the copy has the old one.",
        Migrated(is_done=True),
    ),
    Point(
        "backup.filled",
        "copy.filled",
        "The command has copied all pages: nothing has the backup's name, and the next backup removes the rest.",
        BackedUp(is_there=False, by_command=True),
    ),
    Point(
        "backup.named",
        "copy.named",
        "The copy has its name and its unfinished name: the backup is whole, and the next one removes the rest.",
        BackedUp(is_there=True),
    ),
    Point(
        "restore.log",
        "copy.named",
        "The backup is copied, and so is the journal's log: journal and log are as before.",
        Restored(is_done=False),
    ),
    Point(
        "restore.kept",
        "copy.named, copy.filled",
        "The log is in the journal's file, which has a second name and still its first.",
        Restored(is_done=False),
    ),
    Point(
        "restore.swapped",
        "copy.named, copy.named",
        "The backup is in the journal's place, the directory not synced; all of the previous journal is kept.",
        Restored(is_done=True),
    ),
)

CHANGES = (
    Point(
        "rotation.written",
        "change.written",
        "A webhook's new secret and its audit entry are written and not committed: neither is kept.",
        Rotated(is_done=False),
    ),
    Point(
        "rotation.committed",
        _IN_BATCH,
        "The new secret and its audit entry are on disk and not answered: both secrets sign.",
        Rotated(is_done=True),
    ),
    Point(
        "master-key.staged",
        "master_key.staged",
        "The new master key waits next to the old one: the old one is in force, and can be changed again.",
        MasterKeyChanged(is_begun=False),
    ),
    Point(
        "master-key.begun",
        _IN_BATCH,
        "The command has begun the change and sealed nothing again: the next start carries it out.",
        MasterKeyChanged(is_begun=True, by_command=True),
    ),
    Point(
        "master-key.resealed",
        "change.written, master_key.step",
        "Secrets are sealed with the new master key, stored answers with the old one: the next start goes on.",
        MasterKeyChanged(is_begun=True),
    ),
    Point(
        "master-key.deleted",
        f"change.written{', master_key.step' * 2}",
        "The journal has deleted the old master key, which is still in its place: it opens with it, and goes on.",
        MasterKeyChanged(is_begun=True),
    ),
    Point(
        "master-key.installed",
        f"change.written{', master_key.step' * 3}",
        "The new master key is in its place and the journal does not know: it opens with it, and the change ends.",
        MasterKeyChanged(is_begun=True),
    ),
    Point(
        "retention.step",
        "retention.step",
        "Old events are deleted and their pages not returned: what is pending is there, and is delivered.",
        retained,
    ),
    Point(
        "deletion.committed",
        _IN_BATCH,
        "A webhook is deleted and its queue not canceled: the next start cancels it, and nothing is sent.",
        Deleted(queued=4),
    ),
    Point(
        "deletion.step",
        "cancel.step",
        "A part of a deleted webhook's queue is canceled: the next start cancels the rest, and nothing is sent.",
        Deleted(queued=600),
    ),
    Point(
        "replay.step",
        "replay.step",
        "One step of a replay is done, others are due: the next start goes on after it, each event is queued once.",
        replayed,
    ),
)

POINTS = (*EVENTS, *FILES, *CHANGES)
