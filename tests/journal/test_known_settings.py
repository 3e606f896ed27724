"""The settings that a version knows: each one has its number, and what a newer version has stored is kept."""

import enum
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Struct
from msgspec.inspect import EnumType, Field, StructType, UnionType, type_info

from tests.journal.harness import CLOCK, VAULT, add_endpoint, new_endpoint, running
from tests.samples import endpoint
from webhookd.admin.schemas import EventTypeInput, NewKey
from webhookd.admin.webhook_schemas import NewWebhook
from webhookd.base.models import Ordering, PolicyOverrides, RateLimit, RetryOverrides, SignatureChoice
from webhookd.base.secret import Secret
from webhookd.journal import EndpointChanges, EventTypeRow
from webhookd.journal.known_settings import (
    EVENT_TYPE,
    KEY,
    KNOWN,
    SINCE,
    VERSION,
    WEBHOOK,
    KnownSettings,
    chosen,
    known_part,
    unknown_part,
    with_unknown,
)
from webhookd.journal.queries.schema import EndpointTable

BODIES: dict[str, type[Struct]] = {WEBHOOK: NewWebhook, EVENT_TYPE: EventTypeInput, KEY: NewKey}


def settings_of(prefix: str, kind: object) -> Iterator[str]:
    """Yield the name of each field of a body, and of each value of those that have a list of them."""
    match type_info(kind) if not isinstance(kind, msgspec.inspect.Type) else kind:
        case StructType(fields=fields):
            for field in fields:
                assert isinstance(field, Field)
                yield f"{prefix}.{field.encode_name}"
                yield from settings_of(f"{prefix}.{field.encode_name}", field.type)
        case UnionType(types=types):
            for each in types:
                yield from settings_of(prefix, each)
        case EnumType(cls=cls):
            assert issubclass(cls, enum.Enum)
            yield from (f"{prefix}={each.value}" for each in cls)


def test_every_field_that_is_stored_has_a_version() -> None:
    """A field of the API's bodies, or a value of one, can't be added without saying which version knows it."""
    found = {name for kind, body in BODIES.items() for name in settings_of(kind, body)}
    assert set(SINCE) == found | {"eventType.name"}
    assert max(SINCE.values()) == VERSION == KNOWN.version
    assert KnownSettings(version=9, since={}).version_of("webhook.unlisted") == 9


def test_what_a_change_chooses_is_named_as_in_the_api() -> None:
    """Defaults, and what the webhook has already, are no choice; nested settings and their values are named."""
    overrides = PolicyOverrides(
        ordering=Ordering.KEY, rate_limit=RateLimit(per_second=1), retry=RetryOverrides(park_after=2)
    )
    new = new_endpoint(overrides=overrides, headers=(("a", Secret("b")),), signature=SignatureChoice(ed25519=True))
    names = set(chosen(WEBHOOK, new))
    assert names >= {
        *("webhook.url", "webhook.secret", "webhook.headers", "webhook.ordering", "webhook.ordering=key"),
        *("webhook.rateLimit", "webhook.rateLimit.perSecond", "webhook.retry.parkAfter", "webhook.signature.ed25519"),
    }
    assert names <= set(SINCE)
    assert chosen(WEBHOOK, EndpointChanges()) == []
    before = msgspec.structs.replace(endpoint(), overrides=overrides)
    more = msgspec.structs.replace(overrides, retry=RetryOverrides(park_after=2, max_refusals=3), concurrency=2)
    assert chosen(WEBHOOK, EndpointChanges(overrides=more, url=UNSET), before) == [
        "webhook.concurrency",
        "webhook.retry",
        "webhook.retry.maxRefusals",
    ]
    assert chosen(WEBHOOK, EndpointChanges(overrides=PolicyOverrides()), before) == []
    assert chosen(EVENT_TYPE, EventTypeRow(name="a", schema_json="{}")) == ["eventType.name", "eventType.schema"]


texts = st.text(max_size=5)
extra = st.dictionaries(texts.map("x".__add__), st.integers() | st.dictionaries(texts, texts, max_size=2), max_size=3)
policies = st.builds(
    PolicyOverrides,
    ordering=st.none() | st.sampled_from(Ordering),
    rate_limit=st.none() | st.builds(RateLimit, per_second=st.just(2.0), burst=st.integers(1, 5)),
    retry=st.builds(RetryOverrides, park_after=st.none() | st.integers(1, 5)),
)


@given(policies, policies, extra, extra, extra)
def test_what_a_newer_version_has_stored_is_kept(
    policy: PolicyOverrides, changed: PolicyOverrides, own: Any, of_retry: Any, of_limit: Any
) -> None:
    """What is understood is read as it is without the rest, and the rest is still there after a change."""
    document = msgspec.to_builtins(policy) | own
    document["retry"] = document.get("retry", {}) | of_retry
    if "rateLimit" in document:
        document["rateLimit"] |= of_limit
    assert msgspec.convert(known_part(PolicyOverrides, document), PolicyOverrides) == policy
    unknown = unknown_part(PolicyOverrides, document)
    again: dict[str, Any] = with_unknown(changed, unknown)
    assert msgspec.convert(known_part(PolicyOverrides, again), PolicyOverrides) == changed
    assert again.items() >= own.items()
    assert again.get("retry", {}).items() >= of_retry.items()
    if policy.rate_limit is not None and changed.rate_limit is not None:
        assert again["rateLimit"].items() >= of_limit.items()
    elif changed.rate_limit is None:
        assert "rateLimit" not in again


@pytest.mark.parametrize("value", ["newest", 5, {"by": "size"}, None])
def test_a_value_that_is_not_understood_counts_as_the_default(value: object) -> None:
    """It is kept until the field gets another value."""
    document = {"ordering": value, "concurrency": 2}
    known = msgspec.convert(known_part(PolicyOverrides, document), PolicyOverrides)
    assert known == PolicyOverrides(concurrency=2)
    unknown = unknown_part(PolicyOverrides, document)
    assert with_unknown(known, unknown) == ({"concurrency": 2} if value is None else document)
    assert with_unknown(PolicyOverrides(ordering=Ordering.KEY), unknown) == {"ordering": "key"}


async def test_a_change_keeps_what_is_not_understood(tmp_path: Path) -> None:
    """A row that a newer version has written is read without what it added, and a change leaves that where it is."""
    async with running(tmp_path / "journal.db") as journal:
        before = await add_endpoint(journal)
        newer = {"ordering": "key", "added": {"a": 1}, "retry": {"parkAfter": 2, "added": 2}}
        await journal.transactions.write(
            lambda database: (
                EndpointTable.update(overrides=newer).where(EndpointTable.pk == before.pk).execute(database)
            )
        )
        found = await journal.webhooks.get(before.id)
        assert found.overrides == PolicyOverrides(ordering=Ordering.KEY, retry=RetryOverrides(park_after=2))
        changes = EndpointChanges(overrides=PolicyOverrides(timeout_seconds=3))
        changed = await journal.webhooks.update(VAULT, before.id, changes, CLOCK.now(), entry=None, condition=None)
        assert changed.overrides == PolicyOverrides(timeout_seconds=3)
        stored = await journal.transactions.read(
            lambda database: next(iter(EndpointTable.select(EndpointTable.overrides).tuples().execute(database)))[0]
        )
        assert stored == {"timeoutSeconds": 3, "added": {"a": 1}, "retry": {"added": 2}}
