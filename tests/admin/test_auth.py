"""API keys: their format, the time to refuse one, their revocation, and their last use."""

import base64
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType

import msgspec
import pytest
import trio

from tests.admin.inprocess import OWN_UID, Signer, api_in_process
from webhookd.admin.auth import Caller, KeyRing, new_key
from webhookd.admin.last_use import SAVE_SECONDS, save_uses
from webhookd.base.clock import SystemClock
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.ids import IdFactory
from webhookd.base.models import Role
from webhookd.journal import AuditActor, AuditActorKind, KeyRow
from webhookd.journal.queries import keys

IDS = IdFactory(SystemClock().now)
NOW = 1_736_937_000.0


def key(role: Role = Role.VIEWER, expires_at: float | None = None) -> tuple[KeyRow, str]:
    row, text = new_key(role, IDS, NOW, expires_at=expires_at)
    return row, text.reveal()


def test_a_key_is_256_random_bits_behind_a_readable_prefix() -> None:
    """The text has webhookd's prefix, the role, the id and 32 random bytes; the row has only its hash."""
    row, text = key(Role.OPERATOR)
    name, role, ulid, secret = text.split("_", 3)
    assert (name, role, f"key_{ulid}") == ("whd", "operator", row.id)
    assert len(base64.urlsafe_b64decode(secret + "=")) == 32
    assert secret.encode() not in msgspec.msgpack.encode(row)
    taken: list[int] = []

    def random_bytes(count: int) -> bytes:
        taken.append(count)
        return bytes(range(count))

    assert (
        new_key(Role.VIEWER, IDS, NOW, random_bytes=random_bytes)[1]
        .reveal()
        .endswith("_" + "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")
    )
    assert taken == [32]


def test_a_key_ends_when_it_says() -> None:
    """A key is valid until the moment of its expiry or revocation."""
    row, text = key(expires_at=NOW + 1)
    ring = KeyRing([row])
    assert ring.identify(text, NOW + 0.999) is not None
    assert ring.identify(text, NOW + 1) is None
    caller = ring.identify(text, NOW)
    assert caller is not None
    assert ring.caller_now(caller, NOW + 0.999) == caller
    assert ring.caller_now(caller, NOW + 1) is None
    ring.remove(row.id)
    assert ring.identify(text, NOW) is None
    assert ring.caller_now(caller, NOW) is None


def test_no_key_is_accepted_while_one_may_have_been_revoked() -> None:
    """A ring that isn't current says nothing about any key, known or not; tokens, which nobody can revoke, pass."""
    row, text = key()
    _, unknown = key()
    is_current = True
    ring = KeyRing([row], is_current=lambda: is_current)
    caller = ring.identify(text, NOW)
    assert caller is not None
    is_current = False
    for guess in (text, unknown):
        with pytest.raises(Rejected) as refused:
            ring.identify(guess, NOW)
        assert (refused.value.code, refused.value.retry_after_seconds) == (ErrorCode.KEYS_OUTDATED, 1)
    with pytest.raises(Rejected):
        ring.caller_now(caller, NOW)
    assert ring.identify("not a key", NOW) is None
    token = Caller(role=Role.VIEWER, actor=AuditActor(kind=AuditActorKind.TOKEN, id="ada"), expires_at=NOW + 1)
    assert ring.caller_now(token, NOW) == token
    is_current = True
    assert ring.caller_now(caller, NOW) == caller


def calls_of(ring: KeyRing, guess: str) -> list[str]:
    """Return the Python and C functions that are called to refuse a key."""
    called: list[str] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_qualname)
        elif event == "c_call":
            called.append(str(getattr(argument, "__qualname__", argument)))

    sys.setprofile(note)
    try:
        found = ring.identify(guess, NOW)
    finally:
        sys.setprofile(None)
    assert found is None
    return called[:-1]  # the last one ends the profile


def test_an_unknown_id_takes_as_long_as_a_wrong_secret() -> None:
    """A refusal doesn't show which ids exist: it makes the same calls, with a hash and a comparison."""
    row, text = key()
    ring = KeyRing([row])
    known, unknown = text[:-1] + ("A" if text[-1] != "A" else "B"), key()[1]
    calls = calls_of(ring, known)
    assert calls == calls_of(ring, unknown)
    assert {"hash_api_key", "openssl_sha256", "compare_digest"} <= set(calls), calls


