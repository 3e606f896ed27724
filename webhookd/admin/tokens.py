"""Tokens (JWT, RFC 7519) of an application's own sign-in, accepted in addition to API keys.

The key alone decides the algorithm (RFC 8725 section 3.1): each kind of key has one algorithm, so a token with another
one, or with `none`, matches no key. Issuer, audience, expiry and subject are required. The key file is checked every
second, in a thread, and read again when it has changed. If it can't be used then, the previous keys stay in force, so
that a half-written file locks nobody out.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jwt
import msgspec
import trio
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from webhookd.admin.auth import Caller
from webhookd.base.errors import ConfigError, ErrorCode, Rejected
from webhookd.base.fields import OrganizationId
from webhookd.base.files import open_file
from webhookd.base.json_errors import BOM
from webhookd.base.models import Role
from webhookd.base.validation import complaints
from webhookd.config import JwtConfig
from webhookd.journal import AuditActor, AuditActorKind
from webhookd.observe.logs import get_logger

EVERY_ORGANIZATION = "*"

LOOK_SECONDS = 1.0
_MOST_FILE_BYTES = 1_048_576
_LONGEST_TOKEN = 8192
_LONGEST_SUBJECT = 255
_MOST_TRIED = 8  # keys tried for one token
_LEAST_SECRET_BYTES = 32  # RFC 7518 section 3.2
_LEAST_RSA_BITS = 2048  # and 3.3
_ALGORITHMS = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA", ("oct", None): "HS256"}
_REQUIRED = ["exp", "iss", "aud", "sub"]

_Material = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | bytes
_Identity = tuple[int, int, int]  # of one version of a file
_log = get_logger("admin.tokens")


_Moment = Annotated[float, msgspec.Meta(ge=0, le=253_402_300_799)]  # to the end of the year 9999


class _Claims(msgspec.Struct, frozen=True):
    """The claims that are used, each in its only accepted type (RFC 7519 section 4.1)."""

    exp: _Moment
    iss: str
    aud: str | list[str]
    sub: Annotated[str, msgspec.Meta(min_length=1, max_length=_LONGEST_SUBJECT)]
    nbf: _Moment = 0
    iat: _Moment = 0


class _Jwks(msgspec.Struct):
    keys: list[dict[str, object]]


@dataclass(frozen=True, slots=True)
class _Key:
    """A key to verify signatures, with its only algorithm."""

    algorithm: str
    material: _Material
    id: str | None = None


class TokenKeys:
    """The keys of `jwt.secret_file`, `jwt.public_key_file` or `jwt.jwks_file`, and the claims that a token needs.

    Raises ConfigError, with the name of the configuration key, for a file that can't be used.
    """

    def __init__(self, config: JwtConfig, file: tuple[str, Path]) -> None:
        self._config = config
        self._name, self._path = file
        self._threads = trio.CapacityLimiter(1)
        self._seen = _identity(self._path)
        self._keys = read_keys(self._name, self._path)
        if not self._keys:
            raise ConfigError(f"{self._name}: {self._path} holds no key that could verify a token")

    def identify(self, text: str) -> Caller:
        """Return the caller with this token; Rejected UNAUTHORIZED, or FORBIDDEN if it gives no role here."""
        claims = self._verified(text)
        known = _typed(claims)
        if not known.sub.isprintable():
            raise _refused(_ILL_FORMED["sub"])
        role = self._role(claims)
        return Caller(
            role=role,
            organization_id=self._organization(claims),
            actor=AuditActor(kind=AuditActorKind.TOKEN, id=known.sub, role=role),
            expires_at=known.exp + self._config.leeway_seconds,
        )

    def _verified(self, text: str) -> Mapping[str, object]:
        try:
            header = jwt.get_unverified_header(text) if len(text) <= _LONGEST_TOKEN else {}
        except jwt.PyJWTError:
            header = {}
        algorithm, key_id = header.get("alg"), header.get("kid")
        fitting = [
            key
            for key in self._keys
            if key.algorithm == algorithm and (key_id is None or key.id is None or key.id == key_id)
        ]
        for key in fitting[:_MOST_TRIED]:
            try:
                return jwt.decode(
                    text,
                    key.material,
                    algorithms=[key.algorithm],
                    issuer=self._config.issuer,
                    audience=self._config.audience,
                    leeway=self._config.leeway_seconds,
                    options={"require": _REQUIRED, "enforce_minimum_key_length": True},
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.PyJWTError as error:
                # The signature is valid, so the client may learn what else is wrong with its token.
                raise _refused(_reason(error)) from error
        raise Rejected(ErrorCode.UNAUTHORIZED, "this is neither an API key nor a token that this server can verify")

    def _role(self, claims: Mapping[str, object]) -> Role:
        claimed = claims.get(self._config.role_claim)
        values = claimed if isinstance(claimed, list) else [claimed]
        given = {
            self._config.roles[value] for value in values if isinstance(value, str) and value in self._config.roles
        }
        for role in Role:
            if role in given:
                return role
        raise Rejected(
            ErrorCode.FORBIDDEN,
            f"the token gives no role here: its claim {self._config.role_claim!r} names none of them",
        )

    def _organization(self, claims: Mapping[str, object]) -> str | None:
        name = self._config.organization_claim
        if name is None:
            return None
        claimed = claims.get(name)
        if claimed == EVERY_ORGANIZATION:
            return None
        try:
            return msgspec.convert(claimed, OrganizationId)
        except msgspec.ValidationError as error:
            # A token without an organization must not reach all organizations.
            raise Rejected(
                ErrorCode.FORBIDDEN,
                f"the token's claim {name!r} is no organization (1 to 64 letters, digits, _ . : and -, or * for all)",
            ) from error

    async def run(self) -> None:
        """Follow the key file until canceled."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            await self.follow()

    async def follow(self) -> None:
        """Read the key file again if it has changed."""
        changed = await trio.to_thread.run_sync(self._changed, limiter=self._threads, abandon_on_cancel=True)
        if changed is None:
            return
        self._seen, found = changed
        if isinstance(found, ConfigError):
            _log.error("jwt.keys_unusable", error=str(found))
        else:
            self._keys = found
            _log.info("jwt.keys_read", path=str(self._path), keys=len(self._keys))

    def _changed(self) -> tuple[_Identity, tuple[_Key, ...] | ConfigError] | None:
        seen = _identity(self._path)
        if seen is None or seen == self._seen:
            return None
        try:
            return seen, read_keys(self._name, self._path)
        except ConfigError as error:
            return seen, error


