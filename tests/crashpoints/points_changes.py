"""The crash points of what changes tables: secrets, the master key, forgetting, deleting, replays, the audit log."""

from tests.crashpoints.changes import Changed, Deleted, MasterChanged, Rotated
from tests.crashpoints.point import after, before
from tests.crashpoints.steps import Replayed, forgot
from webhookd.dispatch.router import CANCELED_A_STEP

_COMMIT = "webhookd.journal.sqlite.batch:Batches.commit"
_SQL = "playhouse.apsw_ext:APSWDatabase.execute_sql"
_TWO_STEPS = 600  # of a replay, which takes 500 events a step

ROTATION = (
    after(
        "rotation.half",
        "webhookd.journal.queries.sealing:seal",
        "A webhook's old secret is put aside and the new one not stored: the old one signs, and no entry tells of it.",
        Rotated(is_done=False),
    ),
    before(
        "rotation.unnoted",
        "webhookd.journal.queries.audit:append",
        "The new secret is stored without its entry in the audit log: neither is kept.",
        Rotated(is_done=False),
    ),
    after(
        "rotation.committed",
        _COMMIT,
        "The new secret and its entry are on disk and nobody was told: both secrets sign.",
        Rotated(is_done=True),
    ),
    after(
        "master-key.staged",
        "webhookd.crypto.key_file:KeyPlace.stage",
        "The new master key waits beside the old one: the old one is in force, and can be changed again.",
        MasterChanged(is_begun=False),
    ),
    after(
        "master-key.uncommitted",
        "webhookd.journal.queries.master_key:begin_change",
        "The change is written and not committed: the old master key is in force, and can be changed again.",
        MasterChanged(is_begun=False),
    ),
    before(
        "master-key.begun",
        "webhookd.jobs.key_rotation:Rotator._change_over",
        "The change is on disk and nothing sealed anew: the next start carries it out.",
        MasterChanged(is_begun=True),
    ),
    after(
        "master-key.half",
        "webhookd.journal.queries.sealing:reseal",
        "A step's secrets are sealed anew and not committed: the next start does it again.",
        MasterChanged(is_begun=True),
    ),
    after(
        "master-key.between",
        "webhookd.jobs.key_rotation:Rotator._reseal",
        "Some is sealed with the new master key: the next start goes on, and every secret opens.",
        MasterChanged(is_begun=True),
    ),
    before(
        "master-key.forgotten",
        "webhookd.jobs.key_rotation:Rotator._forgotten",
        "The journal has forgotten the old master key, which is still in its place: it opens with it, and goes on.",
        MasterChanged(is_begun=True),
    ),
    after(
        "master-key.installing",
        "webhookd.crypto.key_file:KeyPlace.stage",
        "The new master key is written and not in its place: the old one opens the journal, and the change goes on.",
        MasterChanged(is_begun=True),
        nth=2,
    ),
    after(
        "master-key.installed",
        "webhookd.crypto.key_file:KeyPlace.install",
        "The new master key is in its place, the journal doesn't know: it opens with it, and the change ends.",
        MasterChanged(is_begun=True),
    ),
    before(
        "master-key.ended",
        "webhookd.jobs.key_rotation:Rotator._ended",
        "The journal knows that the new master key is in its place: nothing is left to do.",
        MasterChanged(is_begun=True),
    ),
    after(
        "master-key.command",
        "webhookd.crypto.key_file:KeyPlace.install",
        "The command has put the new master key in its place: the next start opens with it and ends the change.",
        MasterChanged(is_begun=True, by_command=True),
    ),
)

FORGETTING = (
    before(
        "retention.half",
        _SQL,
        "Attempts are deleted and their deliveries not: nothing of that is kept, the next start forgets all of it.",
        forgot,
        about='DELETE FROM "deliveries"',
    ),
    before(
        "retention.pages",
        "webhookd.journal.queries.retention:give_back_pages",
        "Old events are gone and their pages not given back: what is to be delivered is there, and is delivered.",
        forgot,
    ),
    after(
        "retention.committed",
        "webhookd.journal.queries.retention:give_back_pages",
        "Pages are moved and not committed: the journal is whole, and what is to be delivered is delivered.",
        forgot,
    ),
    after(
        "delete.uncommitted",
        "webhookd.journal.queries.endpoints:delete",
        "A webhook's deletion isn't committed: the webhook is there, and what it has queued is delivered.",
        Deleted(is_done=False),
    ),
    before(
        "delete.marked",
        "webhookd.dispatch.router:Router._cancel_queue",
        "A webhook is deleted and its queue not canceled: the next start cancels it all, and nothing is sent.",
        Deleted(is_done=True),
    ),
    before(
        "delete.between",
        "webhookd.journal.queries.deliveries:cancel",
        "The queue of a deleted webhook is canceled in part: the next start cancels the rest, and nothing is sent.",
        Deleted(is_done=True, queued=CANCELED_A_STEP + 100),
        nth=2,
    ),
)

REPLAY = (
    before(
        "replay.begun",
        "webhookd.jobs.replay:Replayer._advance",
        "A replay is on disk and nothing queued: the next start queues every event once.",
        Replayed(events=3),
    ),
    before(
        "replay.half",
        _SQL,
        "A step's deliveries are written and the replay's position not: nothing of that is kept, each is queued once.",
        Replayed(events=3),
        about='UPDATE "replays"',
    ),
    after(
        "replay.between",
        "webhookd.jobs.replay:Replayer._advance",
        "One step of a replay is done, another to come: the next start goes on behind it, each is queued once.",
        Replayed(events=_TWO_STEPS),
    ),
)

AUDIT = (
    before(
        "audit.unnoted",
        "webhookd.journal.queries.audit:append",
        "A change is written without its entry in the audit log: neither is kept.",
        Changed(is_done=False),
    ),
    after(
        "audit.uncommitted",
        "webhookd.journal.queries.audit:append",
        "A change and its entry are written and not committed: neither is kept.",
        Changed(is_done=False),
    ),
    after(
        "audit.committed",
        _COMMIT,
        "A change and its entry are on disk and nobody was told: both are there.",
        Changed(is_done=True),
    ),
)
