"""The single-file build of webhookd runs in a root with the C library, zlib, a shell and tar, but no Python."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
import trio

from tests.e2e.harness import Server
from tests.patience import PATIENCE_SECONDS
from tests.receiver import Receiver, Reply, in_turn
from webhookd.base.interpreter import describe, lacking_in_library
from webhookd.client import Client

pytestmark = [
    pytest.mark.slow,  # the build takes a minute
    pytest.mark.skipif(find_spec("PyInstaller") is None, reason="pyinstaller is not installed"),
]
# The libraries of glibc, and zlib, which every distribution has; all other libraries are in the file.
SYSTEM = (
    *("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0"),
    *("librt.so.1", "libutil.so.1", "libresolv.so.2", "libnss_files.so.2", "libnss_dns.so.2", "libz.so.1"),
)
# The programs with which the file unpacks itself.
TOOLS = ("sh", "tar", "gzip", "mktemp", "tail", "mkfifo", "cat", "rm", "chmod")


def add_tool(place: Path, name: str) -> None:
    """Copy a program into a root, with its shared libraries."""
    found = shutil.which(name)
    assert found is not None, name
    shutil.copy2(found, place / "bin" / name)
    linked = subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout
    for library in re.findall(r"(/\S+) \(0x", linked):
        target = place / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy2(library, target)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Build the file into a root directory that has only what every machine has."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root may change its root directory, with unshare")
    place = tmp_path_factory.mktemp("root")
    place.chmod(0o755)  # the service's user must be able to enter its root
    command = [sys.executable, "-m", "webhookd", "build-binary", str(place / "webhookd")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert f"built {place / 'webhookd'}: webhookd " in built.stdout
    assert f"\nits interpreter: {describe(lacking_in_library())}\n" in built.stdout
    for directory in ("bin", "lib", "lib64", "tmp", "full", "dev", "etc", "data"):
        (place / directory).mkdir()
    for name in TOOLS:
        add_tool(place, name)
    (place / "etc/hosts").write_text("127.0.0.1 localhost\n")
    for name in SYSTEM:
        for source in (Path("/lib64", name), *Path("/lib").glob(f"*-linux-gnu/{name}")):
            if source.exists():
                shutil.copy2(source, place / ("lib64" if source.parent == Path("/lib64") else "lib") / name)
    for name, numbers in (("null", (1, 3)), ("zero", (1, 5)), ("random", (1, 8)), ("urandom", (1, 9))):
        os.mknod(place / "dev" / name, 0o20666, os.makedev(*numbers))
    yield place
    shutil.rmtree(place)


def inside(root: Path) -> tuple[str, ...]:
    """Return the command that runs the file with `root` as its root directory; the process keeps its id."""
    return ("setsid", "unshare", f"--root={root}", "--wd=/", "/webhookd")


def pid(server: Server) -> int:
    assert server.process is not None
    return server.process.pid


def run(root: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environ["PATH"] = "/bin"
    return subprocess.run([*inside(root), *arguments], capture_output=True, text=True, env=environ, check=False)


async def emptied(directory: Path) -> None:
    """Wait until the unpacked files below a directory are removed, which a background process does."""
    with trio.fail_after(60):
        while list(directory.glob("webhookd.*")):
            await trio.sleep(0.05)


async def test_it_runs_without_python(root: Path) -> None:
    """Without Python, `demo`, `init` and `systemd-unit` work, `build-binary` is refused, and no files are left."""
    assert not [path for path in root.rglob("*") if "python" in path.name]

    demo = run(root, "demo")
    assert demo.returncode == 0, demo.stderr
    assert "every signature verified, every event in order, the server ended cleanly" in demo.stdout
    init = run(root, "init", "/data/new")
    assert init.returncode == 0, init.stderr
    assert "admin key (shown once): whd_" in init.stdout
    assert "[server]" in (root / "data/new/config.toml").read_text()
    # The record of the interpreter's build is in the file too.
    assert describe(lacking_in_library()) in run(root, "doctor", "--config", "/data/new/config.toml").stdout
    unit = run(root, "systemd-unit", "--config", "/data/new/config.toml").stdout
    assert "ExecStart=/webhookd serve --config /data/new/config.toml\n" in unit
    again = run(root, "build-binary")
    assert again.returncode == 1
    assert "this webhookd is such a file already" in again.stderr
    await emptied(root / "tmp")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("noexec", "programs in /full may not be executed"),
        ("ro", "can't make a directory in /full"),
        ("size=1m", "can't unpack into /full"),
    ],
)
def test_an_unusable_tmpdir_is_named(root: Path, options: str, problem: str) -> None:
    """With a TMPDIR that is full, read-only or mounted noexec, the file prints the remedy and leaves nothing there."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(root / "full")], check=True)
    try:
        ended = run(root, "--version", TMPDIR="/full")
        assert ended.returncode == 1
        assert ended.stdout == ""
        assert re.fullmatch(
            rf"webhookd: {problem}: set TMPDIR to a directory that has room for \d+ MiB and is not mounted noexec\n",
            ended.stderr,
        )
        assert list((root / "full").iterdir()) == []
    finally:
        subprocess.run(["umount", str(root / "full")], check=True)


async def test_it_serves_drains_once_and_leaves_no_process(root: Path) -> None:
    """Events are delivered, Ctrl-C to the process group drains once, and a kill -9 leaves no process and no file."""
    directory = root / "data/serving"
    directory.mkdir()
    # The same path leads to the directory inside the root.
    within = root / str(directory).lstrip("/")
    within.parent.mkdir(parents=True)
    within.symlink_to("/data/serving")
    script = in_turn(Reply(), Reply(delay_seconds=1.0))
    async with trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver(script).run)
        server = Server(directory)
        await server.start(inside(root))
        # The pages of the dashboard and their static files must be in the build.
        async with httpx.AsyncClient(base_url=server.url, follow_redirects=True) as browser:
            page = await browser.get("/", headers={"accept": "text/html"})
            assert page.status_code == 200
            (style,) = re.findall(r'<link rel="stylesheet" href="([^"]+)"', page.text)
            assert (await browser.get(style)).status_code == 200
        webhook = await server.webhook(receiver.url)
        with Client(server.socket) as client:
            client.send("user.created", {"id": "usr_1"})
            await receiver.wait_for(1)
            await server.settled(webhook["id"])
            client.send("user.updated", {"id": "usr_1"})
        await receiver.wait_for(2)
        # As in a terminal, every process of the group gets the signal.
        assert os.getpgid(pid(server)) != os.getpgid(0)
        os.killpg(pid(server), signal.SIGINT)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await server.ended() == 0
        assert "server.drain_cut" not in server.log()

        await server.start(inside(root))
        assert [each["status"] for each in await server.deliveries(webhook["id"])] == ["succeeded", "succeeded"]
        await server.kill()
        await emptied(root / "tmp")
        # The lock is free again, so the server can be started at once.
        await server.start(inside(root))
        assert await server.stop() == 0
        await emptied(root / "tmp")
        nursery.cancel_scope.cancel()
