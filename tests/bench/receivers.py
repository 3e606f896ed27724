"""The receivers of the deliveries: nginx if the machine has it, else a process of our own.

Both count their requests, which tells a case when all have arrived. Only our own process can record the time of each
request, or misbehave.
"""

import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import trustme

from tests.bench.server import BrokenCaseError
from tests.ports import held_port

START_SECONDS = 10.0
NGINX = """
daemon off;
master_process off;
worker_processes 1;
pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1d;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ return 200; }}
        location = /status {{ stub_status; }}
    }}
    {secure}
}}
"""
NGINX_TLS = """server {{
        listen 127.0.0.1:{port} ssl backlog=4096;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        location / {{ return 200; }}
    }}"""


class Certificates:
    """A certificate for 127.0.0.1 and the authority that a client must trust."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        self.authority = directory / "authority.pem"
        self.server = directory / "server.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(self.server))


class Receiver(Protocol):
    """A receiver that answers 200 to everything."""

    name: str
    url: str
    port: int

    def count(self) -> int:
        """Return the number of requests so far."""
        ...


class Nginx:
    """One worker of nginx that answers 200 to everything."""

    def __init__(self, version: str, port: int, url: str) -> None:
        self.name = version
        self.port = port
        self.url = url
        self._own = 0
        self._status = http.client.HTTPConnection("127.0.0.1", port)

    def count(self) -> int:
        """Return the number of requests so far, without those of this method."""
        self._own += 1
        self._status.request("GET", "/status")
        text = self._status.getresponse().read().decode()
        # The line below "server accepts handled requests".
        return int(text.splitlines()[2].split()[2]) - self._own

    def close(self) -> None:
        """Close the connection that asks for the count."""
        self._status.close()


class Sink:
    """Our own receiver."""

    def __init__(self, process: "subprocess.Popen[str]", mode: str, certificates: Certificates | None) -> None:
        assert process.stdout is not None
        self._process = process
        self.name = f"tests.bench.sink, {mode}"
        self.port = int(process.stdout.readline())
        self.url = f"{'http' if certificates is None else 'https'}://127.0.0.1:{self.port}/"

    def count(self) -> int:
        """Return the number of requests so far."""
        return int(self._ask("count"))

    def arrivals(self) -> dict[str, float]:
        """Return the time of the first request of each id since the last call; only in the mode `record`."""
        arrivals: dict[str, float] = json.loads(self._ask("arrivals"))
        return arrivals

    def _ask(self, command: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


@contextmanager
def sink(mode: str, certificates: Certificates | None = None) -> Iterator[Sink]:
    """Run our own receiver in one of its modes."""
    command = [sys.executable, "-m", "tests.bench.sink", mode]
    if certificates is not None:
        command += ["--tls", str(certificates.server)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Sink(process, mode, certificates)
        finally:
            process.kill()


@contextmanager
def cheapest(certificates: Certificates | None = None) -> Iterator[Receiver]:
    """Run the receiver that uses the least CPU on this machine, with TLS if there are certificates."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        with sink("count", certificates) as own:
            yield own
    else:
        with _nginx(program, certificates) as nginx:
            yield nginx


@contextmanager
def _nginx(program: str, certificates: Certificates | None) -> Iterator[Nginx]:
    version = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
    with (
        TemporaryDirectory(prefix="webhookd-bench-nginx-") as directory,
        held_port() as port,
        held_port() as secure_port,
    ):
        secure, url = "", f"http://127.0.0.1:{port}/"
        if certificates is not None:
            secure, url = (
                NGINX_TLS.format(port=secure_port, certificate=certificates.server),
                f"https://127.0.0.1:{secure_port}/",
            )
        config = Path(directory) / "nginx.conf"
        config.write_text(NGINX.format(directory=directory, port=port, secure=secure))
        command = [program, "-p", directory, "-e", f"{directory}/error.log", "-c", str(config)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
            try:
                _await_port(port, process)
                nginx = Nginx(version.strip().rpartition("version: ")[2], port, url)
                yield nginx
                nginx.close()
            finally:
                process.kill()


def _await_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return
    raise BrokenCaseError("nginx did not start")
