"""Parsing URLs: one that two parsers could read differently is refused; an allowed one means the same to httpx."""

import re

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from tests.delivery.test_egress import agree, verdict
from webhookd.config import EgressConfig
from webhookd.delivery.egress.rules import MAX_ANSWERS, MAX_DIALED, BlockedError, EgressPolicy

PUBLIC = ["93.184.216.34"]
ANY_PORT = EgressPolicy(EgressConfig(allow_http=True, ports=()))
GOOD = "good.example.com"
LONG = ".".join(["a" * 63] * 3) + "." + "b" * 61  # 253 characters

REFUSED: dict[str, list[str]] = {
    "a scheme that isn't HTTP's, or none": [
        f"ftp://{GOOD}/",
        f"ws://{GOOD}/",
        "file:///etc/passwd",
        f"https+x://{GOOD}/",
        f"//{GOOD}/",
        f"/{GOOD}/",
        GOOD,
        f"https:{GOOD}",
        f"https:/{GOOD}/",
        f"https:///{GOOD}/",
        f"https:////{GOOD}/",
        f"://{GOOD}/",
        f"1https://{GOOD}/",
        f"ｈttps://{GOOD}/",
        f"https：//{GOOD}/",
        f"\ufeffhttps://{GOOD}/",
        "",
        "https://",
        "https:///",
        "https://?x",
    ],
    "white space and controls, wherever they stand": [
        *(f"https://{GOOD}/{character}" for character in "\x00\x01\x08\t\n\x0b\x0c\r\x1b\x1f \x7f\x80\x85\x9f\xa0"),
        *(f"https://{GOOD}/{character}" for character in "\u2028\u2029\u3000\u2003\u1680\u202f\u205f"),
        f" https://{GOOD}/",
        f"https://{GOOD}/ ",
        f"ht\ntps://{GOOD}/",
        f"https://{GOOD}\n.evil.example/",
        f"https://{GOOD}/\ud800",
        f"https://{GOOD}/?\udfff",
    ],
    "backslashes": [
        f"https:\\\\{GOOD}/",
        f"https://{GOOD}\\@127.0.0.1/",
        f"https://127.0.0.1\\.{GOOD}/",
        f"https://{GOOD}/a\\b",
        f"https://{GOOD}/?\\",
    ],
    "a user, a password, or an @ before the path": [
        f"https://user@{GOOD}/",
        f"https://@{GOOD}/",
        f"https://:@{GOOD}/",
        f"https://a@b@{GOOD}/",
        f"https://{GOOD}@/",
        f"https://{GOOD}%40127.0.0.1/",
        f"https://{GOOD}:443@127.0.0.1/",
        f"https://[::1]@{GOOD}/",
        f"https://{GOOD}＠127.0.0.1/",
    ],
    "fragments": [f"https://{GOOD}/#", f"https://{GOOD}#x", f"https://{GOOD}#@127.0.0.1/", f"https://{GOOD}/?a#b"],
    "ports": [
        f"https://{GOOD}:{port}/"
        for port in (
            *("", "0", "00", "00443", "0443", "65536", "99999", "443443", "4294967739", "-1", "+443", "4e2", "0x1bb"),
            *("443.0", "443,80", "44３", "４４３", "٤٤٣", "443:80", ":443", "443%20", "443;", "four", "1_000"),
        )
    ],
    "ports of other protocols": [
        f"http://{GOOD}:{port}/" for port in (1, 21, 22, 23, 25, 53, 110, 143, 389, 465, 587, 2049, 4190, 6000, 6667)
    ]
    + [f"http://{GOOD}:{port}/" for port in (6697, 10080, 5060, 5061, 993, 995, 1719, 6566, 6679)],
    "a host in percents": [
        "https://%67ood.example.com/",
        f"https://{GOOD}%2e/",
        f"https://{GOOD}%00/",
        f"https://{GOOD}%0d%0a/",
        "https://%/",
        "https://127%2e0%2e0%2e1/",
        "https://good%E3%80%82example.com/",
        "https://%5B::1%5D/",
    ],
    "labels that are none": [
        "https://./",
        "https://../",
        f"https://.{GOOD}/",
        f"https://{GOOD}../",
        "https://good..example.com/",
        "https://-good.example.com/",
        "https://good-.example.com/",
        "https://good.-.example.com/",
        "https://good.example.com-/",
        *(f"https://go{character}od.example.com/" for character in "!\"$&'()*+,;<=>^`{|}~[]"),
        f"https://{'a' * 64}.example.com/",
        f"https://{LONG}c/",
        f"https://{LONG}.c/",
        f"https://{'.'.join(['ü' * 40] * 6)}.example.com/",  # 253 in its own script, more on the wire
        f"https://{'ü' * 60}.example.com/",
    ],
    "numbers that are no dotted quad": [
        f"http://{host}/"
        for host in (
            *("1", "127.1", "127.0.1", "0x7f000001", "0x7f.0.0.1", "0X7F.0.0.1", "017700000001", "0177.0.0.1"),
            *("2130706433", "4294967296", "1.1.1", "1.1.1.1.1", "1.1.1.256", "1.1.1.01", "01.1.1.1", "1.1.1.0x1"),
            *("1..1.1.1", "1.1.1.-1", "good.example.1", "good.example.0x", "good.example.0xdead"),
            *(
                "good.example.09",
                "good.example.1.",
                "1.1.1.1..",
                "١٢٧.٠.٠.١",
                "१२७.०.०.१",
                "good.example.१",
                "１.1.1.1",
            ),
            *("①.1.1.1", "1。1。1。1", "1.1.1.1.xn--e4b", "00000001.1.1.1", "1.1.1.1\u200b", "good.example.0X7F"),
        )
    ],
    "brackets": [
        f"http://{host}/"
        for host in (
            *("[]", "[", "]", "[::1", "::1]", "::1", "2606:4700:4700::1111", "[2606:4700:4700::1111]x", "[1.1.1.1]"),
            *("[2606:4700:4700::1111].", "[2606:4700:4700::1111].example.com", "[2606:4700:4700::1111%25eth0]"),
            *("[2606:4700:4700::1111%eth0]", "[2606:4700:4700::1111%]", "[2606:4700:4700::11111]", "[v1.a]"),
            *("[2606:4700:4700:::1111]", "[2606:4700::4700::1111]", "[2606:4700:4700:0:0:0:0:0:1111]", "[good.com]"),
            *("[[2606:4700:4700::1111]]", "[2606:4700:4700::1111]]", "[2606:4700:4700::1111/128]", "[::ffff:1.1.1.1]"),
            *("[2606:4700:4700::1.1.1.01]", "[2606:4700:4700::1.1.1]", "[２606:4700:4700::1111]", "[0x2606::1]"),
            *("x[2606:4700:4700::1111]", "[2606:4700:4700::1111]:", "[2606:4700:4700::1111]:0", "[::FFFF:7F00:1]"),
        )
    ],
    "IDNA 2008 with no mapping but to small letters": [
        f"https://{host}/"
        for host in (
            *("münchen。example.com", "münchen．example.com"),
            *("münchen｡example.com", "good。example。com", "\u212aelvin.example.com", "te\u017ft.example.com"),
            *("İstanbul.example.com", "ΟΔΟΣ.example.com", "\u212bngström.example.com", "ＭÜNCHEN.example.com"),
            *("\u01c5.example.com", "Ⅷ.example.com", "Ⓐ.example.com", "MÜNCHEN\u212a.example.com"),
            *("mu\u0308nchen.example.com", "ﬁne.example.com", "exam\u00adple.com", "exam\u200bple.com"),
            *("exam\u200dple.com", "exam\u200cple.com", "\u2060good.example.com", "good\ufeff.example.com"),
            *("good\u202e.example.com", "ⅼocalhost", "ⅼocal.ⅼan", "good.exampl℮", "☃.example.com", "💩.example.com"),
            *(
                "½.example.com",
                "a‥b.example.com",
                "good.example.ｃom",
                "ü_.example.com",
                "_.münchen.com",
                "ab--c.münchen.com",
                "-ü.example.com",
                "ü-.com",
            ),
            *("üa--b.example.com", "ab--ü.example.com", "\u0300a.example.com", "אa.example.com", "٠א1.example.com"),
            *("xn--.example.com", "xn--a.example.com", "xn---.example.com", "xn--a-.example.com", "xn--abc.example"),
            *("xn--good-.example.com", "xn--xn--a-.example.com", "xn--mnchen-3y.example.com", "xn--MNCHEN-3Y.com"),
            *("xn--0.example.com", "xn--99999999.example.com", "xn--good-9ya", "xn--mnchen-3ya-.com", "xn--a_b.com"),
            *("xn--localhost-.com", "xn--fiqs8s\u200d.com", "xn--ls8h.example.com", "xn--n3h.example.com"),
            *("xn--tda" + "a" * 70 + ".com", "\u3164.com", "ᅠ.com"),
        )
    ],
    "names of internal networks": [
        f"http://{host}/"
        for host in (
            *("localhost", "LOCALHOST", "localhost.", "a.localhost", "a.b.LocalHost.", "printer", "printer.", "_"),
            *("xn--mnchen-3ya", "münchen", "a.local", "a.internal", "a.localdomain", "a.lan", "a.home", "a.corp"),
            *("a.intranet", "1.0.0.127.in-addr.arpa", "a.home.arpa", "a.onion", "a.invalid", "a.test", "a.TEST."),
        )
    ],
    "addresses that are not public": [
        f"http://{host}/"
        for host in (
            *("127.0.0.1.", "10.255.255.255", "0.255.255.255", "100.127.255.255", "172.16.0.0", "192.0.0.9"),
            *("192.88.99.1", "198.19.255.255", "198.51.100.7", "168.63.129.16", "239.1.1.1", "255.255.255.255"),
            *("[::1]", "[0:0:0:0:0:0:0:1]", "[::127.0.0.1]", "[fe80::1]", "[fec0::1]", "[FD00::1]", "[1fff::1]"),
            *("[2001:1ff::1]", "[2001:0db8:0000::1]", "[2002:7f00:1::]", "[3fff:fff::1]", "[5f00::1]", "[64:ff9b::1]"),
            *("[::ffff:0:127.0.0.1]", "[2620:4f:8000:ffff::1]", "[2002::]", "[100:0:0:1::1]", "[fd00:ec2::254]"),
        )
    ],
}

