"""Operations that are committed one by one while the disk is full."""

from collections.abc import Sequence

import pytest
from peewee import Database

from webhookd.journal.errors import StaleTargetsError
from webhookd.journal.operations import DatabaseCall, Submission
from webhookd.journal.storage import commit_each


def change(_: Database) -> None:
    """Change nothing."""


def test_what_was_not_written_stays_when_one_is_stale() -> None:
    """What had no room before it, itself and all after it are left; none of them passes as written."""
    written, without_room, stale, later = [DatabaseCall(change, None, insists=True) for _ in range(4)]

    def commit(batch: Sequence[Submission]) -> Sequence[Submission]:
        if stale in batch:
            raise StaleTargetsError([stale])
        return batch if without_room in batch else ()

    with pytest.raises(StaleTargetsError) as raised:
        commit_each([written, without_room, stale, later], commit)
    assert raised.value.left == [without_room, stale, later]
    assert commit_each([written, without_room, later], commit) == [without_room]
