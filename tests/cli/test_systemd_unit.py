"""The systemd unit: its contents, its rating, and a server under its filters."""

import ctypes.util
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from tests.cli.confined import settings
from tests.cli.conftest import invoke, refusal
from tests.e2e.harness import CONFIG, Server
from tests.patience import PATIENCE_SECONDS
from tests.receiver import Receiver
from webhookd.client import Client
from webhookd.observe.sdnotify import alive, notify, watchdog_seconds

WORST_SCORE = 1.5

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
needs_seccomp = pytest.mark.skipif(ctypes.util.find_library("seccomp") is None, reason="libseccomp is not installed")


def printed(*options: str) -> str:
    """Return the unit for a program in a usual place: the tested one may be in a home directory, which is refused."""
    usual = () if "--executable" in options else ("--executable", "/opt/webhookd/bin/webhookd")
    command = [sys.executable, "-m", "webhookd", "systemd-unit", *usual, *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def score(unit: str, directory: Path) -> float:
    path = directory / "webhookd.service"
    path.write_text(unit)
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.search(r"Overall exposure level for .*: ([0-9.]+) ", shown)
    assert found is not None, shown
    return float(found[1])


@needs_analyze
@pytest.mark.parametrize("home", [False, True], ids=["in its place", "in a home"])
def test_the_unit_is_scored_well(tmp_path: Path, *, home: bool) -> None:
    """systemd-analyze rates it 1.5 or better, and worse without its filters."""
    directory = tmp_path / "home"
    directory.mkdir()
    (directory / "config.toml").write_text(CONFIG)
    options = ("--config", str(directory / "config.toml")) if home else ()
    unit = printed(*options)
    assert score(unit, tmp_path) <= WORST_SCORE
    assert score(re.sub(r"SystemCall\w+=.*\n", "", unit), tmp_path) > WORST_SCORE


def test_the_unit_hides_no_users() -> None:
    """PrivateUsers would make every peer of the sockets read as nobody, so it is not used."""
    asked = settings(printed())
    assert "PrivateUsers" not in asked
    assert "DynamicUser" not in asked
    assert asked["CapabilityBoundingSet"] == [""]
    assert asked["Type"] == ["notify"]
    assert (asked["StateDirectory"], asked["RuntimeDirectory"]) == (["webhookd"], ["webhookd"])
    assert asked["LoadCredential"] == ["webhookd-master-key:/etc/webhookd/master.key"]


def test_the_unit_starts_no_program_that_a_small_system_lacks() -> None:
    """A reload needs a shell, which every system has, and not /bin/kill, which Debian's smallest one lacks."""
    asked = settings(printed())
    assert asked["ExecStart"] == ["/opt/webhookd/bin/webhookd serve --config /etc/webhookd/config.toml"]
    assert asked["ExecReload"] == ["/bin/sh -c 'kill -HUP $MAINPID'"]
    assert not [key for key in asked if key.startswith("Exec") and key not in {"ExecStart", "ExecReload"}]


def test_the_unit_follows_the_configuration(tmp_path: Path) -> None:
    """User, program, paths and times are the given ones, escaped for systemd."""
    config = tmp_path / "a %config.toml"
    config.write_text(
        "[server]\ncontrol_socket = '/run/hooks/control.sock'\n[ingest]\nsocket = '/run/hooks/in.sock'\n"
        "[journal]\npath = '/var/lib/hooks/j.db'\n[delivery]\ndrain_seconds = 100\n"
    )
    asked = settings(printed("--config", str(config), "--user", "hooks", "--executable", "/opt/webhookd/bin/webhookd"))
    assert asked["User"] == asked["Group"] == ["hooks"]
    escaped = str(config).replace("%", "%%")
    assert asked["ExecStart"] == [f'/opt/webhookd/bin/webhookd serve --config "{escaped}"']
    assert asked["StateDirectory"] == ["hooks"]
    assert asked["RuntimeDirectory"] == ["hooks"]
    assert asked["LoadCredential"] == ["webhookd-master-key:/var/lib/hooks/master.key"]
    assert asked["TimeoutStopSec"] == ["145"]
    assert "ReadWritePaths" not in asked
    elsewhere = tmp_path / "elsewhere.toml"
    elsewhere.write_text(CONFIG)
    asked = settings(printed("--config", str(elsewhere), "--group", "apps", "--master-key", "/etc/key"))
    assert asked["ReadWritePaths"] == [str(tmp_path)]
    assert (asked["User"], asked["Group"]) == (["webhookd"], ["apps"])
    assert asked["LoadCredential"] == ["webhookd-master-key:/etc/key"]


def test_a_program_that_the_service_cannot_reach_is_refused(tmp_path: Path) -> None:
    """A program, or an interpreter behind a link, in a directory that the service's user can't enter, is refused."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "webhookd").touch()
    said = refusal("systemd-unit", "--executable", home / "webhookd", "--user", "some-service")
    assert said.startswith(f"the service can't start {home / 'webhookd'}: user some-service may not enter ")
    assert "--executable" in said
    link = tmp_path / "webhookd"
    link.symlink_to(home / "webhookd")
    # pytest's own directories are closed to others too; root's service may enter all that is root's.
    owner = pwd.getpwuid(os.geteuid()).pw_name
    assert f"ExecStart={link} serve" in invoke("systemd-unit", "--executable", link, "--user", owner).output


def test_backups_may_go_to_a_directory_that_is_named(tmp_path: Path) -> None:
    """Each directory for backups can be written to, and the service starts if one of them is missing."""
    asked = settings(printed("--backups", "/mnt/one", "--backups", "/mnt/another disk"))
    assert asked["ReadWritePaths"] == ["-/mnt/one", '"-/mnt/another disk"']


FORBIDDEN = """
import ctypes, mmap, os, socket
c = ctypes.CDLL(None, use_errno=True)
def unshare():
    if c.unshare(0x10000000):
        raise OSError(ctypes.get_errno())
def protect():
    memory = mmap.mmap(-1, 4096)
    at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if c.mprotect(ctypes.c_void_p(at), 4096, 5):
        raise OSError(ctypes.get_errno())
for forbidden in (
    lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
    lambda: socket.socket(17, socket.SOCK_RAW),
    lambda: os.setuid(1),
    lambda: os.chroot("/"),
    unshare,
    protect,
):
    try:
        forbidden()
        print("allowed", flush=True)
    except OSError:
        print("refused", flush=True)
os._exit(0)
"""


class Manager:
    """The service manager's end of the notification socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))

    def heard(self) -> list[str]:
        """Return the notifications since the last call, one a line."""
        lines = []
        while True:
            try:
                lines += self._socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return lines

    def close(self) -> None:
        self._socket.close()


def test_without_a_service_manager_nobody_is_told(tmp_path: Path) -> None:
    """No address, an address without a reader, another process's watchdog, and none at all: nothing fails."""
    notify("READY=1", environ={})
    notify("READY=1", environ={"NOTIFY_SOCKET": str(tmp_path / "nowhere")})
    assert watchdog_seconds({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}) is None
    assert watchdog_seconds({"WATCHDOG_USEC": "0"}) is None
    assert watchdog_seconds({}) is None
    assert watchdog_seconds({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}) == 3


async def test_a_loop_that_is_stuck_falls_silent(tmp_path: Path) -> None:
    """The event loop notifies the watchdog, so a blocked loop does not."""
    manager = Manager(tmp_path / "notify")
    environ = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "60000"}
    async with alive(environ):
        heard: list[str] = []
        with trio.fail_after(PATIENCE_SECONDS):
            while len(heard) < 3:
                heard += manager.heard()
                await trio.sleep(0.01)
        assert set(heard) == {"WATCHDOG=1"}
        time.sleep(0.3)  # the whole loop stands still  # noqa: ASYNC251
        assert len(manager.heard()) <= 1
    manager.close()


