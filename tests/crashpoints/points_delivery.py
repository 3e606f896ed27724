"""The crash points on an event's way: write, ack, wake, send, record, checkpoint and drain."""

from tests.crashpoints.changes import MadeOnce
from tests.crashpoints.delivery import Submitted
from tests.crashpoints.point import after, before
from tests.crashpoints.stopping import Draining, checkpointed, resumed

_BATCH = "webhookd.journal.sqlite.batch"
_COMMIT = f"{_BATCH}:Batches.commit"
_LOG, _FILE = "webhookd.db-wal", "webhookd.db"
_SLOW = "200@0.3"

_LOST = Submitted(is_told=False, is_stored=False, seen=(1,))
_KEPT = Submitted(is_told=False, is_stored=True, seen=(1,))
_UNTOLD = Submitted(is_told=None, is_stored=True, seen=(1,))
_COLD = Submitted(is_told=None, is_stored=True, seen=(1,), warm=False)
_REPEATED = Submitted(is_told=True, is_stored=True, seen=(1, 1), script=_SLOW)
_RECORDED = Submitted(is_told=True, is_stored=True, seen=(1,), script=_SLOW, on_record=1)
_INTERRUPTED = Draining(seen=(1, 2), on_record=1, script="hang,200", drain_seconds=0)

WRITE = (
    before(
        "write.submitted",
        "webhookd.journal.sqlite.writer:Writer._write",
        "Nothing is on disk and nobody was told. Submitted again the event is new, and it is delivered once.",
        _LOST,
    ),
    before(
        "write.half",
        f"{_BATCH}:_INSERT_DELIVERY.run",
        "The event is in an open transaction without its deliveries: neither is on disk, nobody was told.",
        _LOST,
    ),
    after(
        "write.uncommitted",
        f"{_BATCH}:_UPDATE_SEQUENCE.run",
        "All rows are written and not committed: none is on disk, and no sequence is used up.",
        _LOST,
    ),
    before(
        "write.log-half",
        "disk:xWrite",
        "Half of the commit is in the log: it counts for nothing, and nobody was told.",
        _LOST,
        about=_LOG,
        nth=3,
    ),
    before(
        "write.unsynced",
        "disk:xSync",
        "The whole commit is in the log and not synced: a kill leaves it there. Submitted again it is a duplicate.",
        _KEPT,
        about=_LOG,
    ),
    after(
        "write.synced",
        "disk:xSync",
        "The commit is synced and SQLite hasn't said so: the event is there, submitted again it is a duplicate.",
        _KEPT,
        about=_LOG,
    ),
    after(
        "write.committed",
        _COMMIT,
        "After the commit, before anybody hears of it: submitted again it is a duplicate, and it is delivered once.",
        _KEPT,
    ),
)

ACK = (
    before(
        "ack.ticket",
        "webhookd.journal.operations:Ticket.succeed",
        "The event is on disk and nobody was told. Submitted again it is a duplicate, and it is delivered once.",
        _KEPT,
    ),
    after(
        "ack.encoded",
        "webhookd.ingest.connection:ProducerConnection._result_line",
        "The result line is made and not sent: the event is on disk, nobody was told. A request that has left beside "
        "it is made once more.",
        Submitted(is_told=False, is_stored=True, seen=(1,), or_seen=(1, 1)),
    ),
    before(
        "ack.http",
        "webhookd.journal.operations:Ticket.succeed",
        "The event is on disk and the 202 was not sent. Submitted again it is a duplicate, and it is delivered once.",
        Submitted(is_told=False, is_stored=True, seen=(1,), over_http=True),
    ),
    before(
        "ack.unkept",
        "webhookd.admin.idempotency:Idempotency._keep",
        "A change under an Idempotency-Key is on disk and its answer isn't: sent again it is refused, not made twice.",
        MadeOnce(is_kept=False),
    ),
    after(
        "ack.kept",
        "webhookd.admin.idempotency:Idempotency._settle",
        "A change under an Idempotency-Key and its answer are on disk, and nobody was told: sent again it is answered.",
        MadeOnce(is_kept=True),
    ),
)

WAKE = (
    before(
        "wake.offer",
        "webhookd.dispatch.registry:Registry.offer",
        "The event is on disk and its webhook's actor doesn't know: the next start finds it, and it is delivered once.",
        _KEPT,
    ),
    before(
        "wake.actor",
        "webhookd.dispatch.actor:Actor.run",
        "The webhook's actor is to be started for its first event: the next start does, and it is delivered once.",
        _COLD,
    ),
    after(
        "wake.refill",
        "webhookd.dispatch.actor:Actor._refill",
        "The actor has read its queue and sent nothing: the event is delivered once.",
        _COLD,
    ),
    before(
        "wake.start",
        "webhookd.dispatch.registry:Registry.wake",
        "A start dies between waking two webhooks that have a backlog: the next one wakes all three.",
        resumed,
        nth=2,
    ),
)

