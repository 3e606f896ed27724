"""How this program is started again: from an installation, from an archive that Python runs, or as one file.

`webhookd build-binary` makes the one file: a script that unpacks the interpreter and every library and then becomes the
program, so that who starts it knows the one process that there is.
"""

import os
import sys
import zipfile
from pathlib import Path

_ONE_FILE = "WEBHOOKD_ONE_FILE"  # set by cli/single_file.sh


def is_one_file() -> bool:
    """Return whether the interpreter came out of the program's own file."""
    return hasattr(sys, "_MEIPASS")


def archive() -> Path | None:
    """Return the archive that Python runs (zipapp, shiv, pex), None where the program is not in one."""
    called = Path(sys.argv[0])
    return called.absolute() if called.is_file() and zipfile.is_zipfile(called) else None


def own_command() -> list[str]:
    """Return the words that run this program again, to which its arguments are added."""
    if is_one_file():
        return [sys.executable]
    packed = archive()
    return [sys.executable, "-m", "webhookd"] if packed is None else [sys.executable, str(packed)]


def own_file() -> Path:
    """Return the one file that this program was started from. Only where `is_one_file`."""
    return Path(os.environ.get(_ONE_FILE, sys.executable)).absolute()
