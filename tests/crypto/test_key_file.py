"""The place of the master key, and the errors for a place without a valid key."""

import os
from pathlib import Path

import pytest

from webhookd.base.errors import ConfigError, MasterKeyError
from webhookd.base.secret import Secret
from webhookd.config import load_config
from webhookd.crypto.key_file import (
    CREDENTIALS_DIRECTORY,
    KeyPlace,
    create_master_key,
    find_key_place,
    format_master_key,
    load_master_key,
    missing_key,
    parse_master_key,
)
from webhookd.crypto.vault import new_master_key

TEXT = b"A" * 43 + b"="


def place(path: Path, *, is_credential: bool = False) -> KeyPlace:
    return KeyPlace(path=path, is_credential=is_credential, chosen_by="secrets.master_key_file")


def test_a_master_key_is_made_once_and_read_back(tmp_path: Path) -> None:
    """Only its owner can read the file; it holds the returned key and is never overwritten."""
    path = tmp_path / "new" / "master.key"
    key = create_master_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_master_key(path) == key
    assert parse_master_key(format_master_key(key).encode(), "it") == key
    with pytest.raises(MasterKeyError, match="never overwritten"):
        create_master_key(path)
    assert load_master_key(path) == key


def test_a_journal_in_a_database_has_no_place_for_its_key(tmp_path: Path) -> None:
    """Its key is where the configuration or the service manager says, and nowhere else."""
    config_file = tmp_path / "config.toml"
    config_file.write_text('[journal]\nurl = "postgresql://u@h/d"\n')
    config = load_config(config_file, {})
    with pytest.raises(MasterKeyError, match=r"set secrets\.master_key_file"):
        find_key_place(config, {})
    environ = {CREDENTIALS_DIRECTORY: str(tmp_path)}
    with pytest.raises(MasterKeyError, match="LoadCredential=webhookd-master-key:FILE"):
        find_key_place(config, environ)
    (tmp_path / "webhookd-master-key").write_bytes(TEXT)
    assert find_key_place(config, environ).path == tmp_path / "webhookd-master-key"


def test_what_a_power_cut_left_of_a_master_key_is_in_nobody_s_way(tmp_path: Path) -> None:
    """A key gets its name only when it is complete: an incomplete one is replaced, and no second copy remains."""
    path = tmp_path / "master.key"
    (tmp_path / "master.key.new").write_text("half")
    key = create_master_key(path)
    assert load_master_key(path) == key
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (b"", 0o600, "holds 0 bytes"),
        (b"not base64!", 0o600, "isn't base64"),
        (b"\xff\xfe", 0o600, "isn't base64"),
        (b"QUJD\n", 0o600, "holds 3 bytes"),
        (TEXT, 0o640, "chmod 600"),
        (TEXT, 0o604, "chmod 600"),
    ],
)
def test_a_file_that_is_no_master_key_is_named(tmp_path: Path, content: bytes, mode: int, says: str) -> None:
    """A key of another size or form, or that others can read, is refused with a remedy and without the key."""
    path = tmp_path / "master.key"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(MasterKeyError, match=says) as refused:
        load_master_key(path)
    assert str(path) in str(refused.value)
    assert not content.strip() or content.decode(errors="replace").strip() not in str(refused.value)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    """A missing path, a directory, and a pipe without a writer are each refused at once."""
    (tmp_path / "file").touch()
    with pytest.raises(MasterKeyError, match="can't read"):
        load_master_key(tmp_path / "none")
    with pytest.raises(MasterKeyError, match="Is a directory"):
        load_master_key(tmp_path)
    with pytest.raises(MasterKeyError, match="can't create the master key's directory"):
        create_master_key(tmp_path / "file" / "master.key")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(MasterKeyError, match="not a file"):
        load_master_key(tmp_path / "pipe")


