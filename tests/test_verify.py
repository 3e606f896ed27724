"""Verification for receivers: valid requests pass, and the error for others names the likely mistake."""

import base64
import hmac
import json
from collections.abc import Callable
from pathlib import Path

import django.http.request
import httpx
import pytest
import starlette.datastructures
import werkzeug.datastructures
from hypothesis import given
from hypothesis import strategies as st

from tests.linear import calls
from webhookd.verify import Headers, Mistake, VerificationError, Verified, verify

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PREVIOUS = "whsec_ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1+f4CBgoM="
PUBLIC = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
ID = "evt_01JHMVZ3X5N7Q9S1T3V5W7Y9A1"
AT = 1736937000
BODY = (
    '{"id":"evt_01JHMVZ3X5N7Q9S1T3V5W7Y9A1","type":"user.created","timestamp":"2025-01-15T10:30:00.000Z",'
    '"data":{"id":"usr_1","name":"Zoë"}}'
).encode()
# The published signatures of BODY, made by other libraries.
STANDARD = "v1,1n3bT53TwTVy60E1zvk3PMRYmT+MjKBSrhDGzVj+p/4="
ROTATING = STANDARD + " v1,1pSz6gk0a3OSAB3E0+2knbPzgG6DoFNX8stbQ5ctoDA="
WITH_ED25519 = (
    ROTATING + " v1a,Evoiptem2d8+HVuLSjcsbumCgCxv81J2RkgvyIU2zdhETokLKe2L3+bLg8vYiRK8xqGnADmcNLZwBSlSIEzXCg=="
)
TIMESTAMPED = "t=1736937000,v1=f89229af13c31c8bde5aa392a490076c8f5f9f480da43695bdac7c62f0dd7816"
HEX = "223e4b5a495e9a4d06e9a3f4e23b2170c3553cac31b3d9bef3447ee9b1085292"


def key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix("whsec_"))


def standard(body: bytes = BODY, *, secret_key: bytes | None = None, prefix: str = f"{ID}.{AT}.") -> dict[str, str]:
    digest = hmac.digest(secret_key or key(SECRET), prefix.encode() + body, "sha256")
    signature = "v1," + base64.b64encode(digest).decode()
    return {"webhook-id": ID, "webhook-timestamp": str(AT), "webhook-signature": signature}


def timestamped(body: bytes = BODY, *, secret_key: bytes = SECRET.encode(), at: int = AT) -> dict[str, str]:
    digest = hmac.digest(secret_key, f"{at}.".encode() + body, "sha256").hex()
    return {"x-webhook-signature": f"t={at},v1={digest}"}


def mistake(
    headers: dict[str, str], body: bytes | str = BODY, *, secret: str = SECRET, now: float = AT
) -> tuple[Mistake, str]:
    with pytest.raises(VerificationError) as caught:
        verify(secret, headers, body, now=now)
    assert SECRET not in str(caught.value)
    return caught.value.mistake, str(caught.value)


@pytest.mark.parametrize("secret", [SECRET, PREVIOUS, PUBLIC])
def test_standard_header_verifies_by_either_secret_and_the_public_key(secret: str) -> None:
    """During a rotation both secrets verify, and so does the public key of the v1a signature."""
    headers = {"webhook-id": ID, "webhook-timestamp": str(AT), "webhook-signature": WITH_ED25519}
    expected = Verified(header="webhook-signature", event_id=ID, timestamp=AT)
    assert verify(secret, headers, BODY, now=AT + 299) == expected


@pytest.mark.parametrize("headers", [standard(), timestamped()])
def test_one_of_several_secrets_has_to_match(headers: dict[str, str]) -> None:
    """With the new and the previous secret one must match; with none, or only wrong ones, nothing is verified."""
    for secrets in ([SECRET, PREVIOUS], (PREVIOUS, SECRET)):
        verify(secrets, headers, BODY, now=AT)
    for wrong in ([PREVIOUS], [PREVIOUS, "whsec_" + base64.b64encode(b"x" * 32).decode()], []):
        with pytest.raises(VerificationError):
            verify(wrong, headers, BODY, now=AT)


