"""The master key's file and the vault: what opens, what doesn't, and what is said then."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.errors import MasterKeyError
from webhookd.secrets import Vault, create_master_key, hash_api_key, load_master_key

VAULT = Vault(bytes(range(32)))


@given(st.binary(max_size=200))
def test_what_is_sealed_opens_in_its_own_place_alone(plain: bytes) -> None:
    """Another place, another key, or one altered bit, and nothing opens."""
    sealed = VAULT.encrypt(plain, context="secrets:current:wh_1")
    assert VAULT.decrypt(sealed, context="secrets:current:wh_1") == plain
    with pytest.raises(MasterKeyError):
        VAULT.decrypt(sealed, context="secrets:current:wh_2")
    with pytest.raises(MasterKeyError):
        Vault(bytes(32)).decrypt(sealed, context="secrets:current:wh_1")
    for at in (0, 5, len(sealed) - 1):
        altered = bytearray(sealed)
        altered[at] ^= 1
        with pytest.raises(MasterKeyError):
            VAULT.decrypt(bytes(altered), context="secrets:current:wh_1")


def test_the_same_secret_never_looks_the_same() -> None:
    """Sealed twice, a secret gives two different texts of which neither contains it."""
    first, second = (VAULT.encrypt(b"whsec_secret", context="c") for _ in range(2))
    assert first != second
    assert b"secret" not in first


def test_a_master_key_is_made_once_and_read_back(tmp_path: Path) -> None:
    """The file is its owner's alone, holds the key that was returned, and is never overwritten."""
    path = tmp_path / "new" / "master.key"
    key = create_master_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_master_key(path) == key
    with pytest.raises(MasterKeyError, match="never overwritten"):
        create_master_key(path)
    assert load_master_key(path) == key


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (b"", 0o600, "holds 0 bytes"),
        (b"not base64!", 0o600, "isn't base64"),
        (b"QUJD\n", 0o600, "holds 3 bytes"),
        (b"A" * 43 + b"=", 0o640, "chmod 600"),
        (b"A" * 43 + b"=", 0o604, "chmod 600"),
    ],
)
def test_a_file_that_is_no_master_key_is_named(tmp_path: Path, content: bytes, mode: int, says: str) -> None:
    """A key of another size or form, or that others can read, is refused with what to do."""
    path = tmp_path / "master.key"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(MasterKeyError, match=says) as refused:
        load_master_key(path)
    assert str(path) in str(refused.value)
    with pytest.raises(MasterKeyError, match="can't read"):
        load_master_key(tmp_path / "none")


def test_api_keys_are_stored_as_hashes() -> None:
    """The hash is SHA-256 of the text, and says nothing of it."""
    assert len(hash_api_key("whd_admin_x")) == 32
    assert hash_api_key("whd_admin_x") != hash_api_key("whd_admin_y")