SEND = (
    before(
        "send.composed",
        "webhookd.delivery.http.sender:Sender.send",
        "The request is signed and not sent: the event is delivered once.",
        _UNTOLD,
    ),
    after(
        "send.written",
        "webhookd.delivery.http.streams:ByteStream.send_all",
        "The request is out, its answer never read: the same delivery id and attempt is sent once more.",
        Submitted(is_told=None, is_stored=True, seen=(1, 1)),
    ),
    after(
        "send.answered",
        "webhookd.delivery.http.sender:Sender.send",
        "The answer was 200, nothing is on record: the same delivery id and attempt is sent once more.",
        _REPEATED,
    ),
    after(
        "send.failed",
        "webhookd.delivery.http.sender:Sender.send",
        "The answer was 500, nothing is on record: the same attempt is made once more and counts once.",
        Submitted(is_told=True, is_stored=True, seen=(1, 1), script="500@0.3,200"),
    ),
)

RECORD = (
    after(
        "record.submitted",
        "webhookd.journal.store:Store.record",
        "The answer was 200, its record is handed to the writer and not on disk: the attempt is made once more.",
        _REPEATED,
    ),
    after(
        "record.half",
        f"{_BATCH}:_INSERT_ATTEMPT.run",
        "The attempt is in an open transaction, the delivery still pending: neither is kept, the attempt is made once "
        "more.",
        _REPEATED,
    ),
    after(
        "record.uncommitted",
        f"{_BATCH}:_UPDATE_STATE.run",
        "Attempt, delivery and webhook are written and not committed: none is kept, the attempt is made once more.",
        _REPEATED,
    ),
    before(
        "record.unsynced",
        "disk:xSync",
        "The record is in the log and not synced: a kill leaves it there, and nothing is sent again.",
        _RECORDED,
        about=_LOG,
        nth=2,
    ),
    after(
        "record.committed",
        _COMMIT,
        "The record is on disk and the actor doesn't know: nothing is sent again, its successor goes out.",
        _RECORDED,
        nth=2,
    ),
    before(
        "record.landed",
        "webhookd.dispatch.lane:Lane.landed",
        "The record is on disk and the lane hasn't gone on: nothing is sent again, its successor goes out.",
        _RECORDED,
    ),
    after(
        "record.failed",
        _COMMIT,
        "An attempt that was answered 500 is on record: the next start goes on with the second attempt, in order.",
        Submitted(is_told=True, is_stored=True, seen=(1, 2), script="500@0.3,200", on_record=1),
        nth=2,
    ),
    before(
        "record.gone",
        "webhookd.journal.queries.endpoints:disable",
        "A 410 is on its way to the disk with the webhook's being switched off: neither is kept, the attempt is made "
        "once more.",
        Submitted(is_told=True, is_stored=True, seen=(1, 1), script="410@0.3,200"),
    ),
)

CHECKPOINT = (
    after(
        "checkpoint.half",
        "disk:xWrite",
        "Some pages of the log are in the file: the next start reads the log, nothing is lost or sent again.",
        checkpointed,
        about=_FILE,
        nth=2,
    ),
    before(
        "checkpoint.unsynced",
        "disk:xSync",
        "All pages are in the file, not synced: the log is still there, nothing is lost or sent again.",
        checkpointed,
        about=_FILE,
    ),
    before(
        "checkpoint.uncut",
        "disk:xTruncate",
        "The file is synced and the log not cut: nothing is lost or sent again.",
        checkpointed,
        about=_LOG,
    ),
    after(
        "checkpoint.cut",
        "disk:xTruncate",
        "The log is cut and the journal not closed: nothing is lost or sent again.",
        checkpointed,
        about=_LOG,
    ),
)

DRAIN = (
    before(
        "drain.begun",
        "webhookd.dispatch.registry:Registry.drain",
        "Events are refused, a request is in flight: its attempt is made once more.",
        Draining(seen=(1, 1), on_record=0, script="hang,200", drain_seconds=10),
    ),
    after(
        "drain.finished",
        "webhookd.dispatch.registry:Registry.drain",
        "The request in flight was answered and is on record: nothing is sent again, its successor goes out.",
        Draining(seen=(1,), on_record=1, script="200@1,200", drain_seconds=10),
    ),
    after(
        "drain.interrupted",
        "webhookd.journal.store:Store.record",
        "A request was cut off, and that isn't on disk: its attempt is made once more.",
        Draining(seen=(1, 1), on_record=0, script="hang,200", drain_seconds=0),
    ),
    after(
        "drain.recorded",
        _COMMIT,
        "An attempt is on record as interrupted: the next one is the second, and nobody is blamed for the first.",
        _INTERRUPTED,
    ),
    before(
        "drain.checkpoint",
        "webhookd.journal.sqlite.write_ahead_log:WriteAheadLog._checkpoint",
        "All is committed, the last checkpoint not begun: the next start goes on with the second attempt.",
        _INTERRUPTED,
    ),
    after(
        "drain.closed",
        "webhookd.journal.sqlite.writer:Writer._finish",
        "All is committed and in the file, the process not ended: the next start goes on with the second attempt.",
        _INTERRUPTED,
    ),
)
