"""Tokens of the application's own sign-in: accepted and refused tokens of each kind of key, and unusable key files."""

import hashlib
import hmac
import json
import re
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.admin.inprocess import AUDIENCE, ISSUER, ORGANIZATION_CLAIM, by_hand, full_claims, segment
from webhookd.admin.auth import Caller
from webhookd.admin.tokens import TokenKeys, open_tokens
from webhookd.base.errors import ConfigError, ErrorCode, Rejected
from webhookd.base.models import Role
from webhookd.config import JwtConfig

SECRET = b"a-shared-secret-of-more-than-32-bytes"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
P256 = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
KINDS: dict[str, Any] = {"RS256": RSA, "ES256": P256, "EdDSA": ED25519}


def pem(private: Any) -> bytes:
    text: bytes = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text


def jwk(algorithm: str, private: Any, **fields: Any) -> dict[str, Any]:
    handler = jwt.get_algorithm_by_name(algorithm)
    return {**handler.to_jwk(private.public_key(), as_dict=True), **fields}


def oct_jwk(secret: bytes, **fields: Any) -> dict[str, Any]:
    return {"kty": "oct", "k": segment(secret), **fields}


def write(path: Path, content: bytes | list[dict[str, Any]], mode: int = 0o600) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else json.dumps({"keys": content}).encode())
    path.chmod(mode)
    return path


def tokens(**fields: Any) -> TokenKeys:
    opened = open_tokens(JwtConfig(issuer=ISSUER, audience=AUDIENCE, **fields))
    assert opened is not None
    return opened


def code_of(taken: TokenKeys, token: str) -> str:
    """Return the error code for a token, or its role."""
    try:
        role = taken.identify(token).role
    except Rejected as refused:
        return refused.code.value
    assert role is not None
    return role.value


@pytest.mark.parametrize("algorithm", KINDS)
def test_the_pem_of_each_kind_takes_its_algorithm_alone(tmp_path: Path, algorithm: str) -> None:
    """A public key accepts its own algorithm; other algorithms, stronger hashes, HMAC and `none` are refused."""
    key = KINDS[algorithm]
    taken = tokens(public_key_file=write(tmp_path / "pem", pem(key), 0o644))
    assert code_of(taken, jwt.encode(full_claims(), key, algorithm=algorithm)) == "admin"
    others = [jwt.encode(full_claims(), other, algorithm=name) for name, other in KINDS.items() if name != algorithm]
    if algorithm == "RS256":
        others += [jwt.encode(full_claims(), key, algorithm=name) for name in ("RS512", "PS256")]
    for name in ("HS256", algorithm, "none", "None", "", ["HS256"], None):
        others += [by_hand({"alg": name}, full_claims(), pem(key)), by_hand({"alg": name}, full_claims(), None)]
    assert {code_of(taken, token) for token in others} == {"UNAUTHORIZED"}


def test_a_shared_secret_takes_hs256_alone(tmp_path: Path) -> None:
    """The newline of the file is not part of the secret; other algorithms with the same secret are refused."""
    taken = tokens(secret_file=write(tmp_path / "secret", SECRET + b"\n"))
    assert code_of(taken, jwt.encode(full_claims(), SECRET, algorithm="HS256")) == "admin"
    stronger = jwt.encode(full_claims(), SECRET + SECRET, algorithm="HS512")
    for token in (
        stronger,
        jwt.encode(full_claims(), RSA, algorithm="RS256"),
        by_hand({"alg": "none"}, full_claims(), None),
    ):
        assert code_of(taken, token) == "UNAUTHORIZED"
    assert code_of(taken, jwt.encode(full_claims(), SECRET[:-1] + b"x", algorithm="HS256")) == "UNAUTHORIZED"


