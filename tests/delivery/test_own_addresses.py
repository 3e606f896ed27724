"""The machine's own addresses, compared with those that psutil lists."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import psutil
import pytest

from webhookd.delivery.egress.own_addresses import own_addresses

ROOT = Path(__file__).parents[2]
# Of the namespace below. An alias has a label of its own; the peer of a point-to-point link is another machine's.
ADDED = {
    "lo": ["198.51.100.7/32"],
    "used": ["203.0.113.1/24", "203.0.113.2/24 label used:alias", "2001:db8::1/64", "2001:db8::2/128", "fe80::1/64"],
    "down": ["203.0.113.129/32 peer 192.0.2.55", "2001:db8:1::1 peer 2001:db8:1::2"],
    "bare": [],
}


def by_psutil() -> set[IPv4Address | IPv6Address]:
    entries = [entry for interface in psutil.net_if_addrs().values() for entry in interface]
    families = (socket.AF_INET, socket.AF_INET6)
    return {ip_address(entry.address.partition("%")[0]) for entry in entries if entry.family in families}


def test_the_addresses_of_this_machine_are_listed() -> None:
    """Loopback is among the addresses, and psutil lists the same ones."""
    assert ip_address("127.0.0.1") in own_addresses()
    assert own_addresses() == by_psutil()


@pytest.fixture
def inside() -> Iterator[Callable[[str], str]]:
    """Make a network namespace with the addresses above; yield a function that runs a Python expression in it."""
    if shutil.which("ip") is None:
        pytest.skip("needs ip of iproute2, which isn't installed")
    namespace = f"webhookd-{os.getpid()}-own"

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    def run(expression: str) -> str:
        module = "from tests.delivery.test_own_addresses import by_psutil, own_addresses\n"
        command = ["ip", "netns", "exec", namespace, sys.executable, "-c", f"{module}print({expression})"]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    try:
        ip("netns", "add", namespace)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made here: {error.stderr.decode().strip()}")
    try:
        for one, other in (("used", "bare"), ("down", "spare")):
            ip("-n", namespace, "link", "add", "dev", one, "type", "veth", "peer", "name", other)
            for interface in (one, other):  # with no address but those that are added
                ip("-n", namespace, "link", "set", "dev", interface, "addrgenmode", "none")
        for interface in ("lo", "used", "bare"):
            ip("-n", namespace, "link", "set", "dev", interface, "up")
        for interface, addresses in ADDED.items():
            for address in addresses:
                no_check = ["nodad"] if ":" in address.partition(" ")[0] else []
                ip("-n", namespace, "addr", "add", *address.split(), "dev", interface, *no_check)
        yield run
    finally:
        ip("netns", "del", namespace)


def test_the_addresses_of_a_namespace_are_listed(inside: Callable[[str], str]) -> None:
    """Several addresses of an interface, aliases, link-local ones, those of a down interface; but no peer's."""
    assert inside("own_addresses() == by_psutil()") == "True"
    listed = {ip_address(text) for text in inside("*own_addresses()").split()}
    added = {ip_address(entry.partition(" ")[0].partition("/")[0]) for entries in ADDED.values() for entry in entries}
    assert listed == added | {ip_address("127.0.0.1"), ip_address("::1")}
