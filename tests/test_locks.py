"""The lock files: the same pins in each, all that pyproject.toml asks for and admits, and nothing of where from."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.lock import BINARY, DEVELOPMENT, LOCKS, PRODUCT

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
PYTHONS = [
    found[1]
    for classifier in PROJECT["project"]["classifiers"]
    if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", classifier))
]


def entries(name: str) -> dict[str, set[str]]:
    """Return each line of a lock file that pins a package, with its hashes."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {line.partition(" --hash=")[0].strip(): set(re.findall(r"--hash=(\S+)", line)) for line in lines}


def pinned(name: str, python: str) -> dict[str, str]:
    """Return the version of each package that a lock file installs on Linux with a version of Python."""
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


def asked_for(name: str, python: str) -> Iterator[Requirement]:
    """Yield what pyproject.toml asks for and a lock file has to have."""
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
def test_a_lock_file_holds_what_is_asked_for(name: str, python: str) -> None:
    """Every requirement of the product, the build backend and the lock's extras is pinned within its bounds."""
    assert len(PYTHONS) >= 4
    pins = pinned(name, python)
    for wanted in asked_for(name, python):
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), str(wanted)


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_says_what_and_not_where_from(name: str) -> None:
    """Each package has a hash, and nothing names a host: the same file is right for every index."""
    found = entries(name)
    assert len(found) >= 30
    assert all(found.values()), [line for line, hashes in found.items() if not hashes]
    text = (ROOT / name).read_text()
    assert not re.search(r"://|^-|^[^#\n]*@|\bfile:", text, re.MULTILINE)
    assert "python -m tests.lock\n" in text.split("\n\n")[0]


@pytest.mark.parametrize("name", [PRODUCT, BINARY])
def test_the_products_pins_are_those_that_are_tested(name: str) -> None:
    """What users install is pinned to the same versions and hashes as in the lock file that the tests run from."""
    # What more a marker lets in, another package of the development lock asks for.
    tested, installed = (
        {line.partition(" ;")[0]: hashes for line, hashes in entries(each).items()} for each in (DEVELOPMENT, name)
    )
    assert {line for line, hashes in installed.items() if tested.get(line) != hashes} == set()
    for python in PYTHONS:
        assert pinned(name, python).items() <= pinned(DEVELOPMENT, python).items()
