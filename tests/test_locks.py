"""The lock files agree with each other and with pyproject.toml, and name no package index."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.lock import DEVELOPMENT, LOCKS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
PYTHONS = [
    found[1]
    for classifier in PROJECT["project"]["classifiers"]
    if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", classifier))
]


def entries(name: str) -> dict[str, set[str]]:
    """Return each pinned requirement of a lock file, with its hashes."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {line.partition(" --hash=")[0].strip(): set(re.findall(r"--hash=(\S+)", line)) for line in lines}


def pinned(name: str, python: str) -> dict[str, str]:
    """Return the version of each package that a lock file installs on Linux with this version of Python."""
    found: dict[str, str] = {}
    for line in entries(name):
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate(environment(python)):
            [each] = wanted.specifier
            assert each.operator == "=="
            key = canonicalize_name(wanted.name)
            assert key not in found, f"{key} is pinned twice for {python}"
            found[key] = each.version
    return found


def environment(python: str) -> dict[str, str]:
    named = {str(name): str(value) for name, value in default_environment().items()}
    return named | {"python_version": python, "python_full_version": f"{python}.7", "sys_platform": "linux"}


def required(name: str, python: str) -> Iterator[Requirement]:
    """Yield each requirement of pyproject.toml that a lock file must satisfy."""
    extras, others = LOCKS[name]
    left = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"], *others]
    left += [f"webhookd[{extra}]" for extra in extras]
    while left:
        wanted = Requirement(left.pop())
        if wanted.name == "webhookd":
            left += [each for extra in wanted.extras for each in EXTRAS[extra]]
        elif wanted.marker is None or wanted.marker.evaluate(environment(python)):
            yield wanted


@pytest.mark.parametrize("name", LOCKS)
@pytest.mark.parametrize("python", PYTHONS)
def test_a_lock_file_satisfies_every_requirement(name: str, python: str) -> None:
    """Every requirement of the product, the build backend and the lock's extras is pinned within its bounds."""
    assert len(PYTHONS) >= 4
    pins = pinned(name, python)
    for wanted in required(name, python):
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), str(wanted)


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_names_no_package_index(name: str) -> None:
    """Each package has a hash, and no host is named: the same file works with every package index."""
    found = entries(name)
    assert len(found) >= 30
    assert all(found.values()), [line for line, hashes in found.items() if not hashes]
    text = (ROOT / name).read_text()
    assert not re.search(r"://|^-|^[^#\n]*@|\bfile:", text, re.MULTILINE)
    assert "python -m tests.lock\n" in text.split("\n\n")[0]


@pytest.mark.parametrize("name", [name for name in LOCKS if name != DEVELOPMENT])
def test_the_products_pins_are_the_tested_ones(name: str) -> None:
    """The lock files for users pin the same versions and hashes as the lock file of the tests."""
    # Markers are ignored here: in the development lock, other packages may need the same package more often.
    tested, installed = (
        {line.partition(" ;")[0]: hashes for line, hashes in entries(each).items()} for each in (DEVELOPMENT, name)
    )
    assert {line for line, hashes in installed.items() if tested.get(line) != hashes} == set()
    for python in PYTHONS:
        assert pinned(name, python).items() <= pinned(DEVELOPMENT, python).items()
