"""The vault, which encrypts secrets with the master key ("seals" them), and hashes of API keys.

A sealed value names its key and is bound to its table, column and row. Moved to another row it can't be decrypted: an
attacker who can write to the journal but has no master key can't make a webhook sign with another one's secret.
"""

import hashlib
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from webhookd.base.errors import MasterKeyError
from webhookd.base.secret import Secret

KEY_BYTES = 32

_NONCE_BYTES = 12
_ID_BYTES = 8
_UNNAMED = b"\x01"  # AES-256-GCM without the key's id: in journals of the first versions
_NAMED = b"\x02"  # the same with the key's id after it; both are authenticated
_HEADER_BYTES = len(_NAMED) + _ID_BYTES


def key_id(master_key: Secret[bytes]) -> bytes:
    """Return the id of a master key, which reveals nothing of the key and may be shown."""
    return hmac.digest(master_key.reveal(), b"webhookd master key id", "sha256")[:_ID_BYTES]


def sealed_under(sealed: bytes) -> bytes | None:
    """Return the id of the key that a value was sealed with, or None if the value doesn't name it."""
    return sealed[len(_NAMED) : _HEADER_BYTES] if sealed.startswith(_NAMED) else None


def new_master_key() -> Secret[bytes]:
    """Return a new master key."""
    return Secret(os.urandom(KEY_BYTES))


class Vault:
    """Encrypts small secrets with AES-256-GCM and the current master key, and decrypts with any key that was admitted.

    Every method may be called from any thread.
    """

    def __init__(self, master_key: Secret[bytes]) -> None:
        self._ciphers: dict[bytes, AESGCM] = {}
        self.seal_with(master_key)

    @property
    def key_id(self) -> bytes:
        """The id of the current key."""
        return self._sealing_id

    def seal_with(self, master_key: Secret[bytes]) -> None:
        """Make this the current key; the earlier ones still decrypt."""
        self.admit(master_key)
        self._sealing_id = key_id(master_key)

    def admit(self, master_key: Secret[bytes]) -> None:
        """Also decrypt with this key."""
        self._ciphers = {**self._ciphers, key_id(master_key): AESGCM(master_key.reveal())}

    def forget_others(self, *, but: bytes | None = None) -> None:
        """Remove all keys but the current one, and the one with the id `but`."""
        kept = {self._sealing_id, but}
        self._ciphers = {name: cipher for name, cipher in self._ciphers.items() if name in kept}

    def seals_like(self, sealed: bytes) -> bool:
        """Whether a value was sealed with the current key."""
        return sealed.startswith(_NAMED + self._sealing_id)

    def encrypt(self, plain: bytes, *, context: str) -> bytes:
        """Encrypt `plain`; `context` is where it is stored, as `table:column:row`."""
        sealing_id, nonce = self._sealing_id, os.urandom(_NONCE_BYTES)
        header = _NAMED + sealing_id
        return header + nonce + self._ciphers[sealing_id].encrypt(nonce, plain, header + context.encode())

    def decrypt(self, sealed: bytes, *, context: str) -> bytes:
        """Decrypt a value of `encrypt`; MasterKeyError for another key, another context or changed bytes."""
        ciphers = self._ciphers
        if sealed.startswith(_NAMED):
            header, rest = sealed[:_HEADER_BYTES], sealed[_HEADER_BYTES:]
            tried = [ciphers[header[1:]]] if header[1:] in ciphers else []
            bound = header + context.encode()
        elif sealed.startswith(_UNNAMED):
            rest, tried, bound = sealed[1:], list(ciphers.values()), context.encode()
        else:
            raise MasterKeyError(f"the secret at {context} is in a form that this version doesn't know")
        for cipher in tried:
            try:
                return cipher.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], bound)
            except (InvalidTag, ValueError):
                continue
        raise MasterKeyError(f"the secret at {context} can't be decrypted with this master key: use the journal's key")


def hash_api_key(text: str) -> bytes:
    """Return the hash of an API key that the journal stores.

    A key has 256 random bits, so its SHA-256 can't be reversed by trying; a slow hash would only slow each request.
    """
    return hashlib.sha256(text.encode()).digest()
