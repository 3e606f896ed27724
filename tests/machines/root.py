"""Create a Debian root directory with this working copy installed, which systemd boots and containers are based on.

debootstrap creates it once in `build/`, which takes a minute or two and needs packages of Debian and Python; later runs
only install the working copy again.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
PLACE = TOP / "build" / "debian"
RELEASE = "trixie"
PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-venv,ca-certificates"
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "config.toml", "webhookd", "docs")
_CERTIFICATES = Path("etc/ssl/certs/ca-certificates.crt")


def debian() -> Path:
    """Return the root directory, and create it if it is missing; skip the test if this machine can't create it."""
    if os.geteuid() != 0:
        pytest.skip("only root may make a root directory for a machine")
    if shutil.which("debootstrap") is None:
        pytest.skip("debootstrap is not installed")
    if not (PLACE / "made").exists():
        shutil.rmtree(PLACE, ignore_errors=True)
        PLACE.parent.mkdir(exist_ok=True)
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, str(PLACE)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            pytest.skip(f"debootstrap can't create Debian {RELEASE}: {result.stdout.splitlines()[-1:]}")
        (PLACE / "made").touch()
    # Packages are downloaded as on this machine, which may need its certificate authorities and name servers.
    for file in (_CERTIFICATES, Path("etc/resolv.conf")):
        if (Path("/") / file).exists():
            shutil.copy(Path("/") / file, PLACE / file)
    return PLACE


def install(root: Path) -> None:
    """Install this working copy into /opt/webhookd, as docs/operations.md describes."""
    shutil.rmtree(root / "source", ignore_errors=True)
    (root / "source").mkdir()
    for name in SOURCES:
        if (TOP / name).is_dir():
            shutil.copytree(TOP / name, root / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(TOP / name, root / "source" / name)
    pip = "/opt/webhookd/bin/pip install -q"
    command = (
        "cd /source && /usr/bin/python3 -m venv /opt/webhookd && "
        f"{pip} --require-hashes -r docs/deploy/requirements.lock && "
        f"{pip} --force-reinstall --no-deps --no-build-isolation ."
    )
    result = subprocess.run(["chroot", str(root), "sh", "-c", command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