ALLOWED: dict[str, str] = {
    f"https://{GOOD}": f"{GOOD}:443",
    f"HTTPS://{GOOD}/": f"{GOOD}:443",
    f"hTTp://{GOOD}/": f"{GOOD}:80",
    f"http://{GOOD}:443/": f"{GOOD}:443",
    f"https://{GOOD}:80/": f"{GOOD}:80",
    f"https://{GOOD}:65535/": f"{GOOD}:65535",
    f"https://{GOOD}:90?x": f"{GOOD}:90",
    "https://GOOD.Example.COM/": f"{GOOD}:443",
    f"https://{GOOD}.:8443/": f"{GOOD}:8443",
    f"https://{GOOD}?@127.0.0.1/": f"{GOOD}:443",
    f"https://{GOOD}/@127.0.0.1:22/": f"{GOOD}:443",
    f"https://{GOOD}//127.0.0.1/": f"{GOOD}:443",
    f"https://{GOOD}/../../etc": f"{GOOD}:443",
    f"https://{GOOD}/%00%0d%0a%zz": f"{GOOD}:443",
    f"https://{GOOD}/ü/\u200b?é=1&x=http://localhost:22": f"{GOOD}:443",
    f"https://{LONG}/": f"{LONG}:443",
    f"https://{LONG}./": f"{LONG}:443",
    f"https://{'a' * 63}.example.com/": f"{'a' * 63}.example.com:443",
    "https://a_b._c.d-e.example.com/": "a_b._c.d-e.example.com:443",
    "https://_._/": "_._:443",
    "https://a.b/": "a.b:443",
    "https://r3---sn-4g5e.example.com/": "r3---sn-4g5e.example.com:443",
    "https://1.1.1.1e0/": "1.1.1.1e0:443",
    "https://1.2.3.4.example/": "1.2.3.4.example:443",
    "https://0x7f.0.0.1.example.com/": "0x7f.0.0.1.example.com:443",
    "https://localhost.example.com/": "localhost.example.com:443",
    "https://test.internal.example.com/": "test.internal.example.com:443",
    "https://a.mylocal/": "a.mylocal:443",
    "https://arpa.example/": "arpa.example:443",
    "https://münchen.example.com/": "xn--mnchen-3ya.example.com:443",
    "https://MÜNCHEN.example.com/": "xn--mnchen-3ya.example.com:443",
    "https://Münich.EXAMPLE.com/": "xn--mnich-kva.example.com:443",
    "https://ΣΊΓΜΑΤΑ.example.com/": "xn--kxaeag9bzbl.example.com:443",
    "https://ÅLESUND.example/": "xn--lesund-hua.example:443",
    "https://ДОМЕН.example/": "xn--d1acufc.example:443",
    "https://GOOD.münchen.Example/": "good.xn--mnchen-3ya.example:443",
    "https://XN--MNCHEN-3YA.example.com/": "xn--mnchen-3ya.example.com:443",
    "https://faß.example.com/": "xn--fa-hia.example.com:443",
    "https://ςίγμας.example.com/": "xn--kxaef0b1ae.example.com:443",
    "https://例え.example/": "xn--r8jz45g.example:443",
    "https://例え.xn--zckzah/": "xn--r8jz45g.xn--zckzah:443",
    "https://עברית.example/": "xn--5dbqzzl.example:443",
    "https://col·lega.example/": "xn--collega-xma.example:443",
    "https://1.1.1.1/": "1.1.1.1:443",
    "https://1.1.1.1./": "1.1.1.1:443",
    "http://8.8.8.8:8080/": "8.8.8.8:8080",
    "http://223.255.255.255/": "223.255.255.255:80",
    "http://[2606:4700:4700::1111]:8080/": "2606:4700:4700::1111:8080",
    "http://[2606:4700:4700:0:0:0:0:1111]/": "2606:4700:4700::1111:80",
    "http://[2A00:1450:4001:0827:0000:0000:0000:200E]/": "2a00:1450:4001:827::200e:80",
    "http://[2606:4700:4700::1.1.1.1]/": "2606:4700:4700::101:101:80",
    "http://[2000::]/": "2000:::80",
    "http://[3ffe:ffff::1]/": "3ffe:ffff::1:80",
    f"https://{GOOD}/{'a' * (2048 - len(GOOD) - 9)}": f"{GOOD}:443",
}


