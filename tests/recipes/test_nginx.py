"""The nginx configurations of docs/deploy work with the real server; only their ports and files are changed."""

import json
import os
import re
import shutil
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio
import trustme

from tests.client.flavours import FLAVOURS
from tests.e2e.harness import Server, running
from tests.patience import PATIENCE_SECONDS, until
from tests.ports import held_port
from tests.receiver import Receiver
from tests.recipes.pages import DOCS, write
from tests.recipes.processes import listening, program
from tests.recipes.receivers import DATA, send, verified
from tests.recipes.test_receiving import start_python
from webhookd.client import Client, Event, PublishResult

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
NAME = "webhookd.example.com"


@asynccontextmanager
async def nginx(
    directory: Path,
    page: str,
    *,
    port: int,
    upstream: str | Sequence[str],
    authority: trustme.CA | None,
) -> AsyncIterator[None]:
    """Run a configuration of docs/deploy on a loopback port, with the upstreams and the certificate of the test."""
    text = (DOCS / "deploy" / page).read_text()
    upstreams = [upstream] if isinstance(upstream, str) else list(upstream)
    places = iter(upstreams)
    text, replaced = re.subn(r"(127\.0\.0\.1|10\.0\.0\.1\d):(8080|9000)", lambda _: next(places), text)
    assert replaced == len(upstreams)
    if authority is None:
        text = re.sub(r"listen 443 ssl http2;", f"listen 127.0.0.1:{port};", text)
        text = re.sub(r"ssl_certificate.*;", "", text)
    else:
        certificate = authority.issue_cert(NAME, "127.0.0.1")
        certificate.private_key_and_cert_chain_pem.write_to_path(str(directory / "server.pem"))
        text = re.sub(r"listen 443 ", f"listen 127.0.0.1:{port} ", text)
        text = re.sub(r"(ssl_certificate(?:_key)?) .*;", rf"\1 {directory}/server.pem;", text)
    for name in ("body", "proxy", "fastcgi", "uwsgi", "scgi"):
        (directory / name).mkdir()
    paths = f"client_body_temp_path {directory}/body; " + " ".join(
        f"{name}_temp_path {directory}/{name};" for name in ("proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = directory / "main.conf"
    user = "user root; " if os.geteuid() == 0 else ""
    main.write_text(
        f"{user}daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log; events {{}}\n"
        f"http {{ access_log off; {paths}\n{text}\n}}\n"
    )
    log = directory / "nginx.log"
    assert NGINX is not None
    command = [NGINX, "-p", str(directory), "-c", str(main), "-e", str(directory / "error.log")]
    async with program(command, directory, {}, log=log) as process:
        await listening(port, process, log)
        yield


@asynccontextmanager
async def behind_tls(directory: Path, server: Server) -> AsyncIterator[tuple[str, ssl.SSLContext]]:
    """Run nginx.conf in front of a server; yield its URL and an SSL context that trusts its certificate."""
    authority = trustme.CA()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    upstream = server.url.removeprefix("http://")
    with held_port() as port:
        async with nginx(directory, "nginx.conf", port=port, upstream=upstream, authority=authority):
            yield f"https://127.0.0.1:{port}", context


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "nginx").mkdir()
    return tmp_path / "nginx"


async def test_api_behind_nginx(tmp_path: Path, place: Path) -> None:
    """Behind nginx the API answers over TLS, large bodies are refused, and upgrades are not forwarded."""
    async with running(tmp_path) as server, behind_tls(place, server) as (url, context):
        key = {"authorization": f"Bearer {server.first_key}"}
        async with httpx.AsyncClient(base_url=url, verify=context, headers=key) as client:
            created = await client.post("/api/webhooks", json={"url": "http://127.0.0.1:9999/hook", "events": ["*"]})
            assert created.status_code == 201
            assert created.headers["strict-transport-security"] == "max-age=31536000"
            assert (await client.get("/api/webhooks")).json()["data"][0]["id"] == created.json()["id"]
            assert (await client.get("/metrics")).status_code == 200
            large = await client.post("/api/webhooks", content=b"x" * 1_200_000)
            assert large.status_code == 413
            assert "nginx" in large.text
            upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
            assert (await client.get("/api/webhooks", headers=upgrade)).status_code == 200
        assert (
            await trio.to_thread.run_sync(partial(httpx.get, url + "/api/webhooks", verify=context))
        ).is_client_error


async def test_clients_of_every_flavour_behind_nginx(tmp_path: Path, place: Path) -> None:
    """All flavours of the client can send more than one request holds, at the same time and in order."""
    async with running(tmp_path) as server, behind_tls(place, server) as (url, context):
        results: dict[str, list[str]] = {}

        async def produce(name: str) -> None:
            big = {"x": "x" * 20_000}
            events = [Event(type="user.created", data=big, id=f"{name}_{n}") for n in range(100)]
            settings = {"key": server.first_key, "ssl_context": context, "timeout": 30}
            sent = await trio.to_thread.run_sync(partial(FLAVOURS[name], url, events, **settings))
            results[name] = [result.id for result in sent if isinstance(result, PublishResult)]

        async with trio.open_nursery() as nursery:
            for name in FLAVOURS:
                nursery.start_soon(produce, name)
    assert results == {name: [f"{name}_{n}" for n in range(100)] for name in FLAVOURS}


@asynccontextmanager
async def streaming(url: str, context: ssl.SSLContext, key: str) -> AsyncIterator[trio.SSLStream[trio.SocketStream]]:
    """Begin a request with an endless body; yield its connection."""
    port = httpx.URL(url).port
    assert port is not None
    async with await trio.open_ssl_over_tcp_stream("127.0.0.1", port, ssl_context=context) as stream:
        head = f"POST /api/events HTTP/1.1\r\nhost: {NAME}\r\nauthorization: Bearer {key}\r\n"
        rest = "content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
        await stream.send_all((head + rest).encode())
        yield stream


async def exchange(stream: trio.SSLStream[trio.SocketStream], event_id: str) -> None:
    """Send an event in the body of a request and wait for its result."""
    line = json.dumps({"type": "user.created", "data": {}, "id": event_id}).encode() + b"\n"
    await stream.send_all(b"%x\r\n%s\r\n" % (len(line), line))
    seen = b""
    with trio.fail_after(PATIENCE_SECONDS):
        while f'"{event_id}"'.encode() not in seen:
            chunk = await stream.receive_some()
            assert chunk, seen
            seen += chunk


async def test_stream_flows_both_ways_through_nginx(tmp_path: Path, place: Path) -> None:
    """The result of a line arrives while the body of the request is still being sent."""
    async with (
        running(tmp_path) as server,
        behind_tls(place, server) as (url, context),
        streaming(url, context, server.first_key) as stream,
    ):
        for number in range(3):
            await exchange(stream, f"live_{number}")
        await stream.send_all(b"0\r\n\r\n")


async def test_client_addresses_have_their_limit(tmp_path: Path, place: Path) -> None:
    """The 51st simultaneous request of an address gets a 429 from nginx, after which the client retries."""
    async with running(tmp_path) as server, behind_tls(place, server) as (url, context):
        accepted: list[str] = []

        def produce() -> None:
            with Client(url, 60, key=server.first_key, ssl_context=context) as producer:
                accepted.append(producer.send("user.created", {}, "evt_1").id)

        def refused() -> int:
            return (place / "error.log").read_text().count("limiting connections")

        async with trio.open_nursery() as nursery:
            async with AsyncExitStack() as held:
                for number in range(50):
                    stream = await held.enter_async_context(streaming(url, context, server.first_key))
                    await exchange(stream, f"held_{number}")
                async with httpx.AsyncClient(base_url=url, verify=context) as client:
                    assert (await client.get("/readyz")).status_code == 429
                assert refused() == 1
                nursery.start_soon(trio.to_thread.run_sync, produce)
                await until(lambda: refused() > 1)
                assert not accepted
            await until(lambda: accepted)


async def test_signatures_verify_behind_nginx(tmp_path: Path, place: Path) -> None:
    """Signatures verify at a receiver behind nginx, also for the largest event."""
    write("receiving-python.md", tmp_path)
    log = tmp_path / "app.log"
    with held_port() as app_port, held_port() as port:
        command, _ = start_python("flask_verify.py", app_port)
        async with running(tmp_path) as server:
            webhook = await server.webhook(f"http://127.0.0.1:{port}/hook")
            environ = {"WEBHOOK_SECRET": webhook["secret"]}
            async with (
                program(command, tmp_path, environ, log=log) as app,
                nginx(place, "nginx-receiver.conf", port=port, upstream=f"127.0.0.1:{app_port}", authority=None),
            ):
                await listening(app_port, app, log)
                await trio.to_thread.run_sync(send, server, "odd_bytes")

                def send_largest() -> None:
                    with Client(server.socket, 10) as client:
                        client.send("user.created", b'{"x":"' + b"y" * 262_000 + b'"}', "largest")

                await trio.to_thread.run_sync(send_largest)
                await server.settled(webhook["id"])
    assert verified(log) == {"odd_bytes", "largest"}


async def test_nginx_changes_no_byte(tmp_path: Path, place: Path) -> None:
    """A request has the same body and webhook headers behind nginx as without it."""
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        direct: Receiver = await nursery.start(Receiver().run)
        behind: Receiver = await nursery.start(Receiver().run)
        port = stack.enter_context(held_port())
        upstream = behind.url.removeprefix("http://")
        async with (
            running(tmp_path) as server,
            nginx(place, "nginx-receiver.conf", port=port, upstream=upstream, authority=None),
        ):
            for url in (direct.url, f"http://127.0.0.1:{port}"):
                await server.webhook(f"{url}/hook")
            await trio.to_thread.run_sync(send, server, "evt_1")
            with trio.fail_after(PATIENCE_SECONDS):
                (plain,), (proxied,) = await direct.wait_for(1), await behind.wait_for(1)
        assert DATA in plain.body
        assert proxied.body == plain.body
        kept = {name for name in plain.headers if "webhook" in name or name.startswith("content-")}
        differing = {"webhook-signature", "x-webhook-signature", "x-webhook-delivery", "webhook-timestamp"}
        assert {name: proxied.headers[name] for name in kept - differing} == {
            name: plain.headers[name] for name in kept - differing
        }
        assert kept <= set(proxied.headers)
        nursery.cancel_scope.cancel()