def test_of_several_secrets_the_one_that_matches_says_what_is_wrong() -> None:
    """An old request that matches the second secret is reported as too old, not as unmatched."""
    with pytest.raises(VerificationError) as caught:
        verify([PREVIOUS, SECRET], standard(), BODY, now=AT + 1000)
    assert caught.value.mistake is Mistake.TIMESTAMP_TOO_OLD
    with pytest.raises(VerificationError, match="no secret") as caught:
        verify([], standard(), BODY, now=AT)
    assert caught.value.mistake is Mistake.SECRET_MALFORMED


@pytest.mark.parametrize(("value", "at"), [(TIMESTAMPED, AT), (HEX, None), ("sha256=" + HEX, None)])
def test_other_header_verifies_in_each_form(value: str, at: int | None) -> None:
    """The x- header is verified in its timestamped and its single-valued forms, and claims no more than it proves."""
    headers = {"X-Webhook-Signature": value, "webhook-id": ID}
    assert verify(SECRET, headers, BODY, now=AT) == Verified(header="x-webhook-signature", event_id=None, timestamp=at)


def test_header_names_are_found_in_any_case_and_in_a_wsgi_environment() -> None:
    """Header names are accepted as frameworks spell them."""
    for rename in (str.upper, str.title, lambda name: "HTTP_" + name.upper().replace("-", "_")):
        verify(SECRET, {rename(name): value for name, value in standard().items()}, BODY, now=AT)


def test_headers_are_taken_as_frameworks_have_them() -> None:
    """The header objects of Flask, Django, Starlette and httpx are accepted, also by the type checker."""
    plain = standard()
    environ = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in plain.items()}
    taken: list[Headers] = [
        werkzeug.datastructures.Headers(plain),
        werkzeug.datastructures.EnvironHeaders(environ),
        django.http.request.HttpHeaders(environ),
        starlette.datastructures.Headers(plain),
        httpx.Headers(plain),
    ]
    for headers in taken:
        verify(SECRET, headers, BODY, now=AT)


def test_body_as_text_is_taken_as_utf8() -> None:
    """A body that a framework gives as text verifies."""
    verify(SECRET, standard(), BODY.decode(), now=AT)


def test_standard_header_decides_where_both_are_there() -> None:
    """A valid x-webhook-signature does not make up for a wrong webhook-signature."""
    headers = standard(b"other") | timestamped()
    with pytest.raises(VerificationError):
        verify(SECRET, headers, BODY, now=AT)


@pytest.mark.parametrize("headers", [standard(), timestamped()])
def test_time_is_checked_both_ways(headers: dict[str, str]) -> None:
    """Too old and too new have different errors, at the limit of the tolerance; None disables the check."""
    for now in (AT - 300, AT + 300):
        verify(SECRET, headers, BODY, now=now)
    assert mistake(headers, now=AT + 300.5)[0] is Mistake.TIMESTAMP_TOO_OLD
    assert mistake(headers, now=AT - 300.5)[0] is Mistake.TIMESTAMP_TOO_NEW
    verify(SECRET, headers, BODY, None, AT + 9e9)


def test_a_forgery_is_never_told_its_time() -> None:
    """The timestamp is checked after the signature: an old forgery is reported as a forgery."""
    assert mistake(standard(b"forged"), now=AT + 9e6)[0] is Mistake.NO_MATCH


