"""Update the lock files: `python -m tests.lock` after a change of pyproject.toml, `--upgrade` for newer packages.

A lock file pins every package with its hashes, including the build backend, for each version of Python that
pyproject.toml allows. `pip install --require-hashes -r FILE`, followed by webhookd itself with `--no-deps
--no-build-isolation`, installs exactly the tested packages. The product's pins are the same in all lock files: the
development lock is resolved first and constrains the others, which tests/test_locks.py checks. uv resolves for every
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
POSTGRESQL = "docs/deploy/postgresql.lock"
# What each lock holds in addition to the product and its build backend: extras, and what an editable install needs.
LOCKS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    DEVELOPMENT: (("dev",), ("editables",)),
    PRODUCT: ((), ()),
    BINARY: (("binary",), ()),
    POSTGRESQL: (("postgresql",), ()),
}


def main() -> int:
    """Write each file; return uv's status for the first that it can't resolve, or 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.lock", description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="use the newest packages instead of the locked ones")
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
            # The constraints are its pins. Its previous pins may be older.
            Path(ROOT / name).unlink(missing_ok=True)
        wanted = "\n".join([*project["build-system"]["requires"], *others])
        run = subprocess.run(command, cwd=ROOT, input=wanted, text=True, check=False)
        if run.returncode:
            return run.returncode
        print(name, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
