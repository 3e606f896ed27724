"""The TCP listener of the admin API, bound before anything is served, so that a busy port is known at once."""

import socket

from webhookd.errors import CommandError

_BACKLOG = 512


def bind_tcp(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets for every address of `host`; port 0 takes a free one, the same for all.

    Raises CommandError naming host and port where one of them can't be had.
    """
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    listeners: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV)
        for family, _, _, _, address in dict.fromkeys(found):
            listener = socket.socket(family, socket.SOCK_STREAM)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # Its IPv4 addresses have a listener of their own.
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            taken = port or listeners[0].getsockname()[1]
            listener.bind((address[0], taken, *address[2:]))
            listener.listen(_BACKLOG)
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise CommandError(f"can't listen on {place} (server.host, server.port): {error.strerror}") from error
    return listeners