@pytest.mark.parametrize(
    ("headers", "expected", "said"),
    [
        ({}, Mistake.HEADER_MISSING, "neither webhook-signature nor x-webhook-signature"),
        ({"stripe-signature": "t=1,v1=a"}, Mistake.HEADER_MISSING, "stripe-signature, another sender's scheme"),
        (standard() | {"webhook-id": ""}, Mistake.HEADER_MISSING, "webhook-id is missing"),
        ({"webhook-signature": STANDARD, "webhook-id": ID}, Mistake.HEADER_MISSING, "webhook-timestamp is missing"),
        (standard() | {"webhook-timestamp": "2025-01-15T10:30:00Z"}, Mistake.TIMESTAMP_MALFORMED, "unix seconds"),
        (standard() | {"webhook-timestamp": "-1"}, Mistake.TIMESTAMP_MALFORMED, "must be a number"),
        ({"x-webhook-signature": "t=soon,v1=" + HEX}, Mistake.TIMESTAMP_MALFORMED, "t of x-webhook-signature"),
        (standard() | {"webhook-signature": TIMESTAMPED}, Mistake.SCHEME, "holds the value of x-webhook-signature"),
        (standard() | {"webhook-signature": "sha256=" + HEX}, Mistake.SCHEME, "holds the value of x-webhook"),
        ({"x-webhook-signature": STANDARD}, Mistake.SCHEME, "holds the value of webhook-signature"),
        (standard() | {"webhook-signature": "v1,%%%"}, Mistake.HEADER_MALFORMED, "v1,<base64>"),
        (standard() | {"webhook-signature": "v1," + HEX}, Mistake.HEADER_MALFORMED, "v1,<base64>"),
        ({"x-webhook-signature": "abc"}, Mistake.HEADER_MALFORMED, "sha256=<hex>"),
        ({"x-webhook-signature": "t=1736937000,v1=abc"}, Mistake.HEADER_MALFORMED, "t=<seconds>,v1=<hex>"),
        (standard() | {"webhook-signature": WITH_ED25519.split()[2]}, Mistake.SCHEME, "only a v1a signature"),
    ],
)
def test_headers_mistakes_are_named(headers: dict[str, str], expected: Mistake, said: str) -> None:
    """A missing, renamed, confused or truncated header is named."""
    found, text = mistake(headers)
    assert (found, said in text) == (expected, True), text


CORE = SECRET.removeprefix("whsec_")
URL_SAFE = "whsec_" + base64.urlsafe_b64encode(bytes(range(224, 256))).decode()
STD_OF_URL_SAFE = "whsec_" + base64.b64encode(bytes(range(224, 256))).decode()


@pytest.mark.parametrize(
    ("given_secret", "said"),
    [
        (CORE, "put whsec_ before it"),
        (SECRET + "\n", "white space or quotes"),
        (f' "{SECRET}" ', "white space or quotes"),
        (key(SECRET).hex(), "in hex"),
        ("whsec_" + key(SECRET).hex(), "in hex"),
        (base64.b64encode(SECRET.encode()).decode(), "Kubernetes"),
    ],
)
@pytest.mark.parametrize("sign", [standard, timestamped])
def test_secret_in_the_wrong_form_is_named(sign: Callable[[], dict[str, str]], given_secret: str, said: str) -> None:
    """The right secret in a wrong form is recognized in both schemes, and never accepted."""
    found, text = mistake(sign(), secret=given_secret)
    assert (found, said in text) == (Mistake.SECRET_FORM, True), text


def test_secret_with_url_safe_base64_is_named() -> None:
    """A secret in URL-safe base64 is recognized."""
    headers = standard(secret_key=key(STD_OF_URL_SAFE))
    found, text = mistake(headers, secret=URL_SAFE)
    assert (found, "URL-safe" in text) == (Mistake.SECRET_FORM, True)


def test_sender_that_took_the_other_key_is_named() -> None:
    """Using the whole secret instead of its decoded bytes, or the reverse, is recognized."""
    found, text = mistake(standard(secret_key=SECRET.encode()))
    assert (found, "whole secret string" in text) == (Mistake.SECRET_FORM, True)
    found, text = mistake(timestamped(secret_key=key(SECRET)))
    assert (found, "decoded bytes" in text) == (Mistake.SECRET_FORM, True)
    found, text = mistake(standard(secret_key=CORE.encode()))
    assert (found, "without its prefix" in text) == (Mistake.SECRET_FORM, True)


