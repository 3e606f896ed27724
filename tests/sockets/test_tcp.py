"""The addresses of the API: one, several, or all of both families."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.patience import PATIENCE_SECONDS
from webhookd.base.errors import CommandError, ConfigError
from webhookd.config import load_config
from webhookd.sockets.tcp import bind_tcp, urls_of


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listen(stack: ExitStack, hosts: str | tuple[str, ...], port: int = 0) -> list[socket.socket]:
    listeners = bind_tcp(hosts, port)
    for listener in listeners:
        stack.callback(listener.close)
    assert len({listener.getsockname()[1] for listener in listeners}) == 1
    return listeners


def answers(address: str, port: int) -> bool:
    """Whether a client can connect to an address."""
    try:
        socket.create_connection((address, port), timeout=PATIENCE_SECONDS).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("hosts", "answering"),
    [
        ("127.0.0.1", {"127.0.0.1"}),
        ("::1", {"::1"}),
        ("0.0.0.0", {"127.0.0.1", "127.0.0.2"}),
        ("::", {"127.0.0.1", "127.0.0.2", "::1"}),
        (("127.0.0.1", "::1"), {"127.0.0.1", "::1"}),
        (("127.0.0.2", "127.0.0.1", "127.0.0.2"), {"127.0.0.1", "127.0.0.2"}),
        (("::", "0.0.0.0"), {"127.0.0.1", "127.0.0.2", "::1"}),
    ],
)
def test_it_listens_where_it_is_told(stack: ExitStack, hosts: str | tuple[str, ...], answering: set[str]) -> None:
    """Each given address answers on the same port, and no other address does; `::` is both families."""
    port = listen(stack, hosts)[0].getsockname()[1]
    assert {address for address in ("127.0.0.1", "127.0.0.2", "::1") if answers(address, port)} == answering


def test_each_address_has_its_url(stack: ExitStack) -> None:
    """The URLs name every address, those of IPv6 in brackets."""
    listeners = listen(stack, ("127.0.0.1", "::1"))
    port = listeners[0].getsockname()[1]
    assert urls_of(listeners) == (f"http://127.0.0.1:{port}", f"http://[::1]:{port}")


def test_a_client_of_ipv4_keeps_its_address(stack: ExitStack) -> None:
    """With `::` an IPv4 client is counted by its own address, not by one mapped to IPv6."""
    listeners = listen(stack, "::")
    by_family = {listener.family: listener for listener in listeners}
    port = listeners[0].getsockname()[1]
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS):
        connection, address = by_family[socket.AF_INET].accept()
        connection.close()
    assert address[0] == "127.0.0.1"


def test_what_is_taken_is_named_and_nothing_stays_bound(stack: ExitStack) -> None:
    """If one address can't be used, all are refused, and no listener remains."""
    port = listen(stack, "127.0.0.2")[0].getsockname()[1]
    with pytest.raises(CommandError, match=rf"can't listen on 127\.0\.0\.2:{port} \(server\.host, server\.port\)"):
        bind_tcp(("127.0.0.1", "127.0.0.2"), port)
    assert not answers("127.0.0.1", port)


@pytest.mark.parametrize(
    ("text", "environ", "host"),
    [
        ("host = '::'", {}, "::"),
        ("host = ['127.0.0.1', '::1']", {}, ("127.0.0.1", "::1")),
        ("", {"WEBHOOKD_SERVER__HOST": "::"}, "::"),
        ("", {"WEBHOOKD_SERVER__HOST": "localhost"}, "localhost"),
        ("", {"WEBHOOKD_SERVER__HOST": "['127.0.0.1', '::1']"}, ("127.0.0.1", "::1")),
    ],
)
def test_a_host_is_one_or_several(tmp_path: Path, text: str, environ: Mapping[str, str], host: object) -> None:
    """File and environment accept an address or a list of addresses."""
    path = tmp_path / "config.toml"
    path.write_text(f"[server]\n{text}\n")
    assert load_config(path, environ).server.host == host


@pytest.mark.parametrize("text", ["[]", "''", "['']", "7", "[7]", "'a b'", "['127.0.0.1', '[::1]']", "'http://a'"])
def test_a_host_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    """Anything else is refused with its key and line."""
    path = tmp_path / "config.toml"
    path.write_text(f"[server]\nhost = {text}\n")
    with pytest.raises(ConfigError, match=r"config\.toml:2: server\.host takes"):
        load_config(path, {})
