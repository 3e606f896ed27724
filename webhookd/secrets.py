"""What keeps secrets unreadable at rest: the master key, the vault that seals with it, and hashes of API keys.

A sealed value is bound to the place it is stored in (table, column, row): moved to another row it doesn't open, so
whoever can write the journal's file but has no master key can't make one webhook sign with another's secret.
"""

import base64
import binascii
import hashlib
import os
import stat
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from webhookd.errors import MasterKeyError

_KEY_BYTES = 32
_NONCE_BYTES = 12
_FORMAT = b"\x01"  # AES-256-GCM under the master key itself


class Vault:
    """Seals and opens small secrets with AES-256-GCM under the master key (32 bytes)."""

    def __init__(self, master_key: bytes) -> None:
        self._cipher = AESGCM(master_key)

    def encrypt(self, plain: bytes, *, context: str) -> bytes:
        """Seal `plain` for one place, named `table:column:row`."""
        nonce = os.urandom(_NONCE_BYTES)
        return _FORMAT + nonce + self._cipher.encrypt(nonce, plain, context.encode())

    def decrypt(self, sealed: bytes, *, context: str) -> bytes:
        """Open what `encrypt` sealed for the same place; MasterKeyError for another key, place or altered bytes."""
        if sealed[:1] != _FORMAT:
            raise MasterKeyError(f"the secret at {context} is in a form this version doesn't know")
        try:
            return self._cipher.decrypt(sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :], context.encode())
        except (InvalidTag, ValueError) as error:
            raise MasterKeyError(
                f"the secret at {context} doesn't open with this master key: use the key file the journal was made with"
            ) from error


def create_master_key(path: Path) -> bytes:
    """Write a new master key to a file of mode 0600 that must not exist yet, and return the key.

    The file and its directory entry are synced before this returns: a secret must never outlive its key.
    """
    key = os.urandom(_KEY_BYTES)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise MasterKeyError(f"{path} is there already; a master key is never overwritten") from error
    except OSError as error:
        raise MasterKeyError(f"can't write the master key {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.b64encode(key) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return key


def load_master_key(path: Path) -> bytes:
    """Read a master key file: standard base64 of 32 bytes, readable by its owner alone."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(1024)
    except OSError as error:
        raise MasterKeyError(f"can't read the master key {path}: {error.strerror}") from error
    if mode & 0o077:
        raise MasterKeyError(f"the master key {path} has mode {mode:04o} and others can read it: chmod 600 {path}")
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error as error:
        raise MasterKeyError(f"the master key {path} isn't base64 of {_KEY_BYTES} bytes") from error
    if len(key) != _KEY_BYTES:
        raise MasterKeyError(f"the master key {path} holds {len(key)} bytes, not {_KEY_BYTES}")
    return key


def hash_api_key(text: str) -> bytes:
    """Return what the journal stores of an API key.

    The key carries 256 random bits, so a plain SHA-256 can't be searched; a slow hash would only slow every request.
    """
    return hashlib.sha256(text.encode()).digest()