def test_a_secret_that_is_none_is_named() -> None:
    """A malformed secret that matches in no reading is reported, with the reason."""
    for wrong in ("", "hunter2", "whsec_short", "whsk_" + "A" * 88):
        assert mistake(standard(), secret=wrong)[0] is Mistake.SECRET_MALFORMED


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        (standard(prefix=f"evt_other.{AT}."), None),
        (standard() | {"webhook-id": "evt_other"}, "the body's id"),
        (standard(prefix=f"{AT}."), "without the id"),
        (standard(prefix=""), "the body alone"),
        (
            standard() | {"webhook-timestamp": str(AT + 5), "x-webhook-signature": TIMESTAMPED},
            "t of x-webhook-signature",
        ),
        (timestamped() | {"x-webhook-signature": "sha256=" + timestamped()["x-webhook-signature"][-64:]}, None),
        ({"x-webhook-signature": f"t={AT},v1={HEX}"}, "the body alone"),
        (
            {
                "x-webhook-signature": timestamped()["x-webhook-signature"].partition("v1=")[2],
                "webhook-timestamp": str(AT),
            },
            "timestamp.body",
        ),
    ],
)
def test_signature_of_another_content_is_named(headers: dict[str, str], said: str | None) -> None:
    """A signature over another id, another time or other parts is recognized if the request has them."""
    found, text = mistake(headers)
    if said is None:
        assert found is Mistake.NO_MATCH
    else:
        assert (found, said in text) == (Mistake.OTHER_MESSAGE, True), text


SPACED = json.dumps({"id": "evt_1", "n": [1, 2.5, None], "name": "Zoë"}).encode()
ENVELOPE_WITH_SPACED_DATA = (
    b'{"id":"evt_1","type":"a","timestamp":"t","data":{"b": 1, "a": "\\u00e9"},"organizationId":"o"}'
)


@pytest.mark.parametrize(
    ("original", "arrived", "said"),
    [
        (BODY, json.dumps(json.loads(BODY)).encode(), "parsed and written again"),
        (BODY, json.dumps(json.loads(BODY), indent=2, ensure_ascii=False).encode(), "parsed and written again"),
        (BODY, json.dumps(json.loads(BODY), sort_keys=True).encode(), "parsed and written again"),
        (SPACED, json.dumps(json.loads(SPACED), separators=(",", ":")).encode(), "parsed and written again"),
        (
            ENVELOPE_WITH_SPACED_DATA,
            json.dumps(json.loads(ENVELOPE_WITH_SPACED_DATA), separators=(",", ":")).encode(),
            "parsed and written again",
        ),
        (BODY + b"\n", BODY, "newline at the end"),
        (BODY, BODY + b"\n", "white space was added"),
        (BODY, b"\xef\xbb\xbf" + BODY, "byte order mark"),
        (b'{\n"a":1}', b'{\r\n"a":1}', "changed to CRLF"),
        (b'{\r\n"a":1}', b'{\n"a":1}', "changed to LF"),
        (BODY, base64.b64encode(BODY), "base64"),
        (BODY, BODY.decode("latin-1").encode(), "latin-1"),
        (BODY, json.dumps(BODY.decode()).encode(), "wrapped in a JSON string"),
        (BODY, b"", "the body is empty"),
    ],
)
@pytest.mark.parametrize("sign", [standard, timestamped])
def test_changed_body_is_named(
    sign: Callable[[bytes], dict[str, str]], original: bytes, arrived: bytes, said: str
) -> None:
    """A change of the body is recognized by reversing it."""
    found, text = mistake(sign(original), arrived)
    assert (found, said in text) == (Mistake.BODY_CHANGED, True), text
    assert "raw bytes" in text