@pytest.mark.parametrize("trick", REFUSED)
def test_a_trick_is_refused(trick: str) -> None:
    """However it is spelled, an ambiguous URL, or one of an internal address, is refused."""
    assert [url for url in REFUSED[trick] if verdict(url, PUBLIC, ANY_PORT)[0] != "block"] == []


@pytest.mark.parametrize(("url", "place"), ALLOWED.items(), ids=lambda text: text[:60])
def test_an_honest_url_is_allowed(url: str, place: str) -> None:
    """An unambiguous URL of a public address is allowed, and has the same target in httpx."""
    found, target = verdict(url, PUBLIC, ANY_PORT)
    assert found == "allow"
    assert target is not None
    assert f"{target.host}:{target.port}" == place
    agree(url, target)


_HONEST_LABELS = st.one_of(
    st.from_regex(re.compile(r"[a-zA-Z0-9_]([a-z0-9_-]{0,20}[A-Za-z0-9_])?", re.ASCII), fullmatch=True),
    st.sampled_from(["Good", "münchen", "faß", "例え", "עברית", "xn--mnchen-3ya", "XN--FA-HIA", "a" * 63, "col·lega"]),
    st.text(st.characters(categories=["Ll", "Lo"]), min_size=1, max_size=4),
)
_LABELS = st.one_of(
    _HONEST_LABELS,
    st.text(st.characters(categories=["Ll", "Lo", "Nd", "Mn", "Mc"]), min_size=1, max_size=8),
    st.from_regex(re.compile(r"xn--[a-z0-9-]{1,12}"), fullmatch=True),
    st.sampled_from(["1", "127", "0x7f", "0177", "", "-", "a-", "localhost", "K", "ﬁ", "%41", "ⅼ", "a\u200db", "a。b"]),
)
_HONEST_HOSTS = st.one_of(
    st.lists(_HONEST_LABELS, min_size=1, max_size=3).map(lambda labels: ".".join([*labels, "com"])),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6, network="2600::/12").map(lambda address: f"[{address}]"),
    st.ip_addresses(v=6, network="2600::/12").map(lambda address: f"[{address.exploded.upper()}]"),
)
_HOSTS = st.one_of(st.lists(_LABELS, min_size=1, max_size=5).map(".".join), st.ip_addresses(v=6).map("[{}]".format))
_HONEST = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["http", "https", "HTTPS", "hTtP"]),
    _HONEST_HOSTS,
    st.sampled_from(["", "", ".", ":443", ":1024", ":65535", ".:8080"]),
    st.sampled_from(["", "/", "/a?b=c", "?x", "/ü%41%zz", "/..//@:80", "/a;b,c:1@127.0.0.1", "?/\u200b"]),
)
_PLAUSIBLE = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["http", "https", "HTTPS", "hTtP"]),
    _HONEST_HOSTS | _HOSTS,
    st.sampled_from(["", "", ".", ":443", ":1024", ":65535", ":0", ":08", ":", ".:8080", "@a.com", ":80@b.com"]),
    st.sampled_from(
        ["", "/", "/a?b=c", "?x", "/ü%41%zz", "/..//@:80", "#", "/ ", "/\\", "/a;b,c:1@127.0.0.1", "\ud800"]
    ),
)
_WORDS = "http:// https:// a 1.1.1.1 [::1] [2606:4700::1] .com . @ : 80 / ? # %41 \\ xn-- ü ß １ 0x7f - _ localhost [ ]"
_PIECES = st.sampled_from([*_WORDS.split(), "\u200b", "\t", " ", "。", "K", "İ", "ſ"])


