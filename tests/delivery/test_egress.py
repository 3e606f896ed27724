"""Where webhookd may connect to: the table of cases, agreement with httpx."""

from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest

from webhookd.base.errors import ConfigError, ErrorCode, Rejected
from webhookd.config import EgressConfig
from webhookd.delivery.egress.rules import BlockedError, DialTarget, EgressPolicy

_ESCAPES = {"\\\\": "\\", "\\t": "\t", "\\r": "\r", "\\n": "\n"}


def unescape(text: str) -> str:
    for escaped, plain in _ESCAPES.items():
        text = text.replace(escaped, plain)
    return text


def cases() -> list[tuple[str, list[str], str, str]]:
    lines = (Path(__file__).parents[1] / "egress_cases.tsv").read_text().splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    return [
        (unescape(url), [] if answers == "-" else answers.split(","), verdict, reason)
        for url, answers, verdict, reason in rows
    ]


CASES = cases()
POLICY = EgressPolicy(
    EgressConfig(allow_http=True, ports=(80, 443, 8080, 8443)), own=frozenset({ip_address("20.30.40.50")})
)


class StubResolver:
    """Returns the given addresses, without a lookup."""

    def __init__(self, answers: Sequence[str]) -> None:
        self.answers = answers

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        if not self.answers:
            raise OSError("no such name")
        return self.answers


def verdict(url: str, answers: list[str], policy: EgressPolicy = POLICY) -> tuple[str, DialTarget | None]:
    try:
        target = policy.parse(url)
        policy.check(target, answers)
    except BlockedError:
        return "block", None
    return "allow", target


@pytest.mark.parametrize(("url", "answers", "expected", "reason"), CASES, ids=[f"{c[0][:60]}" for c in CASES])
async def test_each_case_of_the_table(url: str, answers: list[str], expected: str, reason: str) -> None:
    """Every case has its verdict, at saving and at connecting, and an allowed URL means the same to httpx."""
    found, target = verdict(url, answers)
    assert found == expected, reason
    if expected == "block":
        with pytest.raises(Rejected) as refused:
            await POLICY.check_for_saving(url, StubResolver(answers))
        assert refused.value.code is ErrorCode.URL_NOT_ALLOWED
        return
    await POLICY.check_for_saving(url, StubResolver(answers))
    assert target is not None
    agree(url, target)


def agree(url: str, target: DialTarget) -> None:
    """Assert that httpx would dial what we would, and name it the same."""
    theirs = httpx.URL(url)
    host = theirs.raw_host.decode()
    assert (ip_address(host) if ":" in host else host.removesuffix(".")) == (
        target.address if ":" in target.host else target.host
    )
    assert (theirs.port or {"http": 80, "https": 443}[theirs.scheme]) == target.port
    assert (theirs.scheme, theirs.userinfo, theirs.fragment) == (target.scheme, b"", "")


def test_the_table_is_whole() -> None:
    """The table holds both verdicts, so that a policy that refuses or allows everything fails it."""
    assert {case[2] for case in CASES} == {"allow", "block"}
    assert len(CASES) > 100


@pytest.mark.parametrize(
    ("networks", "url", "answers", "expected"),
    [
        (("127.0.0.0/8", "::1/128"), "http://127.0.0.1:8080/", [], "allow"),
        (("127.0.0.0/8", "::1/128"), "http://[::1]:8080/", [], "allow"),
        (("127.0.0.0/8", "::1/128"), "http://localhost:8080/", ["127.0.0.1", "::1"], "allow"),
        (("127.0.0.0/8",), "http://localhost:8080/", ["127.0.0.1", "::1"], "block"),
        (("127.0.0.0/8",), "http://printer.lan/", ["93.184.216.34"], "block"),
        (("10.1.0.0/16",), "http://receiver.internal/", ["10.1.2.3"], "allow"),
        (("10.1.0.0/16",), "http://receiver.internal/", ["10.2.2.3"], "block"),
        (("20.30.40.0/24",), "http://20.30.40.50/", [], "allow"),
        ((), "http://localhost:8080/", ["127.0.0.1"], "block"),
    ],
)
def test_the_operators_networks_win(networks: tuple[str, ...], url: str, answers: list[str], expected: str) -> None:
    """Allowed networks override the refused ranges and, for names with all addresses in them, the rules for names."""
    config = EgressConfig(allow_http=True, ports=(80, 8080), allow_networks=networks)
    policy = EgressPolicy(config, own=frozenset({ip_address("20.30.40.50")}))
    assert verdict(url, answers, policy)[0] == expected


def test_plain_http_and_other_ports_need_the_operator() -> None:
    """By default only https to 443 and 8443 is dialled; with `ports = []` any but another protocol's."""
    default, any_port = EgressPolicy(EgressConfig()), EgressPolicy(EgressConfig(ports=()))
    assert verdict("http://good.example.com/", ["1.1.1.1"], default)[0] == "block"
    assert verdict("https://good.example.com:8443/", ["1.1.1.1"], default)[0] == "allow"
    assert verdict("https://good.example.com:9000/", ["1.1.1.1"], default)[0] == "block"
    assert verdict("https://good.example.com:9000/", ["1.1.1.1"], any_port)[0] == "allow"
    assert verdict("https://good.example.com:6667/", ["1.1.1.1"], any_port)[0] == "block"


async def test_a_name_that_does_not_resolve_can_be_saved() -> None:
    """A name that doesn't resolve yet is accepted; with a proxy no name is resolved."""
    await EgressPolicy(EgressConfig()).check_for_saving("https://soon.example.com/", StubResolver(()))
    behind = EgressPolicy(EgressConfig(proxy="http://proxy.example:3128"))
    await behind.check_for_saving("https://good.example.com/", StubResolver(["127.0.0.1"]))
    with pytest.raises(Rejected):
        await behind.check_for_saving("https://127.0.0.1/", StubResolver(()))


def test_what_is_sent_of_a_url_is_ascii() -> None:
    """Path and query keep their escapes, everything else that isn't plain is escaped as UTF-8."""
    target = POLICY.parse('https://good.example.com/a%2Fb/ü"<>{}?q=é&x=[1]|^`')
    assert target.raw == "/a%2Fb/%C3%BC%22%3C%3E%7B%7D?q=%C3%A9&x=[1]%7C%5E%60"
    assert POLICY.parse("https://good.example.com?a=1").raw == "/?a=1"
    assert POLICY.parse("https://good.example.com:8443/").authority == "good.example.com:8443"
    assert POLICY.parse("http://[2606:4700:4700::1111]:8080/").authority == "[2606:4700:4700::1111]:8080"


def test_networks_that_are_none_are_refused() -> None:
    """A typo in allow_networks stops the start."""
    with pytest.raises(ConfigError, match=r"egress\.allow_networks"):
        EgressPolicy(EgressConfig(allow_networks=("10.0.0.1/8",)))