def test_a_jwks_chooses_by_kid_and_kind(tmp_path: Path) -> None:
    """Each key of a set accepts tokens of its id and kind; keys of other uses or kinds accept none."""
    other = ec.generate_private_key(ec.SECP256R1())
    large = ec.generate_private_key(ec.SECP384R1())
    path = write(
        tmp_path / "jwks",
        [
            jwk("RS256", RSA, kid="rsa", use="sig"),
            jwk("ES256", P256, kid="old"),
            jwk("ES256", other, kid="new", key_ops=["verify"]),
            jwk("EdDSA", ED25519, kid="ed", alg="EdDSA"),
            jwk("ES384", large, kid="large"),
            jwk("RS256", rsa.generate_private_key(65537, 2048), kid="for encryption", use="enc"),
            oct_jwk(SECRET, kid="shared"),
        ],
    )
    taken = tokens(jwks_file=path)

    def said(algorithm: str, key: Any, kid: str | None) -> str:
        headers = {} if kid is None else {"kid": kid}
        return code_of(taken, jwt.encode(full_claims(), key, algorithm=algorithm, headers=headers))

    good: list[tuple[str, Any, str | None]] = [
        ("RS256", RSA, "rsa"),
        ("ES256", P256, "old"),
        ("ES256", other, "new"),
        ("EdDSA", ED25519, "ed"),
    ]
    good += [("HS256", SECRET, "shared"), ("ES256", other, None), ("ES256", P256, None)]
    assert {said(*each) for each in good} == {"admin"}
    bad: list[tuple[str, Any, str]] = [
        ("ES256", P256, "new"),
        ("ES256", P256, "rsa"),
        ("ES256", P256, "gone"),
        ("ES384", large, "large"),
    ]
    assert {said(*each) for each in bad} == {"UNAUTHORIZED"}
    assert code_of(taken, by_hand({"alg": "HS256", "kid": "rsa"}, full_claims(), pem(RSA))) == "UNAUTHORIZED"


@pytest.mark.parametrize(
    ("claims", "answer"),
    [
        ({"exp": -20}, "admin"),
        ({"exp": -40}, "UNAUTHORIZED"),
        ({"exp": None}, "UNAUTHORIZED"),
        ({"exp": "soon"}, "UNAUTHORIZED"),
        ({"exp": float("inf")}, "UNAUTHORIZED"),
        ({"nbf": 20}, "admin"),
        ({"nbf": 60}, "UNAUTHORIZED"),
        ({"iat": 60}, "UNAUTHORIZED"),
        ({"iss": None}, "UNAUTHORIZED"),
        ({"iss": ISSUER + "x"}, "UNAUTHORIZED"),
        ({"iss": ISSUER[:-1]}, "UNAUTHORIZED"),
        ({"aud": None}, "UNAUTHORIZED"),
        ({"aud": "webhook"}, "UNAUTHORIZED"),
        ({"aud": ["other", AUDIENCE]}, "admin"),
        ({"aud": ["other"]}, "UNAUTHORIZED"),
        ({"aud": {AUDIENCE: 1}}, "UNAUTHORIZED"),
        ({"sub": None}, "UNAUTHORIZED"),
        ({"sub": ""}, "UNAUTHORIZED"),
        ({"sub": 7}, "UNAUTHORIZED"),
        ({"sub": "a\nb"}, "UNAUTHORIZED"),
        ({"sub": "x" * 256}, "UNAUTHORIZED"),
        ({"role": None}, "FORBIDDEN"),
        ({"role": "Admin"}, "FORBIDDEN"),
        ({"role": ["nothing"]}, "FORBIDDEN"),
        ({"role": {"admin": True}}, "FORBIDDEN"),
        ({"role": [["admin"], 7]}, "FORBIDDEN"),
        ({"role": ["viewer", "operator"]}, "operator"),
        ({"role": "ingest"}, "ingest"),
    ],
)
def test_each_claim_is_held_to(tmp_path: Path, claims: dict[str, object], answer: str) -> None:
    """Expiry, start, issuer, audience, subject and role, each wrong or missing, with the leeway of half a minute.

    Times are seconds from now.
    """
    now = int(time.time())
    claims = {
        name: now + value if name in {"exp", "nbf", "iat"} and isinstance(value, int) else value
        for name, value in claims.items()
    }
    taken = tokens(secret_file=write(tmp_path / "secret", SECRET))
    assert code_of(taken, by_hand({"alg": "HS256"}, full_claims(**claims), SECRET)) == answer