@settings(max_examples=1200, suppress_health_check=[HealthCheck.too_slow])
@given(_HONEST | _PLAUSIBLE | st.lists(_PIECES, max_size=9).map("".join) | st.text(max_size=40).map("https://".__add__))
@example("https://" + "ü" * 60 + ".com/")
@example("https://\u212aelvin.example.com/")
def test_what_is_allowed_means_the_same_to_httpx(url: str) -> None:
    """Any text is refused, or has the host and port that httpx would dial."""
    found, target = verdict(url, PUBLIC, ANY_PORT)
    event(found)
    if found == "allow":
        assert target is not None
        agree(url, target)
        assert target.host.isascii()
        assert target.raw.isascii()


@given(_HONEST | _PLAUSIBLE, st.integers(0, 60), st.sampled_from("/?#@:\\.[]%\t\u200b。-_~a1ü"))
def test_a_changed_character_breaks_nothing(url: str, at: int, character: str) -> None:
    """With one more character a plausible URL is refused, or has the same target in httpx."""
    changed = url[:at] + character + url[at:]
    found, target = verdict(changed, PUBLIC, ANY_PORT)
    if found == "allow":
        assert target is not None
        agree(changed, target)


def test_many_answers_are_all_checked_and_few_dialled() -> None:
    """All of 256 answers are checked, and no more are dialled than the deadline has time for.

    A name of more is refused: somebody has made it so, and looking at each keeps the loop.
    """
    target = ANY_PORT.parse(f"https://{GOOD}/")
    answers = [f"9.{number >> 8}.{number & 255}.1" for number in range(MAX_ANSWERS)]
    assert [str(address) for address in ANY_PORT.check(target, answers)] == answers[:MAX_DIALED]
    assert verdict(f"https://{GOOD}/", [*answers[1:], "10.0.0.1"], ANY_PORT)[0] == "block"
    with pytest.raises(BlockedError, match="257 addresses"):
        ANY_PORT.check(target, [*answers, "9.9.9.9"])
