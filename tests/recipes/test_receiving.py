"""The receivers of the recipes for Python and Node verify deliveries of webhookd and refuse forged ones."""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.e2e.harness import running
from tests.recipes.pages import write
from tests.recipes.receivers import check_all

HERE = Path(__file__).parent
OLDEST_NODE = 20


def start_python(name: str, port: int) -> tuple[Sequence[str], Mapping[str, str]]:
    module = name.removesuffix(".py")
    commands = {
        "flask": ["flask", "--app", module, "run", "--port", str(port)],
        "fastapi": ["hypercorn", f"{module}:app", "--bind", f"127.0.0.1:{port}"],
        "django": [sys.executable, name, "runserver", "--noreload", f"127.0.0.1:{port}"],
    }
    return commands[module.split("_")[0]], {}


def start_node(name: str, port: int) -> tuple[Sequence[str], Mapping[str, str]]:
    return ["node", name], {"PORT": str(port)}


async def test_receivers_in_python_verify_what_webhookd_sends(tmp_path: Path) -> None:
    """Each program of the page accepts deliveries of the real server and answers 401 to a changed one."""
    names = write("receiving-python.md", tmp_path)
    assert len(names) == 6
    async with running(tmp_path) as server:
        await check_all(server, tmp_path, names, start_python)


async def test_receivers_in_node_verify_what_webhookd_sends(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Each program of the page accepts deliveries of the real server and answers 401 to a changed one."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node or npm is not installed")
    if (version := node_version()) < OLDEST_NODE:
        pytest.skip(f"Node {version} is installed, and the packages need {OLDEST_NODE}")
    modules = await trio.to_thread.run_sync(node_modules, pytestconfig.cache.mkdir("recipes-node"))
    names = write("receiving-node.md", tmp_path)
    assert len(names) == 3
    (tmp_path / "node_modules").symlink_to(modules)
    async with running(tmp_path) as server:
        await check_all(server, tmp_path, names, start_node)


def node_version() -> int:
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    return int(version.removeprefix("v").split(".")[0])


def node_modules(cache: Path) -> Path:
    """Install the packages of package.json and its lock file, once for each content; skip if that is not possible."""
    wanted = [HERE / "package.json", HERE / "package-lock.json"]
    place = cache / hashlib.sha256(b"".join(path.read_bytes() for path in wanted)).hexdigest()[:16]
    with only_one(cache / "lock"):
        if not (place / "done").exists():
            place.mkdir(exist_ok=True)
            for path in wanted:
                shutil.copy(path, place)
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            installed = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300, check=False)
            if installed.returncode:
                error = installed.stderr.strip()
                assert "EINTEGRITY" not in error, error
                pytest.skip(f"npm can't install the packages: {error.splitlines()[0] if error else 'no message'}")
            (place / "done").touch()
    return place / "node_modules"


@contextmanager
def only_one(lock: Path) -> Iterator[None]:
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