LONG = int("9" * 401)
TEXTS = ("", "1e3", "9" * 401, "١٢٣", "\x00")
NO_TEXTS: tuple[object, ...] = (
    LONG, -LONG, 10**30, 2**63, -1, -(2**63), 0, 1e300, -0.5, 253_402_300_800, True, False, None, [], [LONG], {},
    {"a": LONG}, [[]], [None],
)  # fmt: skip


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat", "iss", "aud", "sub", "jti", "role", ORGANIZATION_CLAIM])
def test_a_claim_of_any_kind_is_answered(tmp_path: Path, claim: str) -> None:
    """Any value of a claim gives a role or a refusal with our own message, never a server error."""
    taken = tokens(secret_file=write(tmp_path / "secret", SECRET), organization_claim=ORGANIZATION_CLAIM)
    said = set()
    for value in (*TEXTS, *NO_TEXTS):
        token = by_hand({"alg": "HS256"}, full_claims() | {claim: value}, SECRET)
        try:
            caller = taken.identify(token)
        except Rejected as refused:
            said.add(refused.detail)
            continue
        assert caller.expires_at is not None
        assert caller.expires_at < 253_402_300_900
        # A beginning that lies in the past is one, and some texts name somebody or tell tokens apart.
        names = {"sub", "jti", ORGANIZATION_CLAIM}
        assert (claim in {"nbf", "iat"} and value == 0) or (claim in names and isinstance(value, str))
    ours = re.compile(
        r"the token (is not accepted: (it |its claim |one of its claims )|gives no role here)|the token's claim "
    )
    assert said
    assert all(ours.match(detail) for detail in said), said


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        ('"exp": Infinity', "UNAUTHORIZED"),
        ('"exp": -Infinity', "UNAUTHORIZED"),
        ('"exp": NaN', "UNAUTHORIZED"),
        ('"exp": 1e999', "UNAUTHORIZED"),
        (f'"exp": {"9" * 4301}', "UNAUTHORIZED"),
        (f'"exp": {"9" * 401}.5', "UNAUTHORIZED"),
        ('"exp": 1e10', "admin"),
        ('"exp": 10000000000.5', "admin"),
        ('"exp": 10000000000, "nbf": NaN', "UNAUTHORIZED"),
        ('"exp": 10000000000, "iat": -1e999', "UNAUTHORIZED"),
        (f'"exp": 10000000000, "other": {"9" * 401}', "admin"),
    ],
)
def test_a_number_that_only_json_can_hold_is_answered(tmp_path: Path, payload: str, answer: str) -> None:
    """Numbers that Python's JSON accepts but that are no valid times are a 401; fractions of seconds are valid."""
    taken = tokens(secret_file=write(tmp_path / "secret", SECRET))
    rest = f'"iss": "{ISSUER}", "aud": "{AUDIENCE}", "sub": "ada", "role": "admin"'
    content = f"{segment(json.dumps({'alg': 'HS256'}).encode())}.{segment(f'{{{rest}, {payload}}}'.encode())}"
    signature = segment(hmac.digest(SECRET, content.encode(), hashlib.sha256))
    assert code_of(taken, f"{content}.{signature}") == answer