def open_tokens(config: JwtConfig) -> TokenKeys | None:
    """Return the verifier of the configured tokens, None if none are configured; ConfigError."""
    return None if config.key_file is None else TokenKeys(config, config.key_file)


def read_keys(name: str, path: Path) -> tuple[_Key, ...]:
    """Read the key file of the configuration key `name`, such as `jwt.jwks_file`; ConfigError with that name."""
    try:
        with open_file(path) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(_MOST_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{name}: can't read {path}: {error.strerror}") from error
    if len(text) > _MOST_FILE_BYTES:
        raise ConfigError(f"{name}: {path} is larger than {_MOST_FILE_BYTES} bytes")
    try:
        keys = _READERS[name](text)
    except _Unusable as error:
        raise ConfigError(f"{name}: {path} {error}") from error
    if mode & 0o077 and any(key.algorithm == "HS256" for key in keys):
        raise ConfigError(
            f"{name}: {path} holds a secret and has mode {mode:04o}, so that others can read it: chmod 600 {path}"
        )
    return keys


class _Unusable(Exception):  # noqa: N818 - becomes a ConfigError
    """What is wrong with a key file; its text never contains text of the file."""


def _secret(text: bytes) -> tuple[_Key, ...]:
    secret = text.rstrip(b"\r\n")
    # With a public key as the secret, everybody who knows it could sign tokens.
    if b"-----BEGIN" in secret or secret.lstrip().startswith(b"{"):
        raise _Unusable("isn't a shared secret: for a PEM set jwt.public_key_file, for a JWKS jwt.jwks_file")
    if len(secret) < _LEAST_SECRET_BYTES:
        raise _Unusable(f"holds {len(secret)} bytes; a secret for HS256 has at least {_LEAST_SECRET_BYTES}")
    return (_Key("HS256", secret),)


def _public(text: bytes) -> tuple[_Key, ...]:
    if b"PRIVATE KEY-----" in text:
        raise _Unusable("holds a private key: only the public one belongs here")
    if text.count(b"-----BEGIN") != 1:
        raise _Unusable("isn't the PEM of one public key; for several make a JWKS and set jwt.jwks_file")
    try:
        key = load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _Unusable("isn't the PEM of a public key (-----BEGIN PUBLIC KEY-----)") from error
    return (_checked(key, None),)


def _set(text: bytes) -> tuple[_Key, ...]:
    try:
        jwks = msgspec.json.decode(text.removeprefix(BOM), type=_Jwks)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _Unusable('isn\'t a JWKS: {"keys": [{"kty": …}, …]}') from error
    return tuple(key for jwk in jwks.keys if (key := _from_jwk(jwk)) is not None)


_READERS = {"jwt.secret_file": _secret, "jwt.public_key_file": _public, "jwt.jwks_file": _set}


def _from_jwk(jwk: dict[str, object]) -> _Key | None:
    """Return a key of the set, None for a key of another use or kind."""
    kind, curve, key_id = jwk.get("kty"), jwk.get("crv"), jwk.get("kid")
    algorithm = _ALGORITHMS.get((kind, curve)) if isinstance(kind, str) else None  # type: ignore[arg-type]  # found or not
    uses = jwk.get("key_ops")
    if algorithm is None or jwk.get("alg", algorithm) != algorithm or jwk.get("use", "sig") != "sig":
        return None
    if isinstance(uses, list) and "verify" not in uses:
        return None
    name = f"key {key_id!r}" if isinstance(key_id, str) else "a key"
    if "d" in jwk:
        raise _Unusable(f"holds a private key ({name}): only the public one belongs here")
    try:
        key = jwt.PyJWK(jwk, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm) as error:
        raise _Unusable(f"has {name} of the kind {kind} that isn't whole") from error
    return _checked(key, key_id if isinstance(key_id, str) else None)


def _checked(key: object, key_id: str | None) -> _Key:
    match key:
        case RSAPublicKey():
            if key.key_size < _LEAST_RSA_BITS:
                raise _Unusable(f"holds an RSA key of {key.key_size} bits; at least {_LEAST_RSA_BITS} are accepted")
            return _Key("RS256", key, key_id)
        case EllipticCurvePublicKey() if isinstance(key.curve, SECP256R1):
            return _Key("ES256", key, key_id)
        case Ed25519PublicKey():
            return _Key("EdDSA", key, key_id)
        case bytes():
            if len(key) < _LEAST_SECRET_BYTES:
                raise _Unusable(f"holds a secret of {len(key)} bytes; at least {_LEAST_SECRET_BYTES} are accepted")
            return _Key("HS256", key, key_id)
        case _:
            raise _Unusable("holds a key of another kind than RSA (RS256), EC P-256 (ES256) and Ed25519 (EdDSA)")


def _identity(path: Path) -> _Identity | None:
    """Return the version of a file, None without a file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


_NO_TIME = "is no time: a number of seconds since 1970, before the year 10000"
_ILL_FORMED = {
    "exp": f"its claim exp {_NO_TIME}",
    "nbf": f"its claim nbf {_NO_TIME}",
    "iat": f"its claim iat {_NO_TIME}",
    "iss": "its claim iss is no text",
    "aud": "its claim aud is neither a text nor a list of texts",
    "sub": f"its claim sub isn't 1 to {_LONGEST_SUBJECT} printable characters",
}


def _typed(claims: Mapping[str, object]) -> _Claims:
    """Return the used claims in their types; Rejected UNAUTHORIZED with the first claim of another type.

    The library that verifies tokens also accepts a text or a number of any size as a time.
    """
    try:
        return msgspec.convert(claims, _Claims)
    except msgspec.ValidationError as error:
        (pointer, _), *_ = complaints(claims, _Claims)
        raise _refused(_ILL_FORMED[pointer.strip("/").partition("/")[0]]) from error


def _refused(reason: str) -> Rejected:
    return Rejected(ErrorCode.UNAUTHORIZED, f"the token is not accepted: {reason}")


def _reason(error: jwt.PyJWTError) -> str:
    match error:
        case jwt.ExpiredSignatureError():
            return "it has expired"
        case jwt.ImmatureSignatureError():
            return "it isn't valid yet (nbf, iat)"
        case jwt.InvalidAudienceError():
            return "it is meant for another audience (aud)"
        case jwt.InvalidIssuerError():
            return "it comes from another issuer (iss)"
        case jwt.MissingRequiredClaimError():
            return f"it has no {error.claim}"
        case _:
            return "one of its claims exp, nbf, iat, aud, sub and jti isn't well formed"
