"""Name the stages of an event, a change and a file: at each one a crash leaves another state on disk or on the network.

The code marks a stage where it reaches it, with one call of `reached`. That raises an audit event of the interpreter
(PEP 578): no one listens to it in production, and it costs a tenth of a microsecond. The crash tests
(tests/crashpoints) listen to it and kill the process there, and those of nodes (tests/nodes) stop it. When code is
moved, renamed or split, its marks move with it.
"""

import sys
from typing import Literal

AUDIT_EVENT = "webhookd.stage"

Stage = Literal[
    # A batch of the journal: first what it holds, in an open transaction, then its commit.
    "event.written",  # events and their deliveries
    "record.written",  # attempts and what they changed
    "change.written",  # a change through the API or the command line, with its audit entry
    "batch.committed",  # no one has been notified
    # An event and its requests.
    "event.acknowledged",  # result lines are sent on the ingest socket
    "window.read",  # an actor has read its queue
    "request.begun",  # composed and signed
    "request.sent",
    "answer.received",
    "record.committed",  # the actor has not gone on
    # A change with an Idempotency-Key.
    "answer.kept",  # the stored answer is on disk and not sent
    # A start.
    "migration.step",
    "migration.committed",
    "master_key.created",
    "admin_key.created",  # not shown
    # A copy of a journal: a backup, a restore, the copy before an upgrade.
    "copy.filled",  # under its unfinished name
    "copy.named",  # its directory is not synced
    # A move of a journal to another engine.
    "move.begun",  # the target has tables
    "move.table_copied",
    "move.copied",  # not verified
    "move.verified",  # it has no version
    "move.finished",
    # Work in steps.
    "master_key.staged",
    "master_key.step",
    "retention.step",
    "cancel.step",
    "replay.step",
]

# Stages of a node on PostgreSQL: tests/nodes stops a process there for longer than its lease.
NodeStage = Literal[
    "sequences.locked",  # a publishing transaction holds what other publishers wait for, and has not committed
    "beat.answered",  # the lease was extended, and the node has not noted it
]

PartitionStage = Literal[
    # An old day on PostgreSQL.
    "partition.emptied",  # of what is still needed
    "partition.detached",
    "partition.dropped",
]


def reached(stage: Stage | NodeStage | PartitionStage) -> None:
    """Mark that the process has reached a stage."""
    sys.audit(AUDIT_EVENT, stage)
