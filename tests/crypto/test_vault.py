"""The vault: which values can be decrypted with which keys, and the hash of an API key."""

import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from webhookd.base.errors import MasterKeyError
from webhookd.base.secret import Secret
from webhookd.crypto.vault import Vault, hash_api_key, key_id, new_master_key

KEY = Secret(bytes(range(32)))
OTHER = Secret(bytes(32))
VAULT = Vault(KEY)


@given(st.binary(max_size=200))
def test_what_is_sealed_opens_in_its_own_place_alone(plain: bytes) -> None:
    """With another context, another key or one changed bit, a value can't be decrypted."""
    sealed = VAULT.encrypt(plain, context="secrets:current:wh_1")
    assert VAULT.decrypt(sealed, context="secrets:current:wh_1") == plain
    with pytest.raises(MasterKeyError):
        VAULT.decrypt(sealed, context="secrets:current:wh_2")
    with pytest.raises(MasterKeyError):
        Vault(OTHER).decrypt(sealed, context="secrets:current:wh_1")
    for at in range(0, len(sealed), 5):
        altered = bytearray(sealed)
        altered[at] ^= 1
        with pytest.raises(MasterKeyError):
            VAULT.decrypt(bytes(altered), context="secrets:current:wh_1")


@pytest.mark.parametrize("size", range(24))
def test_what_is_too_short_is_refused_like_any_other(size: int) -> None:
    """A truncated value is an error, not a crash."""
    sealed = VAULT.encrypt(b"", context="c")
    with pytest.raises(MasterKeyError):
        VAULT.decrypt(sealed[:size], context="c")


def test_the_same_secret_never_looks_the_same() -> None:
    """Encrypted twice, a secret gives two different values, neither of which contains it."""
    first, second = (VAULT.encrypt(b"whsec_secret", context="c") for _ in range(2))
    assert first != second
    assert b"secret" not in first


def test_a_vault_changes_its_key_and_opens_what_was_before() -> None:
    """After a rotation new values name the new key; old values can be read until the old key is removed."""
    vault = Vault(KEY)
    before = vault.encrypt(b"plain", context="c")
    assert vault.seals_like(before)
    vault.seal_with(OTHER)
    after = vault.encrypt(b"plain", context="c")
    assert (vault.seals_like(before), vault.seals_like(after)) == (False, True)
    assert vault.key_id == key_id(OTHER) != key_id(KEY)
    assert vault.decrypt(before, context="c") == vault.decrypt(after, context="c") == b"plain"
    vault.forget_others(but=key_id(KEY))
    assert vault.decrypt(before, context="c") == b"plain"
    vault.forget_others()
    assert vault.decrypt(after, context="c") == b"plain"
    with pytest.raises(MasterKeyError, match="can't be decrypted"):
        vault.decrypt(before, context="c")


def test_values_that_name_no_key_still_open() -> None:
    """Values without a key id, of the first journals, are decrypted with any admitted key, in their own context."""
    nonce = os.urandom(12)
    sealed = b"\x01" + nonce + AESGCM(KEY.reveal()).encrypt(nonce, b"plain", b"secrets:current:wh_1")
    vault = Vault(OTHER)
    vault.admit(KEY)
    assert vault.decrypt(sealed, context="secrets:current:wh_1") == b"plain"
    assert not vault.seals_like(sealed)
    with pytest.raises(MasterKeyError):
        vault.decrypt(sealed, context="secrets:current:wh_2")
    with pytest.raises(MasterKeyError, match="form that this version doesn't know"):
        vault.decrypt(b"\x03" + sealed, context="secrets:current:wh_1")


def test_the_name_of_a_key_says_nothing_of_it() -> None:
    """Two keys have different ids, and an id is no part of its key nor of its hash."""
    key = new_master_key()
    assert key_id(key) not in key.reveal()
    assert key_id(key) != key_id(new_master_key())
    assert len(key_id(key)) == 8


def test_api_keys_are_stored_as_hashes() -> None:
    """The hash is SHA-256 of the key's text."""
    assert len(hash_api_key("whd_admin_x")) == 32
    assert hash_api_key("whd_admin_x") != hash_api_key("whd_admin_y")
