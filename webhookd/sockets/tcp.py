"""Binding the admin API's TCP listeners, before anything is served: a busy port ends the start at once."""

import errno
import socket
from collections.abc import Sequence

from webhookd.base.errors import CommandError

_BACKLOG = 512
_EVERY_IPV6, _EVERY_IPV4 = "::", "0.0.0.0"
_TRIES = 8


def bind_tcp(hosts: str | Sequence[str], port: int) -> list[socket.socket]:
    """Return listening sockets for every address of each host, each address once; port 0 chooses one free port for all.

    `::` includes IPv4. Raises CommandError, naming host and port, if one of them can't be used.
    """
    wanted = [hosts] if isinstance(hosts, str) else list(hosts)
    if _EVERY_IPV6 in wanted and _EVERY_IPV4 not in wanted:
        # As on Linux with one socket. With a socket for each family no client's address looks like ::ffff:192.0.2.1.
        wanted.append(_EVERY_IPV4)
    for _ in range(_TRIES):
        try:
            return _bind(wanted, port)
        except _TakenError:
            continue  # another program uses the chosen port at a later address
    raise CommandError(f"can't listen on {', '.join(wanted)} (server.host): no port is free at all of them")


def urls_of(listeners: Sequence[socket.socket]) -> tuple[str, ...]:
    """Return the URL of each listener."""
    places = (listener.getsockname()[:2] for listener in listeners)
    return tuple(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}" for host, port in places)


class _TakenError(Exception):
    """The port that was chosen as free is in use at another address."""


def _bind(hosts: Sequence[str], port: int) -> list[socket.socket]:
    bound: dict[tuple[object, ...], socket.socket] = {}
    for host in hosts:
        try:
            _bind_host(host, port, bound)
        except OSError as error:
            for listener in bound.values():
                listener.close()
            if port == 0 and len(bound) > 1 and error.errno == errno.EADDRINUSE:
                raise _TakenError from error
            place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            raise CommandError(f"can't listen on {place} (server.host, server.port): {error.strerror}") from error
    return list(bound.values())


def _bind_host(host: str, port: int, bound: dict[tuple[object, ...], socket.socket]) -> None:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV)
    for family, _, _, _, address in dict.fromkeys(found):
        place = (family, *address)
        if place in bound:
            continue
        listener = bound[place] = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # IPv4 addresses have their own listener.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        taken = port or next(iter(bound.values())).getsockname()[1]
        listener.bind((address[0], taken, *address[2:]))
        listener.listen(_BACKLOG)
