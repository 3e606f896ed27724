"""webhookd with each Python of this machine, with the newest packages and with the oldest that pyproject.toml admits.

`python -m tests.versions` makes an environment for each, installs webhookd and the test tools into it without the lock
files, runs the demo and the whole suite, and prints a line for each. `--quick` takes the oldest Python with the oldest
packages and the newest Python with the newest, and of the suite one test that looks at everything once. A Python that
isn't tried is named with the reason. What is given beside that goes to pytest. Exit status 1 if any failed.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path

from tests.__main__ import PARALLEL, ROOT, tool

QUICK_TESTS = ("tests/e2e/test_smoke.py",)
QUICK_TOOLS = ("pytest", "pytest-trio")
SHOWN_LINES = 40
# Those whose release broke the start before, and those that most of the rest stands on.
SHOWN_PACKAGES = ("quart", "quart-trio", "hypercorn", "trio", "httpx", "apsw")
_NAME = re.compile(r"python3\.\d+")
_SAYS = "import ensurepip, sys, venv; print(*sys.version_info[:3], sys.executable)"


class Packages(StrEnum):
    """Which of the admitted versions are installed."""

    NEWEST = "newest"
    LOWEST = "lowest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A Python that can make environments."""

    version: tuple[int, int, int]
    executable: Path

    def __str__(self) -> str:
        return ".".join(map(str, self.version))


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """The source tree that is installed, and what it says of itself."""

    root: Path
    oldest: tuple[int, int]
    named: tuple[tuple[int, int], ...]

    @classmethod
    def read(cls, root: Path) -> "Project":
        """Read the pyproject.toml of a source tree."""
        said = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        oldest = _minor(said["requires-python"].removeprefix(">="))
        found = [re.fullmatch(r".* :: (3\.\d+)", classifier) for classifier in said.get("classifiers", ())]
        return cls(root=root, oldest=oldest, named=tuple(_minor(each[1]) for each in found if each is not None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one combination; `output` is of the step that failed."""

    line: str
    output: str | None


class _StepError(Exception):
    """A command ended with another status than 0."""


def main() -> int:
    """Try each combination; return 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="the oldest Python and packages, the newest of both, and one test"
    )
    parser.add_argument("--python", action="append", metavar="3.X", help="only this one; may be repeated")
    arguments, for_pytest = parser.parse_known_args()
    project = Project.read(ROOT)
    interpreters, skipped = choose(candidates(os.environ), project)
    if arguments.python:
        chosen = {_minor(each) for each in arguments.python}
        interpreters = [each for each in interpreters if each.version[:2] in chosen]
    combinations = [(each, packages) for each in interpreters for packages in Packages]
    if arguments.quick:
        skipped += [f"Python {each}: neither the oldest nor the newest" for each in interpreters[1:-1]]
        combinations = [each for each in combinations if _is_quick(*each, interpreters)]
    for reason in skipped:
        print(f"skipped: {reason}", flush=True)
    if not combinations:
        print("no Python to try", flush=True)
        return 1
    # The whole suite is parallel in itself.
    workers = os.cpu_count() or 2 if arguments.quick else 1
    failures = 0
    with tempfile.TemporaryDirectory(prefix="webhookd-versions-") as directory, ThreadPoolExecutor(workers) as pool:
        running = [
            pool.submit(
                attempt, project, interpreter, packages, Path(directory), is_quick=arguments.quick, extra=for_pytest
            )
            for interpreter, packages in combinations
        ]
        for each in running:
            result = each.result()
            if result.output is not None:
                failures += 1
                print("\n".join(result.output.splitlines()[-SHOWN_LINES:]), flush=True)
            print(result.line, flush=True)
    return 1 if failures else 0


def _is_quick(interpreter: Interpreter, packages: Packages, interpreters: Sequence[Interpreter]) -> bool:
    if packages is Packages.LOWEST:
        return interpreter == interpreters[0]
    return interpreter == interpreters[-1]


def candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield each file that is called like a Python 3: on the PATH, and of pyenv."""
    pyenv = Path(environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    on_path = (Path(entry) for entry in environ.get("PATH", "").split(os.pathsep) if entry)
    for directory in (*on_path, *sorted(pyenv.glob("versions/*/bin"))):
        if directory == pyenv / "shims":
            continue  # each stands for one of pyenv's versions, or says that it stands for none
        try:
            names = sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))
        except OSError:
            continue  # the PATH may name what isn't there, or may not be looked at
        yield from (path for path in names if os.access(path, os.X_OK))


def choose(paths: Iterator[Path], project: Project) -> tuple[list[Interpreter], list[str]]:
    """Return the last release of each minor version, in order, and why the others are left out."""
    found: dict[Path, Interpreter] = {}
    skipped: list[str] = []
    for path in paths:
        said = subprocess.run(
            [path, "-c", _SAYS], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        if said.returncode:
            skipped.append(f"{path}: {(said.stderr.strip().splitlines() or ['it does not run'])[-1]}")
            continue
        *version, executable = said.stdout.split(maxsplit=3)
        major, minor, micro = (int(number) for number in version)
        real = Path(executable.strip()).resolve()
        found.setdefault(real, Interpreter(version=(major, minor, micro), executable=path))
    tried: dict[tuple[int, int], Interpreter] = {}
    for each in sorted(found.values(), key=lambda found: found.version, reverse=True):
        minor_version = each.version[:2]
        if minor_version < project.oldest:
            skipped.append(f"Python {each}: older than {_dotted(project.oldest)}")
        elif minor_version in tried:
            skipped.append(f"Python {each} ({each.executable}): {tried[minor_version]} is tried")
        else:
            tried[minor_version] = each
    missing = [version for version in project.named if version not in tried]
    skipped += [f"Python {_dotted(version)}: not on this machine" for version in missing]
    return sorted(tried.values(), key=lambda each: each.version), skipped


def attempt(
    project: Project,
    interpreter: Interpreter,
    packages: Packages,
    directory: Path,
    *,
    is_quick: bool,
    extra: Sequence[str] = (),
) -> Result:
    """Install, run the demo, run the tests."""
    name = f"Python {interpreter}, {packages} packages"
    place = directory / f"{interpreter}-{packages}"
    place.mkdir()
    began = time.monotonic()
    try:
        python = _install(project, interpreter, packages, place, is_quick=is_quick)
        _run([python.with_name("webhookd"), "demo"], place, python)
        tests = QUICK_TESTS if is_quick else PARALLEL
        said = _run(
            # anyio brings a plugin, which no test uses; an old one may not suit a new pytest.
            [python, "-m", "pytest", "-q", "-p", "no:anyio", "-o", f"cache_dir={place / 'cache'}", *tests, *extra],
            project.root,
            python,
        )
        installed = _installed(python, place)
    except _StepError as error:
        return Result(line=f"FAILED: {name}", output=str(error))
    seconds = time.monotonic() - began
    return Result(line=f"ok: {name}: the demo, and {said.splitlines()[-1]}; {seconds:.0f} s ({installed})", output=None)


def _install(project: Project, interpreter: Interpreter, packages: Packages, place: Path, *, is_quick: bool) -> Path:
    """Return the Python of a new environment with webhookd, its packages and the tests' tools."""
    environment = place / "environment"
    _run([tool("uv"), "venv", "-q", "--no-config", "-p", interpreter.executable, environment], place)
    python = environment / "bin/python"
    # As they are here: it is the product's packages that are to be the newest, or the oldest.
    tools = [f"{name}=={version(name)}" for name in QUICK_TOOLS]
    wanted = [str(project.root), *tools] if is_quick else [f"{project.root}[test]"]
    if packages is Packages.LOWEST:
        pins = place / "lowest.txt"
        _run(
            [
                *(tool("uv"), "pip", "compile", "-q", "--no-config", "--resolution", "lowest-direct"),
                *("--python", python, project.root / "pyproject.toml", "-o", pins),
            ],
            place,
        )
        wanted += ["--constraints", str(pins)]
    _run([tool("uv"), "pip", "install", "-q", "--no-config", "-p", python, *wanted], place)
    return python


def _installed(python: Path, place: Path) -> str:
    """Return the versions of some packages."""
    listed = _run([tool("uv"), "pip", "freeze", "-q", "-p", python], place)
    found = dict(re.findall(r"^([\w-]+)==(\S+)$", listed, re.MULTILINE))
    return ", ".join(f"{name} {found[name]}" for name in SHOWN_PACKAGES if name in found)


def _run(command: Sequence[str | Path], place: Path, python: Path | None = None) -> str:
    """Return what a command prints; _StepError with it and the command where it fails."""
    environ = dict(os.environ) | {"UV_PYTHON_DOWNLOADS": "never"}
    if python is not None:
        environ["PATH"] = f"{python.parent}{os.pathsep}{environ.get('PATH', '')}"
    words = [str(word) for word in command]
    run = subprocess.run(
        words,
        cwd=place,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if run.returncode:
        raise _StepError(f"{' '.join(words)} ended with status {run.returncode}:\n{run.stdout}")
    return run.stdout.strip()


def _minor(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


if __name__ == "__main__":
    sys.exit(main())
