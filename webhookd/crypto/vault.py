"""What keeps secrets unreadable at rest: the vault that seals with the master key, and hashes of API keys.

A sealed value names the key that opens it and is bound to the place it is stored in (table, column, row): moved to
another row it doesn't open, so whoever can write the journal's file but has no master key can't make one webhook sign
with another's secret.
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
_UNNAMED = b"\x01"  # AES-256-GCM under a key that isn't named: as the first journals have it, still opened
_NAMED = b"\x02"  # the same under the key whose id follows, and format and id are authenticated too
_HEADER_BYTES = len(_NAMED) + _ID_BYTES


def key_id(master_key: Secret[bytes]) -> bytes:
    """Return the name of a master key; it says nothing of the key, and may be shown."""
    return hmac.digest(master_key.reveal(), b"webhookd master key id", "sha256")[:_ID_BYTES]


def sealed_under(sealed: bytes) -> bytes | None:
    """Return the name of the key that a value was sealed under, None where the value doesn't say."""
    return sealed[len(_NAMED) : _HEADER_BYTES] if sealed.startswith(_NAMED) else None


def new_master_key() -> Secret[bytes]:
    """Return a new master key."""
    return Secret(os.urandom(KEY_BYTES))


class Vault:
    """Seals small secrets with AES-256-GCM under one master key, and opens what was sealed under any that it knows.

    Every method is one step and may be called from any thread.
    """

    def __init__(self, master_key: Secret[bytes]) -> None:
        self._ciphers: dict[bytes, AESGCM] = {}
        self.seal_with(master_key)

    @property
    def key_id(self) -> bytes:
        """The name of the key that seals."""
        return self._sealing_id

    def seal_with(self, master_key: Secret[bytes]) -> None:
        """Seal with this key from now on; what was sealed before still opens."""
        self.admit(master_key)
        self._sealing_id = key_id(master_key)

    def admit(self, master_key: Secret[bytes]) -> None:
        """Open what was sealed under this key, too."""
        self._ciphers = {**self._ciphers, key_id(master_key): AESGCM(master_key.reveal())}

    def forget_others(self) -> None:
        """Open nothing any more that was sealed under another key than the one that seals now."""
        self._ciphers = {self._sealing_id: self._ciphers[self._sealing_id]}

    def seals_like(self, sealed: bytes) -> bool:
        """Whether a value was sealed under the key that seals now."""
        return sealed.startswith(_NAMED + self._sealing_id)

    def encrypt(self, plain: bytes, *, context: str) -> bytes:
        """Seal `plain` for one place, named `table:column:row`."""
        sealing_id, nonce = self._sealing_id, os.urandom(_NONCE_BYTES)
        header = _NAMED + sealing_id
        return header + nonce + self._ciphers[sealing_id].encrypt(nonce, plain, header + context.encode())

    def decrypt(self, sealed: bytes, *, context: str) -> bytes:
        """Open what `encrypt` sealed for the same place; MasterKeyError for another key, place or altered bytes."""
        ciphers = self._ciphers
        if sealed.startswith(_NAMED):
            header, rest = sealed[:_HEADER_BYTES], sealed[_HEADER_BYTES:]
            tried = [ciphers[header[1:]]] if header[1:] in ciphers else []
            bound = header + context.encode()
        elif sealed.startswith(_UNNAMED):
            rest, tried, bound = sealed[1:], list(ciphers.values()), context.encode()
        else:
            raise MasterKeyError(f"the secret at {context} is in a form this version doesn't know")
        for cipher in tried:
            try:
                return cipher.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], bound)
            except (InvalidTag, ValueError):
                continue
        raise MasterKeyError(
            f"the secret at {context} doesn't open with this master key: use the key the journal was made with"
        )


def hash_api_key(text: str) -> bytes:
    """Return what the journal stores of an API key.

    The key carries 256 random bits, so a plain SHA-256 can't be searched; a slow hash would only slow every request.
    """
    return hashlib.sha256(text.encode()).digest()
