"""A world for senders to get lost in: every address answers, and a name server that lies.

As a process, `here` takes connections to whatever address they were dialled at and, once its input ends, prints how
many there were of each. `there` does the same and answers each name by what the name itself says. Neither needs more
than trio, so that they are up soon.
"""

import json
import socket
import struct
import sys
from collections import Counter
from ipaddress import IPv4Address, IPv6Address, ip_address

import trio

PORT = 8080
PUBLIC = ("93.184.216.34", "2606:4700:4700::1111")
NAME_SERVER = "93.184.216.53"
OWN = "20.30.40.50"  # an address of the sender's own machine that looks public
NEAR = ("127.0.0.1", "127.9.9.9", "0.0.0.0", OWN, "::1")  # these never leave the sender's machine
FAR = (
    *("10.1.2.3", "172.16.5.4", "192.168.1.1", "100.64.0.1", "100.100.100.200", "169.254.169.254", "169.254.170.2"),
    *("192.0.0.192", "168.63.129.16", "198.18.0.1", "203.0.113.9", "192.88.99.1", "fd00::5", "fd00:ec2::254"),
    *("fd20:ce::254", "::ffff:10.1.2.3", "64:ff9b::a01:203", "2002:a01:203::1", "::a01:203", "2001:db8::5"),
    *("fec0::5", "3fff::5"),
)
LITERALS = ("2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "2852039166")
ROUNDS = 6
MOVED = (
    b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254:8080/latest/meta-data/\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)
_SUFFIX = ".rebind.example.com"


def name_of(*turns: str) -> str:
    """Return a name that resolves to each of these in turn; `a+b` are two answers at once."""
    return ".".join("-".join(_coded(ip_address(answer)) for answer in turn.split("+")) for turn in turns) + _SUFFIX


def _coded(address: IPv4Address | IPv6Address) -> str:
    return f"{address.version}{address.packed.hex()}"


def turns_of(name: str) -> list[list[IPv4Address | IPv6Address]]:
    """Return what a name's turns are."""
    return [
        [ip_address(bytes.fromhex(answer[1:])) for answer in label.split("-")]
        for label in name.removesuffix(_SUFFIX).split(".")
    ]


async def honeypot() -> None:
    dialed: Counter[str] = Counter()

    async def take(stream: trio.SocketStream) -> None:
        address = IPv6Address(stream.socket.getsockname()[0])
        dialed[str(address.ipv4_mapped or address)] += 1
        try:
            await stream.receive_some(65_536)
            await stream.send_all(MOVED)
        except trio.BrokenResourceError:
            pass  # the client has gone; it was counted

    listener = trio.socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    await listener.bind(("::", PORT))
    listener.listen(256)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, take, [trio.SocketListener(listener)])
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()
    print(json.dumps(dialed), flush=True)


async def names(*, task_status: trio.TaskStatus[None]) -> None:
    asked: Counter[tuple[str, int]] = Counter()
    server = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await server.bind((NAME_SERVER, 53))
    task_status.started()
    while True:
        query, client = await server.recvfrom(4096)
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        name, (kind,) = ".".join(labels).lower(), struct.unpack_from("!H", query, at + 1)
        turns = turns_of(name)
        turn = turns[asked[name, kind] % len(turns)]
        asked[name, kind] += 1
        wanted = IPv4Address if kind == 1 else IPv6Address
        answers = [
            struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(answer.packed)) + answer.packed
            for answer in turn
            if isinstance(answer, wanted)
        ]
        head = query[:2] + struct.pack("!HHHHH", 0x8180, 1, len(answers), 0, 0)
        await server.sendto(head + query[12 : at + 5] + b"".join(answers), client)


async def there() -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(names)
        await honeypot()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run({"here": honeypot, "there": there}[sys.argv[1]])
