"""The table of crash points, in the order of the phases."""

from tests.crashpoints import points_changes as changes
from tests.crashpoints import points_delivery as delivery
from tests.crashpoints import points_files as files

DELIVERY = (
    *delivery.WRITE,
    *delivery.ACK,
    *delivery.WAKE,
    *delivery.SEND,
    *delivery.RECORD,
    *delivery.CHECKPOINT,
    *delivery.DRAIN,
)
FILES = (*files.START, *files.MIGRATION, *files.BACKUP, *files.RESTORE)
CHANGES = (*changes.ROTATION, *changes.FORGETTING, *changes.REPLAY, *changes.AUDIT)
POINTS = (*DELIVERY, *FILES, *CHANGES)
