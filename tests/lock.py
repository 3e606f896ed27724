"""Write the lock files anew: `python -m tests.lock` after a change of pyproject.toml, `--upgrade` for newer packages.

A lock file pins every package with its hashes, for each version of Python that pyproject.toml admits, the build
backend among them: `pip install --require-hashes -r FILE` and then webhookd itself with `--no-deps
--no-build-isolation` installs what was tested and nothing else. The product's pins are equal in all of them, since the
development lock is resolved first and holds for the others; tests/test_locks.py checks that. uv resolves for every
version of Python at once, which pip can't.
"""

import argparse
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.__main__ import ROOT, tool

DEVELOPMENT = ".ci/requirements.lock"
PRODUCT = "docs/deploy/requirements.lock"
BINARY = "docs/deploy/binary.lock"
# What each holds beside the product and its build backend: extras, and what pip takes for an editable installation.
LOCKS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    DEVELOPMENT: (("dev",), ("editables",)),
    PRODUCT: ((), ()),
    BINARY: (("binary",), ()),
}


def main() -> int:
    """Write each file; return the status of the first that uv can't resolve, or 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.lock", description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest packages instead of those locked")
    upgrade = parser.parse_args().upgrade
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    for name, (extras, others) in LOCKS.items():
        command = [
            *(tool("uv"), "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-annotate"),
            *("--python-version", project["project"]["requires-python"].removeprefix(">=")),
            *("--no-config", "--no-emit-index-url", "--no-emit-find-links"),
            *("--custom-compile-command", "python -m tests.lock"),
            *(word for extra in extras for word in ("--extra", extra)),
            *(("--upgrade",) if upgrade and name == DEVELOPMENT else ()),
            *(() if name == DEVELOPMENT else ("--constraints", DEVELOPMENT)),
            *("--output-file", name, "pyproject.toml", "-"),
        ]
        if name != DEVELOPMENT:
            # Its pins are the constraints; those that it had before may be older.
            Path(ROOT / name).unlink(missing_ok=True)
        wanted = "\n".join([*project["build-system"]["requires"], *others])
        run = subprocess.run(command, cwd=ROOT, input=wanted, text=True, check=False)
        if run.returncode:
            return run.returncode
        print(name, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