def test_roles_and_organizations_come_from_the_configured_claims(tmp_path: Path) -> None:
    """Only the mapping gives roles; an organization binds, `*` doesn't, and a missing one is refused."""
    taken = tokens(
        secret_file=write(tmp_path / "secret", SECRET),
        role_claim="https://app.example/groups",
        roles={"webhooks": Role.OPERATOR},
        organization_claim="tenant",
    )

    def caller(**claims: object) -> Caller:
        named = {name.replace("groups", "https://app.example/groups"): value for name, value in claims.items()}
        return taken.identify(jwt.encode(full_claims(**named), SECRET, algorithm="HS256"))

    bound = caller(groups=["staff", "webhooks"], tenant="acme")
    assert (bound.role, bound.organization_id, bound.actor and bound.actor.id) == (Role.OPERATOR, "acme", "ada")
    assert caller(groups="webhooks", tenant="*").organization_id is None
    refused: list[dict[str, object]] = [
        {"groups": "admin", "tenant": "acme"},
        {"groups": "webhooks"},
        {"groups": "webhooks", "tenant": ""},
        {"groups": "webhooks", "tenant": ["*"]},
        {"groups": "webhooks", "tenant": "a b"},
    ]
    for claims in refused:
        with pytest.raises(Rejected) as found:
            caller(**claims)
        assert found.value.code is ErrorCode.FORBIDDEN


def test_what_is_kept_for_one_caller_is_no_others(tmp_path: Path) -> None:
    """No two combinations of subject and organization have the same name."""
    taken = tokens(secret_file=write(tmp_path / "secret", SECRET), organization_claim="org")
    claims = [("ada", "*"), ("ada", "acme"), ("acme/ada", "*"), ("*/ada", "acme"), ("key_1", "*"), ("local", "*")]
    places = [
        taken.identify(jwt.encode(full_claims(sub=sub, org=org), SECRET, algorithm="HS256")).place
        for sub, org in claims
    ]
    assert len({*places, "local", "key_1"}) == len(claims) + 2


@pytest.mark.parametrize(
    "token",
    ["", "a", "a.b", "a.b.c", "....", "e30.e30.", "e30.e30.e30", "x" * 9000, "é.é.é", "bnVsbA.bnVsbA.bnVsbA"],
)
def test_what_is_no_token_is_refused(tmp_path: Path, token: str) -> None:
    """Any bytes of a header give a 401."""
    taken = tokens(secret_file=write(tmp_path / "secret", SECRET))
    assert code_of(taken, token) == "UNAUTHORIZED"


def test_deep_and_odd_tokens_are_refused(tmp_path: Path) -> None:
    """Nested tokens, unknown critical headers, detached content and embedded keys are refused."""
    taken = tokens(secret_file=write(tmp_path / "secret", SECRET))
    deep = f"{segment(b'[' * 5000)}.{segment(b'{}')}.{segment(b'x')}"
    assert code_of(taken, deep) == "UNAUTHORIZED"
    odd: tuple[dict[str, Any], ...] = (
        {"crit": ["x"], "x": 1},
        {"b64": False, "crit": ["b64"]},
        {"kid": 7},
    )
    for header in odd:
        assert code_of(taken, by_hand({"alg": "HS256", **header}, full_claims(), SECRET)) == "UNAUTHORIZED"
    own = b"a secret that the token brings along itself"
    brought: list[dict[str, Any]] = [
        {"jwk": oct_jwk(own)},
        {"jku": "https://evil.example/"},
        {"x5u": "https://evil.example/"},
    ]
    for header in brought:
        assert code_of(taken, by_hand({"alg": "HS256", **header}, full_claims(), own)) == "UNAUTHORIZED"


async def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """A new file replaces all keys; a broken or missing file changes nothing, an empty set refuses all tokens.

    Until then nothing is read: a request never waits for the file.
    """
    path = write(tmp_path / "jwks", [jwk("ES256", P256, kid="one")])
    taken = tokens(jwks_file=path)
    one, two = (
        jwt.encode(full_claims(), key, algorithm=name, headers={"kid": kid})
        for name, key, kid in (("ES256", P256, "one"), ("RS256", RSA, "two"))
    )
    assert (code_of(taken, one), code_of(taken, two)) == ("admin", "UNAUTHORIZED")
    fresh = write(tmp_path / "new", [jwk("RS256", RSA, kid="two")])
    fresh.rename(path)
    assert (code_of(taken, one), code_of(taken, two)) == ("admin", "UNAUTHORIZED")
    await taken.follow()
    assert (code_of(taken, one), code_of(taken, two)) == ("UNAUTHORIZED", "admin")
    write(path, b'{"keys": [')
    await taken.follow()
    assert code_of(taken, two) == "admin"
    path.unlink()
    await taken.follow()
    assert code_of(taken, two) == "admin"
    write(path, [])
    await taken.follow()
    assert code_of(taken, two) == "UNAUTHORIZED"


