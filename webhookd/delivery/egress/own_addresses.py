"""The addresses of this machine's interfaces, as getifaddrs(3) lists them: glibc, musl and macOS have that call."""

import ctypes
import os
import socket
import sys
from ipaddress import IPv4Address, IPv6Address

from webhookd.delivery.egress.addresses import Address

# macOS's sys/socket.h puts the length, one byte, before the family, another byte. On Linux the family has both.
_FAMILY = slice(1, 2) if sys.platform == "darwin" else slice(0, 2)
_IPV4_OFFSET, _IPV6_OFFSET = 4, 8  # of `sin_addr` and `sin6_addr` (netinet/in.h)


class _InterfaceAddress(ctypes.Structure):
    """`struct ifaddrs` (ifaddrs.h) as far as it is read here: these fields come first on every system."""

    _fields_ = (
        ("ifa_next", ctypes.c_void_p),
        ("ifa_name", ctypes.c_char_p),
        ("ifa_flags", ctypes.c_uint),
        ("ifa_addr", ctypes.c_void_p),
    )


def own_addresses() -> frozenset[Address]:
    """Return the IPv4 and IPv6 addresses of all interfaces in this network namespace, without zones.

    An interface that is down keeps its addresses. Raises OSError where the system can't list them.
    """
    library = ctypes.CDLL(None, use_errno=True)
    first = ctypes.c_void_p()
    if library.getifaddrs(ctypes.byref(first)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    try:
        found: set[Address] = set()
        at = first.value
        while at is not None:
            entry = _InterfaceAddress.from_address(at)
            if entry.ifa_addr is not None:  # a tunnel may have no address
                found.update(_addresses_in(entry.ifa_addr))
            at = entry.ifa_next
        return frozenset(found)
    finally:
        library.freeifaddrs(first)


def _addresses_in(sockaddr: int) -> tuple[Address, ...]:
    """Return the address in the `struct sockaddr` at a memory address; none where it is of another family."""
    match int.from_bytes(ctypes.string_at(sockaddr, 2)[_FAMILY], sys.byteorder):
        case socket.AF_INET:
            return (IPv4Address(ctypes.string_at(sockaddr + _IPV4_OFFSET, 4)),)
        case socket.AF_INET6:
            return (IPv6Address(ctypes.string_at(sockaddr + _IPV6_OFFSET, 16)),)
        case _:
            return ()
