"""Texts that PostgreSQL can't store: they are refused, each alone, and say why."""

import pytest
from msgspec.structs import replace

from tests.journal.harness import VAULT, event, publish
from tests.journal.postgres.test_outage import running, stored
from tests.journal.store_calls import add
from tests.samples import AT
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.journal import EndpointChanges


async def test_a_key_with_a_nul_character_is_refused_alone(empty_database: str) -> None:
    """The events of the same commit are stored."""
    async with running(empty_database) as store:
        endpoint = await add(store)
        tickets = [
            publish(store, event("before"), endpoint),
            publish(store, replace(event("nul"), ordering_key="a\0b"), endpoint),
            publish(store, event("after"), endpoint),
        ]
        await tickets[0].wait()
        with pytest.raises(Rejected, match="U\\+0000") as refused:
            await tickets[1].wait()
        assert refused.value.code is ErrorCode.VALIDATION_ERROR
        await tickets[2].wait()
        assert sorted(await stored(store, endpoint)) == ["after", "before"]


async def test_a_setting_with_a_nul_character_is_refused(empty_database: str) -> None:
    """Nothing of the change is stored."""
    async with running(empty_database) as store:
        endpoint = await add(store)
        with pytest.raises(Rejected, match="U\\+0000") as refused:
            await store.webhooks.update(
                VAULT, endpoint.id, EndpointChanges(description="a\0b"), AT, entry=None, condition=None
            )
        assert refused.value.code is ErrorCode.VALIDATION_ERROR
