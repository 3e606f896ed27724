"""Which addresses may be dialled: a million of them against a table read from IANA's registries."""

import random
from bisect import bisect_right
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from tests.long import long
from webhookd.config import EgressConfig
from webhookd.delivery.egress.addresses import is_public
from webhookd.delivery.egress.rules import BlockedError, EgressPolicy

# https://www.iana.org/assignments/iana-ipv4-special-registry: every block, whether or not it is reachable globally,
# since none of them is anybody's receiver.
SPECIAL_IPV4 = {
    "0.0.0.0/8": "this network, RFC 791",
    "0.0.0.0/32": "this host, RFC 1122",
    "10.0.0.0/8": "private use, RFC 1918",
    "100.64.0.0/10": "shared address space, RFC 6598",
    "127.0.0.0/8": "loopback, RFC 1122",
    "169.254.0.0/16": "link local, RFC 3927",
    "172.16.0.0/12": "private use, RFC 1918",
    "192.0.0.0/24": "IETF protocol assignments, RFC 6890",
    "192.0.0.0/29": "IPv4 service continuity prefix, RFC 7335",
    "192.0.0.8/32": "IPv4 dummy address, RFC 7600",
    "192.0.0.9/32": "Port Control Protocol anycast, RFC 7723",
    "192.0.0.10/32": "TURN anycast, RFC 8155",
    "192.0.0.170/32": "NAT64 discovery, RFC 8880",
    "192.0.0.171/32": "NAT64 discovery, RFC 8880",
    "192.0.2.0/24": "documentation, RFC 5737",
    "192.31.196.0/24": "AS112-v4, RFC 7535",
    "192.52.193.0/24": "AMT, RFC 7450",
    "192.88.99.0/24": "6to4 relay anycast, RFC 7526",
    "192.88.99.2/32": "6a44 relay anycast, RFC 6751",
    "192.168.0.0/16": "private use, RFC 1918",
    "192.175.48.0/24": "direct delegation AS112 service, RFC 7534",
    "198.18.0.0/15": "benchmarking, RFC 2544",
    "198.51.100.0/24": "documentation, RFC 5737",
    "203.0.113.0/24": "documentation, RFC 5737",
    "240.0.0.0/4": "reserved, RFC 1112",
    "255.255.255.255/32": "limited broadcast, RFC 919",
    # https://www.iana.org/assignments/multicast-addresses
    "224.0.0.0/4": "multicast, RFC 5771",
}
# https://www.iana.org/assignments/iana-ipv6-special-registry
SPECIAL_IPV6 = {
    "::1/128": "loopback, RFC 4291",
    "::/128": "unspecified, RFC 4291",
    "::ffff:0:0/96": "IPv4-mapped, RFC 4291",
    "64:ff9b::/96": "IPv4-IPv6 translation, RFC 6052",
    "64:ff9b:1::/48": "IPv4-IPv6 translation, RFC 8215",
    "100::/64": "discard-only, RFC 6666",
    "100:0:0:1::/64": "dummy prefix, RFC 9780",
    "2001::/23": "IETF protocol assignments, RFC 2928",
    "2001::/32": "Teredo, RFC 4380",
    "2001:1::1/128": "Port Control Protocol anycast, RFC 7723",
    "2001:1::2/128": "TURN anycast, RFC 8155",
    "2001:1::3/128": "DNS-SD service registration anycast, RFC 9665",
    "2001:2::/48": "benchmarking, RFC 5180",
    "2001:3::/32": "AMT, RFC 7450",
    "2001:4:112::/48": "AS112-v6, RFC 7535",
    "2001:10::/28": "ORCHID, RFC 4843",
    "2001:20::/28": "ORCHIDv2, RFC 7343",
    "2001:30::/28": "drone remote identification, RFC 9374",
    "2001:db8::/32": "documentation, RFC 3849",
    "2002::/16": "6to4, RFC 3056",
    "2620:4f:8000::/48": "direct delegation AS112 service, RFC 7534",
    "3fff::/20": "documentation, RFC 9637",
    "5f00::/16": "segment routing identifiers, RFC 9602",
    "fc00::/7": "unique local, RFC 4193",
    "fe80::/10": "link local, RFC 4291",
    # https://www.iana.org/assignments/ipv6-address-space: what was never, or is no longer, for unicast
    "::/8": "reserved, RFC 4291",
    "100::/8": "reserved, RFC 4291",
    "200::/7": "reserved, RFC 4048",
    "400::/6": "reserved, RFC 4291",
    "800::/5": "reserved, RFC 4291",
    "1000::/4": "reserved, RFC 4291",
    "4000::/3": "reserved, RFC 4291",
    "6000::/3": "reserved, RFC 4291",
    "8000::/3": "reserved, RFC 4291",
    "a000::/3": "reserved, RFC 4291",
    "c000::/3": "reserved, RFC 4291",
    "e000::/4": "reserved, RFC 4291",
    "f000::/5": "reserved, RFC 4291",
    "f800::/6": "reserved, RFC 4291",
    "fe00::/9": "reserved, RFC 4291",
    "fec0::/10": "site local, RFC 3879",
    "ff00::/8": "multicast, RFC 4291",
}
# What no registry knows.
EXTRA_IPV4 = {"168.63.129.16/32": "Azure's own services"}
PYTHONS_NAMES = ("is_private", "is_reserved", "is_multicast", "is_loopback", "is_link_local", "is_unspecified")
OWN = ("20.30.40.50", "2606:4700::50")