PRIVATE = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
SMALL = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - which is why it is refused


@pytest.mark.parametrize(
    ("key", "content", "mode", "says"),
    [
        ("secret_file", b"short\n", 0o600, "holds 5 bytes"),
        ("secret_file", b"", 0o600, "holds 0 bytes"),
        ("secret_file", SECRET, 0o640, "has mode 0640.*chmod 600"),
        ("secret_file", pem(RSA), 0o600, "isn't a shared secret: for a PEM set jwt.public_key_file"),
        ("secret_file", b"\n" + pem(P256), 0o600, "isn't a shared secret"),
        ("secret_file", json.dumps({"keys": [jwk("RS256", RSA)]}).encode(), 0o600, "isn't a shared secret"),
        ("public_key_file", b"nonsense", 0o644, "isn't the PEM of one public key"),
        ("public_key_file", SECRET, 0o600, "isn't the PEM of one public key"),
        ("public_key_file", PRIVATE, 0o600, "holds a private key"),
        ("public_key_file", pem(RSA) + pem(P256), 0o644, "for several make a JWKS"),
        ("public_key_file", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", 0o644, "isn't the PEM"),
        ("public_key_file", pem(SMALL), 0o644, "RSA key of 1024 bits"),
        ("public_key_file", pem(ec.generate_private_key(ec.SECP384R1())), 0o644, "of another kind"),
        ("jwks_file", b"nonsense", 0o644, "isn't a JWKS"),
        ("jwks_file", b"[" * 100_000, 0o644, "isn't a JWKS"),
        ("jwks_file", b'{"keys": {}}', 0o644, "isn't a JWKS"),
        ("jwks_file", b'{"keys": []}', 0o644, "holds no key"),
        ("jwks_file", [{"kty": "EC", "crv": "P-384"}], 0o644, "holds no key"),
        ("jwks_file", [{"kty": "EC", "crv": "P-256", "kid": "k", "x": "AA"}], 0o644, "key 'k' of the kind EC"),
        ("jwks_file", [{**jwk("ES256", P256), "d": "AA"}], 0o600, "holds a private key"),
        ("jwks_file", [jwk("RS256", SMALL)], 0o644, "RSA key of 1024 bits"),
        ("jwks_file", [oct_jwk(SECRET)], 0o644, "holds a secret and has mode 0644"),
        ("jwks_file", [oct_jwk(b"short")], 0o600, "a secret of 5 bytes"),
        ("jwks_file", b" " * 1_048_577, 0o644, "is larger than 1048576 bytes"),
    ],
)
def test_a_key_file_that_can_not_be_used_is_named(
    tmp_path: Path, key: str, content: bytes | list[dict[str, Any]], mode: int, says: str
) -> None:
    """The error names the configuration key, the file and the problem, and shows nothing of the content."""
    path = write(tmp_path / "key", content, mode)
    with pytest.raises(ConfigError, match=rf"^jwt\.{key}: {path} .*{says}") as refused:
        tokens(**{key: path})
    assert SECRET.decode() not in str(refused.value)
    assert segment(SECRET) not in str(refused.value)


def test_a_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A missing file and a directory are refused with the configuration key; without a file tokens are refused."""
    with pytest.raises(ConfigError, match=r"^jwt\.jwks_file: can't read .*No such file"):
        tokens(jwks_file=tmp_path / "none")
    with pytest.raises(ConfigError, match=r"^jwt\.secret_file: can't read .*directory"):
        tokens(secret_file=tmp_path)
    assert open_tokens(JwtConfig()) is None