def test_uses_are_handed_over_once() -> None:
    """Only uses since the last call are returned; a revoked key has none."""
    (one, text), (other, other_text) = key(), key()
    ring = KeyRing([one, other])
    assert ring.identify(text + "x", NOW) is None
    assert ring.take_uses() == {}
    ring.identify(text, NOW)
    ring.identify(text, NOW + 5)
    ring.identify(other_text, NOW + 6)
    ring.remove(other.id)
    assert ring.take_uses() == {one.id: NOW + 5}
    assert ring.take_uses() == {}
    assert ring.last_used_at(one.id) == NOW + 5


async def test_the_last_use_is_shown_at_once_and_written_in_time(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """GET /api/keys shows the last use at once; it is written within a minute, and the rest at the end."""
    async with api_in_process(tmp_path, Signer()) as api:
        key_id, text = await api.key("viewer")
        idle_id, _ = await api.key("viewer")

        async def shown() -> dict[str, str | None]:
            listed = (await api.ask("GET", "/api/keys", None, uid=OWN_UID)).json()["data"]
            return {row["id"]: row["lastUsedAt"] for row in listed}

        async def stored() -> float | None:
            return {row.id: row.last_used_at for row in await api.world.journal.transactions.read(keys.all)}[key_id]

        assert await shown() == {key_id: None, idle_id: None}
        await trio.sleep(3)
        used_at = api.world.clock.now()
        await api.ask("GET", "/api/webhooks", text)
        assert (await shown())[key_id] == "2025-01-01T00:00:03.000Z"
        assert (await shown())[idle_id] is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(save_uses, api.services.keys, api.world.journal)
            await trio.sleep(SAVE_SECONDS - 1)
            assert await stored() is None
            await trio.sleep(2)
            assert await stored() == used_at
            await api.ask("GET", "/api/webhooks", text)
            nursery.cancel_scope.cancel()
        await trio.sleep(1)
        assert await stored() == used_at + SAVE_SECONDS + 1


async def test_a_stream_ends_with_its_key(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """Lines that arrive after the key's revocation are refused, and the stream ends."""
    async with api_in_process(tmp_path, Signer()) as api:
        key_id, text = await api.key("ingest")
        line = b'{"type": "user.created", "data": {}}\n'

        async def body() -> AsyncIterator[bytes]:
            yield line
            await trio.sleep(1)
            await api.ask("DELETE", f"/api/keys/{key_id}", None, uid=OWN_UID)
            yield line
            yield line

        answer = await api.stream("/api/events", text, body())
        results = [msgspec.json.decode(result) for result in answer.splitlines()]
        assert [result["ok"] for result in results] == [True, False]
        assert results[1]["error"]["code"] == "UNAUTHORIZED"
        assert len((await api.ask("GET", "/api/events", None, uid=OWN_UID)).json()["data"]) == 1


@pytest.mark.parametrize(
    ("path", "body", "role"),
    [
        ("/api/events", b'{"type": "user.created", "data": {}}', "ingest"),
        ("/api/webhooks", b'{"url": "https://a.example/", "events": ["*"]}', "admin"),
    ],
    ids=["event", "webhook"],
)
async def test_a_key_that_is_revoked_while_a_body_arrives_changes_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, path: str, body: bytes, role: str
) -> None:
    """A revoked key no longer works from the answer to its revocation on, also for a request that has begun."""
    async with api_in_process(tmp_path, Signer()) as api:
        key_id, text = await api.key(role)

        async def slowly() -> AsyncIterator[bytes]:
            yield body[:10]
            await trio.sleep(1)
            await api.ask("DELETE", f"/api/keys/{key_id}", None, uid=OWN_UID)
            yield body[10:]

        headers = {"authorization": f"Bearer {text}", "content-type": "application/json"}
        answer = await api.client().post(path, headers=headers, content=slowly())
        assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED")
        assert (await api.ask("GET", path, None, uid=OWN_UID)).json()["data"] == []
