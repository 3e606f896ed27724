"""`tests.versions` chooses the right Pythons, reports the ones it skips, and finds a bound that is too low."""

import sys
from pathlib import Path

import pytest

from tests.__main__ import tool
from tests.versions import Interpreter, Packages, Project, attempt, candidates, choose

HERE = Interpreter(version=sys.version_info[:3], executable=Path(sys.executable))
PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "webhookd"
version = "1"
requires-python = ">=3.11"
dependencies = ["idna>=2.10"]
scripts = { webhookd = "webhookd:main" }
"""
# A program that needs a newer package than its project declares.
PROGRAM = """
import importlib.metadata
import sys

def main():
    version = importlib.metadata.version("idna")
    sys.exit(f"idna {version} has no such thing" if version == "2.10" else 0)
"""


def interpreter(directory: Path, name: str, says: str | None) -> None:
    """Write a program that prints `says` as an interpreter would, or fails without it."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    answer = "exit 1" if says is None else f"echo '{says}'"
    path.write_text(f"#!/bin/sh\n{answer}\n")
    path.chmod(0o755)


def test_each_minor_version_is_tested_once(tmp_path: Path) -> None:
    """The last release of each minor version on the PATH and in pyenv is chosen, and every skipped one is named."""
    on_path, pyenv = tmp_path / "bin", tmp_path / "pyenv"
    interpreter(on_path, "python3.11", "3 11 2 /usr/bin/python3.11")
    interpreter(on_path, "python3.12", None)
    interpreter(on_path, "python3.12-config", "3 12 9 /usr/bin/python3.12-config")
    interpreter(pyenv / "shims", "python3.13", "3 13 9 /elsewhere")
    interpreter(pyenv / "versions/3.11.7/bin", "python3.11", "3 11 7 /pyenv/3.11.7/bin/python3.11")
    interpreter(pyenv / "versions/3.13.0/bin", "python3.13", "3 13 0 /pyenv/3.13.0/bin/python3.13")
    interpreter(pyenv / "versions/3.9.1/bin", "python3.9", "3 9 1 /pyenv/3.9.1/bin/python3.9")
    project = Project(root=tmp_path, oldest=(3, 11), named=((3, 11), (3, 12), (3, 13), (3, 14)))
    environ = {"PATH": f"{on_path}:{pyenv / 'shims'}:/nowhere", "PYENV_ROOT": str(pyenv)}
    found, skipped = choose(candidates(environ), project)
    assert [str(each) for each in found] == ["3.11.7", "3.13.0"]
    assert sorted(skipped) == sorted(
        [
            f"{on_path / 'python3.12'}: it does not run",
            f"Python 3.11.2 ({on_path / 'python3.11'}): 3.11.7 is tested instead",
            "Python 3.9.1: older than 3.11",
            "Python 3.12: not on this machine",
            "Python 3.14: not on this machine",
        ]
    )


@pytest.mark.slow
def test_a_bound_that_is_too_low_is_found(tmp_path: Path) -> None:
    """A project whose lower bound is too low passes with the newest packages and fails with the lowest."""
    if not Path(tool("uv")).exists():
        pytest.skip("uv is not installed")
    root = tmp_path / "project"
    (root / "webhookd").mkdir(parents=True)
    (root / "tests/e2e").mkdir(parents=True)
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "webhookd/__init__.py").write_text(PROGRAM)
    (root / "tests/e2e/test_smoke.py").write_text("def test_nothing():\n    pass\n")
    project = Project.read(root)
    good, bad = (attempt(project, HERE, packages, tmp_path, is_quick=True) for packages in Packages)
    assert good.output is None
    assert good.line.startswith(f"ok: Python {HERE}, newest packages: the demo, and 1 passed in ")
    assert bad.line == f"FAILED: Python {HERE}, lowest packages"
    assert bad.output is not None
    assert "idna 2.10 has no such thing" in bad.output
