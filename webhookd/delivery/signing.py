"""Secrets of endpoints and the signatures made with them: two headers from one secret. Pure.

`webhook-signature` is that of Standard Webhooks (https://www.standardwebhooks.com), keyed with the decoded bytes of the
secret; `x-webhook-signature` is keyed with the whole secret string, as at Stripe and GitHub. `webhookd.verify` imports
this module, so it must not import the server.
"""

import base64
import binascii
import os
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from webhookd.base.models import Credentials, SignatureChoice, SignatureForm

SECRET_PREFIX = "whsec_"  # noqa: S105 - a prefix
PRIVATE_KEY_PREFIX = "whsk_"
PUBLIC_KEY_PREFIX = "whpk_"

_SECRET_BYTES = 32
_IMPORTED_BYTES = range(24, 65)
_HINT_CHARACTERS = 4


def generate_secret(random_bytes: Callable[[int], bytes] = os.urandom) -> str:
    """Return a new secret, `whsec_` and base64 of 32 random bytes."""
    return SECRET_PREFIX + base64.b64encode(random_bytes(_SECRET_BYTES)).decode()


class SecretError(ValueError):
    """The text is no valid secret; the message says what a secret looks like, and shows nothing of the text."""


def secret_key(secret: str) -> bytes:
    """Return the key bytes of a secret; SecretError unless it is valid and has 24 to 64 bytes.

    The base64 is strict: standard alphabet, padded, canonical.
    """
    if not secret.startswith(SECRET_PREFIX):
        raise SecretError(f"a secret starts with {SECRET_PREFIX}")
    text = secret.removeprefix(SECRET_PREFIX)
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SecretError(f"what follows {SECRET_PREFIX} must be standard padded base64") from error
    if base64.b64encode(key).decode() != text:
        raise SecretError(f"what follows {SECRET_PREFIX} must be standard padded base64")
    if len(key) not in _IMPORTED_BYTES:
        raise SecretError(f"a secret has 24 to 64 bytes, and this one has {len(key)}")
    return key


def secret_hint(secret: str) -> str:
    """Return the part of a secret that may be shown: its last four characters."""
    return f"{SECRET_PREFIX}…{secret.rstrip('=')[-_HINT_CHARACTERS:]}"


def generate_ed25519(random_bytes: Callable[[int], bytes] = os.urandom) -> str:
    """Return a new private key, `whsk_` and base64 of its seed and public key (64 bytes)."""
    seed = random_bytes(32)
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return PRIVATE_KEY_PREFIX + base64.b64encode(seed + public).decode()


def ed25519_public(private_key: str) -> str:
    """Return the `whpk_` public key of a `whsk_` private key."""
    return PUBLIC_KEY_PREFIX + base64.b64encode(_private_bytes(private_key)[32:]).decode()


class Signer:
    """Signs the attempts of one endpoint; the keys are decoded only once."""

    def __init__(self, credentials: Credentials, choice: SignatureChoice) -> None:
        self._form = choice.form
        self._keys = [_keys(credentials.secret.reveal())]
        self._previous_expires_at = credentials.previous_expires_at
        if credentials.previous_secret is not None and self._previous_expires_at is not None:
            self._keys.append(_keys(credentials.previous_secret.reveal()))
        self._ed25519: Ed25519PrivateKey | None = None
        if choice.ed25519 and credentials.ed25519_secret is not None:
            seed = _private_bytes(credentials.ed25519_secret.reveal())[:32]
            self._ed25519 = Ed25519PrivateKey.from_private_bytes(seed)

    def sign(self, *, event_id: str, timestamp: int, body: bytes, now: float) -> list[tuple[str, str]]:
        """Return the signature headers of one attempt.

        `timestamp` is in epoch seconds; `now` decides whether the previous secret still signs. The current secret comes
        first and a v1a token last: verifiers read the tokens in order, and some stop at the first unknown one.
        """
        if self._previous_expires_at is not None and now >= self._previous_expires_at:
            del self._keys[1:]  # for good: the clock may be set back
            self._previous_expires_at = None
        keys = self._keys
        content = f"{event_id}.{timestamp}.".encode() + body
        tokens = " ".join(["v1," + base64.b64encode(_digest(key, content)).decode() for key, _ in keys])
        if self._ed25519 is not None:
            tokens += " v1a," + base64.b64encode(self._ed25519.sign(content)).decode()
        headers = [("webhook-signature", tokens)]
        match self._form:
            case SignatureForm.TIMESTAMPED:
                signed = f"{timestamp}.".encode() + body
                digests = ",".join([f"v1={_digest(whole, signed).hex()}" for _, whole in keys])
                headers.append(("x-webhook-signature", f"t={timestamp},{digests}"))
            case SignatureForm.HEX:
                # The header holds one value: receivers change to the new secret when the overlap ends.
                headers.append(("x-webhook-signature", _digest(keys[-1][1], body).hex()))
            case SignatureForm.SHA256_HEX:
                headers.append(("x-webhook-signature", "sha256=" + _digest(keys[-1][1], body).hex()))
            case SignatureForm.OFF:
                pass
        return headers


def _keys(secret: str) -> tuple[HMAC, HMAC]:
    """Return the keys of Standard Webhooks and of Stripe's form: the decoded bytes, and the whole string."""
    return HMAC(secret_key(secret), SHA256()), HMAC(secret.encode(), SHA256())


def _digest(key: HMAC, content: bytes) -> bytes:
    # A copy of a keyed HMAC is three times as fast as OpenSSL's one-shot call, which fetches the algorithm each time.
    keyed = key.copy()
    keyed.update(content)
    return keyed.finalize()


def _private_bytes(private_key: str) -> bytes:
    return base64.b64decode(private_key.removeprefix(PRIVATE_KEY_PREFIX), validate=True)
