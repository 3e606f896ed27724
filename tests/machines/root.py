"""A Debian of its own in a directory, with this working copy installed: what systemd boots and containers start from.

It is made once by debootstrap, which takes a minute or two and needs Debian's packages and Python's; later runs find it
in `build/` and install the working copy anew.
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
    """Return the directory, made where it is missing; skips where this machine can't make it."""
    if os.geteuid() != 0:
        pytest.skip("only root may make a root directory for a machine")
    if shutil.which("debootstrap") is None:
        pytest.skip("debootstrap is not installed")
    if not (PLACE / "made").exists():
        shutil.rmtree(PLACE, ignore_errors=True)
        PLACE.parent.mkdir(exist_ok=True)
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, str(PLACE)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"debootstrap made no Debian {RELEASE}: {made.stdout.splitlines()[-1:]}")
        (PLACE / "made").touch()
    # Packages come by the machine's own way, which may need its own authorities and names.
    for file in (_CERTIFICATES, Path("etc/resolv.conf")):
        if (Path("/") / file).exists():
            shutil.copy(Path("/") / file, PLACE / file)
    return PLACE


def install(root: Path) -> None:
    """Install this working copy as docs/operations.md says, into /opt/webhookd."""
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
    done = subprocess.run(["chroot", str(root), "sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