def test_changed_body_is_named_for_the_public_key_too() -> None:
    """A body that was serialized again is recognized with the public key too; with a wrong key nothing matches."""
    headers = {"webhook-id": ID, "webhook-timestamp": str(AT), "webhook-signature": WITH_ED25519}
    assert mistake(headers, json.dumps(json.loads(BODY)).encode(), secret=PUBLIC)[0] is Mistake.BODY_CHANGED
    assert mistake(headers, b"{}", secret=PUBLIC)[0] is Mistake.NO_MATCH
    assert mistake(headers, secret="whpk_AAAA")[0] is Mistake.SECRET_MALFORMED
    assert mistake(standard(), secret=PUBLIC)[0] is Mistake.SCHEME


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 900 + b"]" * 900,
        b"[" * 100_000,
        b'{"data":' * 300 + b"1" + b"}" * 300,
        b"9" * 5000,
        b'"' + b'\\"' * 50_000,
    ],
    ids=["lists", "open", "objects", "number", "string"],
)
def test_a_forged_body_costs_no_more_than_its_length(body: bytes) -> None:
    """A body that is expensive to examine, without the secret, is refused like any other."""
    assert mistake(standard(), body)[0] is Mistake.NO_MATCH
    assert mistake(timestamped(), body)[0] is Mistake.NO_MATCH


def test_a_deep_body_is_not_guessed_at() -> None:
    """Serializing JSON takes time for each value and level: beyond 16 levels it is not tried."""
    body = b"[" * 100 + b"1," * 10_000 + b"1" + b"]" * 100
    assert calls(lambda: mistake(standard(), body)) < 2000


def test_parsed_body_is_refused() -> None:
    """A parsed object instead of the body is reported before anything else."""
    with pytest.raises(VerificationError, match="is a dict, already parsed") as caught:
        verify(SECRET, standard(), json.loads(BODY), now=AT)
    assert caught.value.mistake is Mistake.BODY_PARSED


def test_another_webhooks_secret_is_no_match() -> None:
    """If no common mistake explains it, the error says what to check."""
    found, text = mistake(standard(), secret=PREVIOUS)
    assert found is Mistake.NO_MATCH
    assert "another webhook's" in text


@pytest.mark.parametrize("position", range(0, len(BODY), 7))
def test_any_changed_byte_fails(position: int) -> None:
    """A body with one changed bit never verifies, in either scheme."""
    forged = BODY[:position] + bytes([BODY[position] ^ 1]) + BODY[position + 1 :]
    for headers in (standard(), timestamped()):
        assert mistake(headers, forged)[0] is Mistake.NO_MATCH


@given(
    headers=st.dictionaries(
        st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature", "x-webhook-signature"]),
        st.one_of(st.text(max_size=80), st.sampled_from([str(AT), STANDARD, TIMESTAMPED, "v1,", "t=,v1=", "sha256="])),
    ),
    secret=st.one_of(st.text(max_size=40), st.sampled_from([SECRET, PUBLIC, "whsec_", "whpk_"])),
    body=st.one_of(st.binary(max_size=60), st.sampled_from([b"[" * 100_000, b'{"a":' * 5000, b"1" * 5000])),
)
def test_nothing_but_verification_errors_come_of_any_input(headers: dict[str, str], secret: str, body: bytes) -> None:
    """Any input gives this module's error, never another exception, and never a success."""
    with pytest.raises(VerificationError):
        verify(secret, headers, body, now=AT)


def test_published_vectors_verify() -> None:
    """Both published examples verify with each header and form that they list."""
    cases = json.loads((Path(__file__).parent / "vectors.json").read_text())
    for case in cases:
        body, at = case["body"].encode(), case["timestamp"]
        for value in case["expect"]["webhook-signature"].values():
            headers = {"webhook-id": case["id"], "webhook-timestamp": str(at), "webhook-signature": value}
            assert verify(case["secret"], headers, body, now=at).event_id == case["id"]
        for name, value in case["expect"]["x-webhook-signature"].items():
            secret = case["previousSecret"] if name == "hex, rotating" else case["secret"]
            verify(secret, {"x-webhook-signature": value}, body, now=at)


def test_every_mistake_is_documented() -> None:
    """The page for receivers explains each mistake."""
    page = (Path(__file__).parents[1] / "docs" / "receivers.md").read_text()
    for name in Mistake:
        assert f"`{name.value}`" in page
