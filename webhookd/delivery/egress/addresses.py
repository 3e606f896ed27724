"""Which addresses webhookd may dial: those of the public internet, and no others. Pure.

`ipaddress.is_global` isn't enough: it is true for loopback addresses in NAT64 and 6to4 form, and for multicast. IPv4
has a list of what is refused. IPv6 has one of what is allowed, which excludes mapped, translated and tunneled forms.
"""

from bisect import bisect_right
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_network
from itertools import zip_longest
from typing import TypeVar

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_Network = TypeVar("_Network", IPv4Network, IPv6Network)


def _borders(networks: Iterable[_Network]) -> list[int]:
    """Return the sorted borders of the joined networks: each network's first address, and the one after its last."""
    joined = collapse_addresses(networks)
    return [border for network in joined for border in (int(network[0]), int(network[-1]) + 1)]


_REFUSED_IPV4 = _borders(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "168.63.129.16/32",  # Azure's own services, on an address that looks public
    )
)
_ALLOWED_IPV6 = IPv6Network("2000::/3")
_REFUSED_IPV6 = _borders(
    [
        *IPv6Network("::/0").address_exclude(_ALLOWED_IPV6),
        IPv6Network("2001::/23"),
        IPv6Network("2001:db8::/32"),
        IPv6Network("2002::/16"),
        IPv6Network("2620:4f:8000::/48"),
        IPv6Network("3fff::/20"),
    ]
)


def is_in(address: Address, networks: Iterable[Network]) -> bool:
    """Whether the address is in one of the networks."""
    return any(address.version == network.version and address in network for network in networks)


def is_public(address: Address) -> bool:
    """Whether the address belongs to the public internet; an address with a zone never does."""
    if isinstance(address, IPv4Address):
        return _is_outside(int(address), _REFUSED_IPV4)
    return address.scope_id is None and _is_outside(int(address), _REFUSED_IPV6)


def interleaved(addresses: Iterable[Address]) -> list[Address]:
    """Return addresses with the two families alternating, each in its order (RFC 8305, section 4).

    The family of the first address begins. A family that can't be reached then takes at most every second attempt.
    """
    given = list(addresses)
    if not given:
        return []
    first = [each for each in given if each.version == given[0].version]
    second = [each for each in given if each.version != given[0].version]
    return [each for pair in zip_longest(first, second) for each in pair if each is not None]


def parse_network(text: str) -> Network:
    """Parse a network such as `10.1.0.0/16`; ValueError for anything else, also if host bits are set."""
    return ip_network(text, strict=True)


def _is_outside(number: int, borders: list[int]) -> bool:
    return bisect_right(borders, number) % 2 == 0