Range = tuple[int, int]


def merged(blocks: list[str]) -> list[Range]:
    """Return the blocks' first and last numbers, in order and without overlaps."""
    ranges = sorted((int(network[0]), int(network[-1])) for network in map(ip_network, blocks))
    joined: list[Range] = []
    for first, last in ranges:
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined


REFUSED = {
    4: merged([*SPECIAL_IPV4, *EXTRA_IPV4, f"{OWN[0]}/32"]),
    6: merged([*SPECIAL_IPV6, f"{OWN[1]}/128"]),
}


def numbers(version: int, count: int, chance: random.Random) -> Iterator[int]:
    """Return addresses: each border and its neighbours, then as many near a border as anywhere."""
    bits = 32 if version == 4 else 128
    borders = [border for first, last in REFUSED[version] for border in (first, last)]
    blocks = (SPECIAL_IPV4 | EXTRA_IPV4) if version == 4 else SPECIAL_IPV6
    for network in map(ip_network, blocks):
        borders += [int(network[0]), int(network[-1])]
    top = (1 << bits) - 1
    for border in borders:
        yield from (number for number in range(border - 2, border + 3) if 0 <= number <= top)
    for at in range(count):
        if at % 2:
            yield chance.getrandbits(bits)
        else:
            near = chance.choice(borders) + chance.randint(-1, 1) * chance.getrandbits(chance.randrange(bits - 3))
            yield near & top


@pytest.mark.parametrize(
    ("version", "count"), long([(4, 50_000), (6, 50_000), (4, 500_000), (6, 500_000)], lambda row: row[1] > 50_000)
)
def test_addresses_of_each_kind_agree_with_the_registries(version: int, count: int) -> None:
    """What the registries call special, the policy's own extras and own addresses are refused, and nothing else."""
    policy = EgressPolicy(EgressConfig(), own=frozenset(map(ip_address, OWN)))
    kind = IPv4Address if version == 4 else IPv6Address
    ranges = REFUSED[version]
    firsts = [first for first, _ in ranges]
    tally = {True: 0, False: 0}
    differing = []
    for number in numbers(version, count, random.Random(20_250_115 + version)):  # noqa: S311 - a test's dice
        at = bisect_right(firsts, number) - 1
        expected = at < 0 or number > ranges[at][1]
        try:
            policy.check_address(kind(number))
            found = True
        except BlockedError:
            found = False
        tally[found] += 1
        if found is not expected:
            differing.append(str(kind(number)))
    assert not differing, differing[:20]
    assert min(tally.values()) > count / 10  # both verdicts were asked for often enough to mean something


def test_what_python_calls_private_is_refused() -> None:
    """Python's own reading of the registries never calls an allowed address private, reserved or the like."""
    chance = random.Random(7)  # noqa: S311 - a test's dice
    for version, kind in ((4, IPv4Address), (6, IPv6Address)):
        for number in numbers(version, 20_000, chance):
            address = kind(number)
            if is_public(address):
                named = [name for name in PYTHONS_NAMES if getattr(address, name)]
                assert not named, (address, named)


@pytest.mark.parametrize("answer", ["2606:4700::1%eth0", "fe80::1%eth0", "::ffff:8.8.8.8%1"])
def test_an_address_with_a_zone_is_never_public(answer: str) -> None:
    """A zone names an interface of this machine: such an address is nobody's on the internet."""
    assert not is_public(ip_address(answer))
