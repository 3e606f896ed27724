"""How this program is started: from an installation, from an archive that Python runs, or as a single file.

`webhookd build-binary` builds the single file: a script that unpacks the interpreter and the libraries and then
replaces itself with the program, so that there is only one process.
"""

import os
import sys
import zipfile
from pathlib import Path

_ONE_FILE = "WEBHOOKD_ONE_FILE"  # set by cli/single_file.sh


def is_one_file() -> bool:
    """Return whether the program is a single file with its own interpreter."""
    return hasattr(sys, "_MEIPASS")


def archive() -> Path | None:
    """Return the archive that Python runs (zipapp, shiv, pex), or None."""
    called = Path(sys.argv[0])
    return called.absolute() if called.is_file() and zipfile.is_zipfile(called) else None


def own_command() -> list[str]:
    """Return the command that runs this program, without arguments."""
    if is_one_file():
        return [sys.executable]
    packed = archive()
    return [sys.executable, "-m", "webhookd"] if packed is None else [sys.executable, str(packed)]


def own_file() -> Path:
    """Return the single file that this program was started from; call it only if `is_one_file`."""
    return Path(os.environ.get(_ONE_FILE, sys.executable)).absolute()
