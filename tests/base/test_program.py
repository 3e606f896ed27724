"""How the program starts itself again from an archive that Python runs, as of zipapp, shiv and pex."""

import shutil
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest

import webhookd

PRINTS = "from webhookd.base.program import own_command\nprint(*own_command(), sep='\\n')\n"
RUNS = "from webhookd.cli import main\nmain()\n"


def archive(directory: Path, main: str) -> Path:
    """Create an archive of the package that runs `main`; its dependencies come from the environment."""
    source = directory / "source"
    shutil.copytree(Path(webhookd.__file__).parent, source / "webhookd", ignore=shutil.ignore_patterns("__pycache__"))
    (source / "__main__.py").write_text(main)
    packed = directory / "webhookd.pyz"
    zipapp.create_archive(source, packed)
    return packed


def test_an_archive_starts_itself_again(tmp_path: Path) -> None:
    """A child process runs the archive with the same interpreter, whatever the working directory is."""
    packed = archive(tmp_path, PRINTS)
    said = subprocess.run([sys.executable, packed.name], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == [sys.executable, str(packed)]
    again = subprocess.run(said.stdout.splitlines(), cwd="/", capture_output=True, text=True, check=True)
    assert again.stdout == said.stdout


@pytest.mark.parametrize("options", [(), ("--executable", "/opt/webhookd/bin/webhookd")], ids=["itself", "another"])
def test_an_archive_is_no_service(tmp_path: Path, options: tuple[str, ...]) -> None:
    """A systemd unit for an archive, which may unpack into a home directory, is refused without --executable."""
    command = [sys.executable, str(archive(tmp_path, RUNS)), "systemd-unit", *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == (0 if options else 1)
    assert ("ExecStart=/opt/webhookd/bin/webhookd serve" in ended.stdout) == bool(options)
    assert ("runs from the archive" in ended.stderr) != bool(options)
