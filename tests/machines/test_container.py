"""The image of the Dockerfile builds only with a server that can deliver, and runs as docs/deploy.md describes."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.machines.root import TOP, debian
from tests.ports import held_port

HERE = Path(__file__).parent
BASE, IMAGE = "localhost/webhookd-tests-base", "localhost/webhookd-tests"
RUN = (
    # Settings that a machine may refuse to change for a container.
    *("--cgroups=disabled", "--network=host", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"),
    # Nothing but the volume can be written, and there are no privileges.
    *("--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may run containers here"),
]


def podman(*arguments: str, status: int | None = 0) -> str:
    """Run podman; return its output."""
    command = ["unshare", "--mount", "--propagation", "private", "sh", str(HERE / "podman.sh"), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert status is None or ended.returncode == status, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def image() -> str:
    """Build the image on the Debian of the tests, because the tests download no other image."""
    root = debian()
    link = root / "usr/bin/python"
    if not link.exists():
        link.symlink_to("python3")  # as in the official images
    packed = subprocess.Popen(
        ["tar", "--exclude=./source", "--exclude=./opt/webhookd", "-C", str(root), "-cf", "-", "."],
        stdout=subprocess.PIPE,
    )
    with packed:
        imported = subprocess.run(
            ["podman", "import", "-", BASE], stdin=packed.stdout, capture_output=True, check=False
        )
    if imported.returncode:
        pytest.skip(f"podman can't import an image here: {imported.stderr.decode()[-300:]}")
    assert "every signature verified" in build(IMAGE), "the build runs the demo"
    return IMAGE


def build(name: str, *options: str) -> str:
    """Build an image of the Dockerfile; return what was printed."""
    return podman(
        *("build", "--format=docker", "--isolation=chroot", "--network=host", f"--build-arg=BASE={BASE}", *options),
        *("-t", name, "-f", str(TOP / "docs/deploy/Dockerfile"), str(TOP)),
    )


@pytest.fixture
def container(image: str, tmp_path: Path) -> Iterator[tuple[str, int, Path]]:
    """Run the image as docs/deploy.md describes; yield the container's name, its port and its volume."""
    tmp_path.chmod(0o755)
    volume = tmp_path / "data"
    volume.mkdir()
    os.chown(volume, 10001, 10001)
    with held_port() as port:
        name = f"webhookd-tests-{port}"
        setting = f"--env=WEBHOOKD_SERVER__PORT={port}"
        podman("run", "--detach", f"--name={name}", *RUN, setting, f"--volume={volume}:/data", image)
        try:
            yield name, port, volume
        finally:
            podman("rm", "--force", "--time=5", name, status=None)


def until(is_so: Callable[[], bool], name: str) -> None:
    """Wait until `is_so` returns true; fail with the container's log if the container ends first."""
    while not is_so():
        state = json.loads(podman("inspect", "--format={{json .State}}", name))
        assert state["Running"], podman("logs", name)


def test_the_image_serves(container: tuple[str, int, Path]) -> None:
    """A container prints its first key, is healthy at a configured port, answers its commands, and stops with 0."""
    name, _, volume = container
    until(lambda: " ready: " in podman("logs", name), name)
    assert "admin key (shown once): whd_" in podman("logs", name)
    podman("healthcheck", "run", name)
    assert re.search(r"^ok +server +running, ok$", podman("exec", name, "webhookd", "doctor"), re.MULTILINE)
    assert (volume / "var/webhookd.db").stat().st_uid == 10001
    podman("stop", "--time=45", name)
    assert json.loads(podman("inspect", "--format={{json .State.ExitCode}}", name)) == 0


def test_another_container_sends_by_its_group(container: tuple[str, int, Path], image: str) -> None:
    """A container of another user in the group 10001 can use the ingest socket on the shared volume."""
    name, _, volume = container
    until((volume / "var/ingest.sock").exists, name)
    result = podman(
        *("run", "--rm", *RUN, "--user=20000:20000", "--group-add=10001", f"--volume={volume}:/data", image),
        *("send", "--socket=/data/var/ingest.sock", "--type=user.created", "--data={}"),
    )
    assert json.loads(result)["ok"] is True


def test_an_image_with_the_driver_for_postgresql(image: str) -> None:
    """The build argument chooses the lock file with the driver, which the usual image doesn't have."""
    build(f"{image}-postgresql", "--build-arg=LOCK=postgresql.lock")
    load = ("-c", "import psycopg; print(psycopg.pq.version())")
    command = ("run", "--rm", *RUN, "--entrypoint=/opt/webhookd/bin/python")
    assert int(podman(*command, f"{image}-postgresql", *load)) >= 180_000
    assert podman(*command, image, *load, status=1) == ""
