"""`webhookd build-binary`: builds one executable file with an interpreter, for machines without Python."""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import click

from webhookd.base.errors import CommandError
from webhookd.base.files import make_directory
from webhookd.base.interpreter import describe, lacking_in_library
from webhookd.base.program import is_one_file
from webhookd.base.version import VERSION
from webhookd.cli.init import template_file

_ENTRY = "from webhookd.cli import main\n\nmain()\n"
_LOG_LINES_SHOWN = 20
_LAST = "webhookd/complete"


@click.command("build-binary")
@click.argument("file", type=click.Path(path_type=Path), default=Path("dist/webhookd"), metavar="[FILE]")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def command(file: Path, force: bool) -> None:
    """Build FILE (dist/webhookd), one executable with the interpreter and every library inside.

    The file runs every command of webhookd, without Python, on machines with the same processor and with this machine's
    glibc or a later one: build on the oldest system it must run on. When it is started, it unpacks itself to TMPDIR
    (/tmp) with sh, tar and gzip, and it removes that when it ends. TMPDIR must not be mounted noexec.

    Needs PyInstaller: pip install 'webhookd[binary]'.
    """
    if is_one_file():
        raise CommandError("this webhookd is such a file already: copy it, or build from an installation with pip")
    if find_spec("PyInstaller") is None:
        raise CommandError("PyInstaller is not installed: pip install 'webhookd[binary]'")
    if file.is_dir():
        raise CommandError(f"{file} is a directory: name a file")
    if file.exists() and not force:
        raise CommandError(f"{file} exists: name another file, or give --force")
    try:
        make_directory(file.parent)
    except OSError as error:
        raise CommandError(f"can't create {file.parent}: {error.strerror}") from error
    with tempfile.TemporaryDirectory(prefix="webhookd-build-") as name:
        built = _build(Path(name))
        version = subprocess.run([built, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
        if version.stdout != f"webhookd {VERSION}\n":
            raise CommandError(
                f"the built file does not run: it ended with {version.returncode}: {version.stderr.strip()}"
            )
        # To a temporary name first, so that a running file is never overwritten.
        temporary = file.with_name(f".{file.name}.new")
        shutil.copy2(built, temporary)
        temporary.replace(file)
    click.echo(f"built {file}: webhookd {VERSION}, {file.stat().st_size / 2**20:.0f} MiB")
    # PyInstaller takes the shared library, also where the interpreter that runs now is another program.
    click.echo(f"its interpreter: {describe(lacking_in_library())}")


def _build(directory: Path) -> Path:
    """Build the file in a temporary directory; return it."""
    entry = directory / "entry.py"
    entry.write_text(_ENTRY)
    run = subprocess.run(  # noqa: S603 - this interpreter
        [
            *(sys.executable, "-m", "PyInstaller", "--onedir", "--noconfirm", "--log-level", "WARN"),
            # Commands are imported by name; pages and defaults are data files.
            *("--collect-submodules", "webhookd", "--collect-data", "webhookd", "--copy-metadata", "webhookd"),
            # In a working copy the template of `init` is outside of the package.
            *("--add-data", f"{template_file()}:webhookd/cli"),
            *("--name", "webhookd", "--strip"),
            *("--distpath", str(directory), "--workpath", str(directory / "work"), "--specpath", str(directory)),
            str(entry),
        ],
        cwd=directory,
        env=dict(os.environ) | {"PYINSTALLER_CONFIG_DIR": str(directory / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    built = directory / "webhookd"
    if run.returncode or not (built / "webhookd").is_file():
        lines = "\n".join(run.stdout.splitlines()[-_LOG_LINES_SHOWN:])
        raise CommandError(f"PyInstaller ended with status {run.returncode}:\n{lines}")
    return _pack(built, directory / "one-file")


def _pack(built: Path, file: Path) -> Path:
    """Write the script that unpacks, followed by the archive; return the file."""
    size = sum(path.stat().st_size for path in built.rglob("*") if path.is_file() and not path.is_symlink())
    script = (files("webhookd") / "cli" / "single_file.sh").read_text(encoding="utf-8")
    lines = len(script.splitlines()) + 1
    script = script.replace("@LINES@", str(lines)).replace("@MIB@", str(size // 2**20 + 1))
    # The last entry marks a complete archive: without `pipefail` a shell doesn't see that tar failed on a full disk.
    (built / "complete").touch()
    with file.open("wb") as output:
        output.write(script.encode())
        with tarfile.open(fileobj=output, mode="w:gz") as packed:
            packed.add(built, arcname="webhookd", filter=lambda entry: None if entry.name == _LAST else entry)
            packed.add(built / "complete", arcname=_LAST)
    file.chmod(0o755)
    return file