def test_the_configured_file_comes_before_the_credential_before_the_journal(tmp_path: Path) -> None:
    """The first of the three places that applies is used, whether its key is valid or not."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    environ = {CREDENTIALS_DIRECTORY: str(credentials)}
    file = tmp_path / "config.toml"
    file.write_text("")
    found = find_key_place(load_config(file, {}), environ)
    assert (found.path, found.is_credential) == (tmp_path / "var/master.key", False)
    (credentials / "webhookd-master-key").write_bytes(b"no base64!")
    (credentials / "webhookd-master-key").chmod(0o400)
    found = find_key_place(load_config(file, {}), environ)
    assert (found.path, found.is_credential) == (credentials / "webhookd-master-key", True)
    with pytest.raises(MasterKeyError, match="isn't base64"):
        found.load()
    assert not find_key_place(load_config(file, {}), {}).is_credential
    (credentials / "mine").write_bytes(TEXT)
    file.write_text('[secrets]\nmaster_key_credential = "mine"\n')
    assert find_key_place(load_config(file, {}), environ).path == credentials / "mine"
    file.write_text('[secrets]\nmaster_key_file = "own.key"\n')
    found = find_key_place(load_config(file, {}), environ)
    assert (found.path, found.is_credential) == (tmp_path / "own.key", False)


@pytest.mark.parametrize("name", ["", "..", "../master.key", "a/b", ".hidden", "x" * 256])
def test_the_name_of_a_credential_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    """The configuration refuses a credential whose name is not a plain file name."""
    file = tmp_path / "config.toml"
    file.write_text(f'[secrets]\nmaster_key_credential = "{name}"\n')
    with pytest.raises(ConfigError, match="master_key_credential"):
        load_config(file, {})


def test_a_credential_may_be_let_in_by_an_access_list(tmp_path: Path) -> None:
    """A credential's group bits may show the mask of an ACL, but other users must not have access."""
    path = tmp_path / "webhookd-master-key"
    path.write_bytes(TEXT)
    path.chmod(0o440)
    assert place(path, is_credential=True).load() == Secret(bytes(32))
    with pytest.raises(MasterKeyError, match="0440"):
        place(path).load()
    path.chmod(0o444)
    with pytest.raises(MasterKeyError, match="0444"):
        place(path, is_credential=True).load()


def test_a_configured_file_among_the_credentials_is_one(tmp_path: Path) -> None:
    """If the configuration names the credential by its path, it is treated as a credential."""
    key = create_master_key(tmp_path / "credentials" / "key")
    (tmp_path / "credentials" / "key").chmod(0o440)
    named = {"WEBHOOKD_SECRETS__MASTER_KEY_FILE": str(tmp_path / "credentials" / "key")}
    config = load_config(None, named)
    found = find_key_place(config, {CREDENTIALS_DIRECTORY: str(tmp_path / "credentials")})
    assert (found.is_credential, found.is_replaceable, found.load()) == (True, False, key)
    elsewhere = find_key_place(config, {CREDENTIALS_DIRECTORY: str(tmp_path / "other")})
    assert not elsewhere.is_credential


def test_a_missing_key_is_told_with_every_place_that_was_looked_at(tmp_path: Path) -> None:
    """The error names the missing file, the other places, and the remedy."""
    file = tmp_path / "config.toml"
    file.write_text("")
    config = load_config(file, {})
    for environ, said in (
        ({}, "is not given, since $CREDENTIALS_DIRECTORY is not set"),
        ({CREDENTIALS_DIRECTORY: "/run/c"}, "is not in /run/c"),
    ):
        told = str(missing_key(find_key_place(config, environ), config, environ))
        for part in (str(tmp_path / "var/master.key"), said, "LoadCredential=webhookd-master-key:FILE"):
            assert part in told


def test_a_key_takes_the_place_of_another_in_one_step(tmp_path: Path) -> None:
    """Staging doesn't touch the current key; installing replaces it, keeps its owner, and leaves no other file."""
    path = tmp_path / "master.key"
    before, after = create_master_key(path), new_master_key()
    here = place(path)
    assert here.is_replaceable
    here.next_path.write_bytes(b"left by an earlier try")
    here.stage(after)
    assert (load_master_key(path), load_master_key(here.next_path)) == (before, after)
    here.install(after)
    assert load_master_key(path) == after
    assert [file.name for file in tmp_path.iterdir()] == ["master.key"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert not place(path, is_credential=True).is_replaceable


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """If the place is a link, the file that it refers to is replaced."""
    (tmp_path / "safe").mkdir()
    create_master_key(tmp_path / "safe" / "key")
    (tmp_path / "master.key").symlink_to("safe/key")
    key = new_master_key()
    place(tmp_path / "master.key").install(key)
    assert (tmp_path / "master.key").readlink() == Path("safe/key")
    assert load_master_key(tmp_path / "safe" / "key") == key
    assert [file.name for file in (tmp_path / "safe").iterdir()] == ["key"]


def test_a_key_that_can_not_be_put_in_its_place_waits_beside_it(tmp_path: Path) -> None:
    """If the rename fails, the error says so, and where the new key is."""
    path = tmp_path / "master.key"
    path.mkdir()
    here = place(path)
    key = new_master_key()
    with pytest.raises(MasterKeyError, match="move it there by hand"):
        here.install(key)
    assert load_master_key(here.next_path) == key