@needs_analyze
@needs_seccomp
async def test_a_server_lives_under_the_filters(tmp_path: Path) -> None:
    """Under the unit's system calls, families and memory rules it starts, delivers, notifies, and stops with 0."""
    unit = tmp_path / "webhookd.service"
    unit.write_text(printed())
    manager = Manager(tmp_path / "notify")
    confined = [sys.executable, "-m", "tests.cli.confined", str(unit), sys.executable]
    environ = os.environ | {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "600000"}
    denied = await trio.run_process([*confined, "-c", FORBIDDEN], capture_stdout=True)
    assert denied.stdout.decode().split() == ["refused"] * 6
    server = Server(tmp_path, CONFIG)
    async with trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver().run)
        await server.start([*confined, "-m", "webhookd"], environ)
        try:
            webhook = await server.webhook(receiver.url, signature={"ed25519": True})
            with Client(server.socket) as producer:
                for number in range(20):
                    producer.send("user.created", {"number": number})
            await server.settled(webhook["id"])
            assert len(receiver.requests) == 20
            await server.post(f"/api/webhooks/{webhook['id']}/rotate-secret", {})
            heard: list[str] = []
            with trio.fail_after(PATIENCE_SECONDS):
                while "READY=1" not in heard or heard.count("WATCHDOG=1") < 2:
                    heard += manager.heard()
                    await trio.sleep(0.01)
            assert heard[0] in {"READY=1", "WATCHDOG=1"}
            assert any(line.startswith("STATUS=API http://127.0.0.1:") for line in heard)
            assert await server.stop() == 0
            assert "STOPPING=1" in manager.heard()
            assert "Traceback" not in server.log()
            assert "EPERM" not in server.log()
            assert "not permitted" not in server.log()
        finally:
            if server.process is not None:
                with trio.CancelScope(shield=True):
                    await server.kill()
        nursery.cancel_scope.cancel()
    manager.close()
