"""Custom headers of a webhook: what may be set, what is reserved, and that a request carries each name once."""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.samples import endpoint
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import Credentials, Message, SignatureChoice, SignatureForm
from webhookd.base.secret import Secret
from webhookd.delivery import custom_headers
from webhookd.delivery.custom_headers import MOST_BYTES, RESERVED, as_stored, check, reserved, sent
from webhookd.delivery.request import Receiver, compose
from webhookd.delivery.signing import generate_secret

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CONTRACT = Path(__file__).parents[2] / "docs" / "contract.md"


@pytest.mark.parametrize(
    "headers",
    [
        {"": "x"},
        {"a b": "x"},
        {"a:b": "x"},
        {"ü": "x"},
        {"\u212a": "x"},
        {"a/b": "x"},
        {"a\x00": "x"},
        {"a\n": "x"},
        {"X-A": "a\r\nX-B: c"},
        {"X-A": "a\x00"},
        {"X-A": "\t"},
        {"X-A": "é"},
        {"X-A": " a"},
        {"X-A": "a "},
        {"X-A": "1", "x-a": "2"},
        {"X_a": "1", "x_A": "2"},
        {f"X-{number}": "x" for number in range(33)},
        {"X-A": "a" * (MOST_BYTES - 2)},
        {"X" * (MOST_BYTES + 1): ""},
        {"X-A": "a" * 4100, "X-B": "b" * 4100},
    ],
    ids=lambda headers: next(iter(headers))[:12],
)
def test_headers_that_must_not_be_sent(headers: dict[str, str]) -> None:
    """Invalid names, smuggled headers, duplicates and too large headers are refused, each with its pointer."""
    with pytest.raises(Rejected) as refused:
        check(headers)
    assert refused.value.code is ErrorCode.VALIDATION_ERROR
    assert refused.value.errors[0][0].startswith("/headers")


def test_too_many_headers_are_one_mistake() -> None:
    """For a thousand headers the error is their number, without the errors of each."""
    with pytest.raises(Rejected) as refused:
        check({f"no token {number}": "" for number in range(1000)})
    assert refused.value.errors == (("/headers", "at most 32 headers, and these are 1000"),)


@pytest.mark.parametrize(
    "headers", [{"no token " * 5000: "x"}, {"content-" * 5000: "x"}, {"X-A" * 2500: "", "x-a" * 2500: ""}]
)
def test_a_name_without_end_is_told_in_short(headers: dict[str, str]) -> None:
    """An error about a very long name shows only its beginning."""
    with pytest.raises(Rejected) as refused:
        check(headers)
    told = [refused.value.detail, *(part for error in refused.value.errors for part in error)]
    assert sum(len(part) for part in told) < 1000


def test_a_patchs_name_without_end_is_told_in_short() -> None:
    """A patch that gives a name of any length twice gets an error of one line."""
    with pytest.raises(Rejected, match="counts without regard to case") as refused:
        as_stored({"X-A" * 2500: "", "x-a" * 2500: ""}, ())
    assert len(refused.value.detail) < 500


def spellings(name: str) -> Iterator[str]:
    yield from (name, name.upper(), name.title(), name.replace("-", "_"), name.upper().replace("-", "_"))


def test_reserved_names_are_refused_however_they_are_spelled() -> None:
    """Each reserved name and beginning is refused in any case, and with the underscores that CGI makes of it."""
    names = [name for each in RESERVED for name in (*each.names, *(f"{start}x" for start in each.beginnings))]
    for name in names:
        for spelled in spellings(name):
            with pytest.raises(Rejected, match="reserved"):
                check({spelled: "x"})
    assert {"proxy", "traceparent", "tracestate", "host"} <= set(names)


def test_ordinary_headers_are_taken() -> None:
    """Up to 32 headers of 8 KiB in all are accepted; names are tokens, underscores included."""
    check({f"X-Token-{number}": "Bearer abc~!" for number in range(31)} | {"Authorization": ""})
    check({"Authorization": "Bearer " + "j" * 1500})
    check({"X-A": "a" * (MOST_BYTES - 3)})
    check({"api_key": "x", "X!#$%&'*+.^_`|~-9": "x", "Proxies": "x", "Hosts": "x", "X-Content-Kind": "x"})


def test_the_contract_lists_what_is_reserved() -> None:
    """The table in the contract and `RESERVED` are the same."""
    section = CONTRACT.read_text().partition("| reserved header | why |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
    told = {why.strip(): set(re.findall("`([^`]+)`", names)) for names, why in rows}
    assert told == {each.reason: {*each.names, *(f"{start}*" for start in each.beginnings)} for each in RESERVED}


@pytest.mark.parametrize("form", SignatureForm)
def test_a_request_carries_each_name_once(form: SignatureForm) -> None:
    """A header that was saved before its name was reserved isn't sent, but webhookd's own is."""
    saved = ("Traceparent", "X_Webhook_Event", "Proxy", "Content-type", "Webhook-Signature", "X-Api-Key")
    credentials = Credentials(
        secret=Secret(generate_secret()),
        previous_secret=None,
        previous_expires_at=None,
        ed25519_secret=None,
        headers=tuple((name, Secret("theirs")) for name in saved),
    )
    choice = SignatureChoice(form=form, ed25519=False)
    receiver = Receiver(msgspec.structs.replace(endpoint(), signature=choice), credentials)
    message = Message(event_id="evt_1", type="user.created", organization_id=None, traceparent=TRACEPARENT, body=b"{}")
    headers = compose(receiver=receiver, message=message, delivery_id="dlv_1", number=1, sequence=1, at=0.0)
    names = [name.lower().replace("_", "-") for name, _ in headers]
    assert len(set(names)) == len(names)
    assert [name for name, value in headers if value == "theirs"] == ["X-Api-Key"]
    own = [name for name, value in headers if value != "theirs"]
    assert all(reserved(name) is not None for name in own), "webhookd sends a header that isn't reserved"


def test_names_are_compared_without_regard_to_case() -> None:
    """A patch reaches a header under any spelling, keeps the stored one, and takes no letter for another alphabet's."""
    stored = ("X-A", "Api_Key", "K")
    assert as_stored({"x-a": None, "API_KEY": "1"}, stored) == {"X-A": None, "Api_Key": "1"}
    assert as_stored({"x_a": "1", "x-b": "2"}, stored) == {"x_a": "1", "x-b": "2"}
    assert as_stored({"\u212a": "1"}, stored) == {"\u212a": "1"}
    for given in ({"X-A": None, "x-a": "2"}, {"new": "1", "NEW": "1"}):
        with pytest.raises(Rejected, match="without regard to case"):
            as_stored(given, stored)


def test_what_is_not_sent_is_left_out() -> None:
    """The rest keeps its order."""
    assert sent([("X-A", 1), ("Proxy", 2), ("x-b", 3)]) == (("X-A", 1), ("x-b", 3))
    assert custom_headers.folded("X-Ä") == "X-Ä"
