"""Signatures: the published vectors, the official verifier libraries, and what a secret may be."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import standardwebhooks
import stripe
import svix.webhooks
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from webhookd.base.models import Credentials, SignatureChoice, SignatureForm
from webhookd.base.secret import Secret
from webhookd.delivery.signing import Signer, ed25519_public, generate_ed25519, generate_secret, secret_hint, secret_key

VECTORS: list[dict[str, Any]] = msgspec.json.decode((Path(__file__).parents[1] / "vectors.json").read_bytes())
NAMES = [vector["name"] for vector in VECTORS]
STRIPE_TOLERANCE = 2**31


def credentials(vector: dict[str, Any], *, rotating: bool) -> Credentials:
    return Credentials(
        secret=Secret(vector["secret"]),
        previous_secret=Secret(vector["previousSecret"]) if rotating else None,
        previous_expires_at=vector["timestamp"] + 60.0 if rotating else None,
        ed25519_secret=Secret(vector["ed25519Secret"]),
        headers=(),
    )


def signed(vector: dict[str, Any], choice: SignatureChoice, *, rotating: bool, late: float = 0.0) -> dict[str, str]:
    return dict(
        Signer(credentials(vector, rotating=rotating), choice).sign(
            event_id=vector["id"],
            timestamp=vector["timestamp"],
            body=vector["body"].encode(),
            now=vector["timestamp"] + late,
        )
    )


@pytest.mark.parametrize("vector", VECTORS, ids=NAMES)
def test_each_form_is_the_vectors(vector: dict[str, Any]) -> None:
    """Every form of both headers, while rotating and not, is what the vectors say."""
    for case, expected in vector["expect"]["webhook-signature"].items():
        choice = SignatureChoice(ed25519="ed25519" in case)
        found = signed(vector, choice, rotating="rotating" in case)
        assert found["webhook-signature"] == expected, case
    for case, expected in vector["expect"]["x-webhook-signature"].items():
        form, _, rotation = case.partition(", ")
        found = signed(vector, SignatureChoice(form=SignatureForm(form)), rotating=rotation == "rotating")
        assert found["x-webhook-signature"] == expected, case


@pytest.mark.parametrize("vector", VECTORS, ids=NAMES)
def test_the_secret_before_signs_until_the_overlap_ends(vector: dict[str, Any]) -> None:
    """From the millisecond at which the overlap ends, the new secret signs alone, in every form."""
    for form in SignatureForm:
        choice = SignatureChoice(form=form)
        assert signed(vector, choice, rotating=True, late=60.0) == signed(vector, choice, rotating=False)
        assert signed(vector, choice, rotating=True, late=59.999) != signed(vector, choice, rotating=False)


def test_a_secret_whose_overlap_has_ended_never_signs_again() -> None:
    """A clock that is set back afterwards doesn't bring the previous secret back."""
    vector = VECTORS[0]
    signer = Signer(credentials(vector, rotating=True), SignatureChoice())

    def tokens(late: float) -> int:
        at = vector["timestamp"]
        headers = dict(signer.sign(event_id=vector["id"], timestamp=at, body=b"{}", now=at + late))
        return len(headers["webhook-signature"].split())

    assert [tokens(late) for late in (59.0, 60.0, -600.0)] == [2, 1, 1]


def test_the_form_off_leaves_the_header_out() -> None:
    """A webhook without a second signature form gets no second header."""
    found = signed(VECTORS[0], SignatureChoice(form=SignatureForm.OFF), rotating=False)
    assert list(found) == ["webhook-signature"]


@given(body=st.text().map(lambda text: msgspec.json.encode({"text": text})), rotating=st.booleans())
def test_official_libraries_verify(body: bytes, rotating: bool) -> None:
    """standardwebhooks, svix and stripe verify a request, with the new secret and, while rotating, with the old."""
    now = int(datetime.now(UTC).timestamp())
    secret, previous = generate_secret(), generate_secret()
    own = Credentials(
        secret=Secret(secret),
        previous_secret=Secret(previous) if rotating else None,
        previous_expires_at=now + 60.0 if rotating else None,
        ed25519_secret=Secret(generate_ed25519()),
        headers=(),
    )
    headers = {"webhook-id": "evt_1", "webhook-timestamp": str(now)}
    headers |= Signer(own, SignatureChoice(ed25519=True)).sign(event_id="evt_1", timestamp=now, body=body, now=now)
    for key in (secret, previous) if rotating else (secret,):
        standardwebhooks.Webhook(key).verify(body, headers)
        svix.webhooks.Webhook(key).verify(body, headers)
        assert stripe.WebhookSignature.verify_header(
            body.decode(), headers["x-webhook-signature"], key, tolerance=STRIPE_TOLERANCE
        )
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(generate_secret()).verify(body, headers)


def test_githubs_form_is_an_hmac_of_the_body() -> None:
    """The form with GitHub's prefix is the HMAC-SHA256 of the body alone, keyed with the secret as it is shown."""
    vector = VECTORS[0]
    found = signed(vector, SignatureChoice(form=SignatureForm.SHA256_HEX), rotating=False)
    digest = hmac.new(vector["secret"].encode(), vector["body"].encode(), hashlib.sha256).hexdigest()
    assert found["x-webhook-signature"] == f"sha256={digest}"


def test_an_ed25519_key_is_seed_and_public_key() -> None:
    """A new private key holds its public key, which verifies the v1a token."""
    private = generate_ed25519()
    public = base64.b64decode(ed25519_public(private).removeprefix("whpk_"))
    assert base64.b64decode(private.removeprefix("whsk_"))[32:] == public
    own = Credentials(
        secret=Secret(generate_secret()),
        previous_secret=None,
        previous_expires_at=None,
        ed25519_secret=Secret(private),
        headers=(),
    )
    headers = dict(Signer(own, SignatureChoice(ed25519=True)).sign(event_id="e", timestamp=1, body=b"{}", now=1))
    token = headers["webhook-signature"].split(" ")[-1]
    assert token.startswith("v1a,")
    Ed25519PublicKey.from_public_bytes(public).verify(base64.b64decode(token.removeprefix("v1a,")), b"e.1.{}")


@pytest.mark.parametrize(
    ("secret", "complaint"),
    [
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "starts with whsec_"),
        ("whsec_", "24 to 64 bytes"),
        ("whsec_" + base64.b64encode(bytes(23)).decode(), "has 23"),
        ("whsec_" + base64.b64encode(bytes(65)).decode(), "has 65"),
        ("whsec_" + base64.b64encode(bytes(32)).decode().rstrip("="), "padded base64"),
        ("whsec_" + "A" * 31 + "!", "base64"),
        ("whsec_" + "A" * 32 + "\n", "base64"),
        ("whsec_" + "A" * 42 + "B=", "base64"),
        ("whsec_" + "é" * 32, "base64"),
        ("whsec_" + "-_" * 16, "base64"),
    ],
)
def test_a_secret_that_is_none_is_refused(secret: str, complaint: str) -> None:
    """Anything but whsec_ and strict base64 of 24 to 64 bytes is refused with what is accepted."""
    with pytest.raises(ValueError, match=complaint):
        secret_key(secret)


@given(st.binary(min_size=24, max_size=64))
def test_any_key_of_the_right_size_can_be_imported(key: bytes) -> None:
    """A secret of the user's own is accepted if it has 24 to 64 bytes."""
    assert secret_key("whsec_" + base64.b64encode(key).decode()) == key


def test_a_hint_tells_little() -> None:
    """Of a secret only its last four characters are shown."""
    secret = generate_secret()
    assert secret_hint(secret) == "whsec_…" + secret[-5:-1]
