"""Test webhookd with each Python of this machine, with the newest packages and the oldest that pyproject.toml allows.

`python -m tests.versions` creates an environment for each combination, installs webhookd and the test tools into it
without the lock files, runs the demo and all tests, and prints a line for each. `--quick` runs the oldest Python with
the oldest packages and the newest Python with the newest, and only one test that covers everything once. A Python that
is not tested is named with the reason. Further arguments go to pytest. The exit status is 1 if a combination failed.
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
# Packages whose releases have broken the start before, and the most important ones.
SHOWN_PACKAGES = ("quart", "quart-trio", "hypercorn", "trio", "httpx", "apsw")
_NAME = re.compile(r"python3\.\d+")
_PRINT_VERSION = "import ensurepip, sys, venv; print(*sys.version_info[:3], sys.executable)"


class Packages(StrEnum):
    """Which of the allowed versions are installed."""

    NEWEST = "newest"
    LOWEST = "lowest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A Python that can create virtual environments."""

    version: tuple[int, int, int]
    executable: Path

    def __str__(self) -> str:
        return ".".join(map(str, self.version))


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A source tree: the oldest Python that it allows, and the Python versions that its classifiers name."""

    root: Path
    oldest: tuple[int, int]
    named: tuple[tuple[int, int], ...]

    @classmethod
    def read(cls, root: Path) -> "Project":
        """Read the pyproject.toml of a source tree."""
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        oldest = _minor(project["requires-python"].removeprefix(">="))
        found = [re.fullmatch(r".* :: (3\.\d+)", classifier) for classifier in project.get("classifiers", ())]
        return cls(root=root, oldest=oldest, named=tuple(_minor(each[1]) for each in found if each is not None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of one combination; `output` is that of the failed step, or None."""

    line: str
    output: str | None


class _StepError(Exception):
    """A command ended with a status other than 0."""


def main() -> int:
    """Test each combination; return 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="only the oldest and the newest Python and packages, with one test"
    )
    parser.add_argument("--python", action="append", metavar="3.X", help="only this version; may be repeated")
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
        print("no Python to test", flush=True)
        return 1
    # The whole suite runs in parallel itself.
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
    """Yield each executable named `python3.N` on the PATH and in pyenv's versions."""
    pyenv = Path(environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    on_path = (Path(entry) for entry in environ.get("PATH", "").split(os.pathsep) if entry)
    for directory in (*on_path, *sorted(pyenv.glob("versions/*/bin"))):
        if directory == pyenv / "shims":
            continue  # a shim only starts one of pyenv's versions, or fails
        try:
            names = sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))
        except OSError:
            continue  # the PATH may contain directories that do not exist or can't be read
        yield from (path for path in names if os.access(path, os.X_OK))


def choose(paths: Iterator[Path], project: Project) -> tuple[list[Interpreter], list[str]]:
    """Return the last release of each minor version, in ascending order, and the reasons why others are skipped."""
    found: dict[Path, Interpreter] = {}
    skipped: list[str] = []
    for path in paths:
        run = subprocess.run(
            [path, "-c", _PRINT_VERSION], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        if run.returncode:
            skipped.append(f"{path}: {(run.stderr.strip().splitlines() or ['it does not run'])[-1]}")
            continue
        *version, executable = run.stdout.split(maxsplit=3)
        major, minor, micro = (int(number) for number in version)
        real = Path(executable.strip()).resolve()
        found.setdefault(real, Interpreter(version=(major, minor, micro), executable=path))
    chosen: dict[tuple[int, int], Interpreter] = {}
    for each in sorted(found.values(), key=lambda found: found.version, reverse=True):
        minor_version = each.version[:2]
        if minor_version < project.oldest:
            skipped.append(f"Python {each}: older than {_dotted(project.oldest)}")
        elif minor_version in chosen:
            skipped.append(f"Python {each} ({each.executable}): {chosen[minor_version]} is tested instead")
        else:
            chosen[minor_version] = each
    missing = [version for version in project.named if version not in chosen]
    skipped += [f"Python {_dotted(version)}: not on this machine" for version in missing]
    return sorted(chosen.values(), key=lambda each: each.version), skipped


def attempt(
    project: Project,
    interpreter: Interpreter,
    packages: Packages,
    directory: Path,
    *,
    is_quick: bool,
    extra: Sequence[str] = (),
) -> Result:
    """Install webhookd, run the demo and run the tests."""
    name = f"Python {interpreter}, {packages} packages"
    place = directory / f"{interpreter}-{packages}"
    place.mkdir()
    began = time.monotonic()
    try:
        python = _install(project, interpreter, packages, place, is_quick=is_quick)
        _run([python.with_name("webhookd"), "demo"], place, python)
        tests = QUICK_TESTS if is_quick else PARALLEL
        output = _run(
            # anyio installs a pytest plugin, which no test uses; an old one may not work with a new pytest.
            [python, "-m", "pytest", "-q", "-p", "no:anyio", "-o", f"cache_dir={place / 'cache'}", *tests, *extra],
            project.root,
            python,
        )
        installed = _installed(python, place)
    except _StepError as error:
        return Result(line=f"FAILED: {name}", output=str(error))
    seconds = time.monotonic() - began
    summary = f"the demo, and {output.splitlines()[-1]}; {seconds:.0f} s ({installed})"
    return Result(line=f"ok: {name}: {summary}", output=None)


def _install(project: Project, interpreter: Interpreter, packages: Packages, place: Path, *, is_quick: bool) -> Path:
    """Create an environment with webhookd, its packages and the test tools; return its Python."""
    environment = place / "environment"
    _run([tool("uv"), "venv", "-q", "--no-config", "-p", interpreter.executable, environment], place)
    python = environment / "bin/python"
    # The test tools have the versions of this environment: only the product's packages are the newest or oldest.
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
    """Return the installed versions of `SHOWN_PACKAGES`."""
    listed = _run([tool("uv"), "pip", "freeze", "-q", "-p", python], place)
    found = dict(re.findall(r"^([\w-]+)==(\S+)$", listed, re.MULTILINE))
    return ", ".join(f"{name} {found[name]}" for name in SHOWN_PACKAGES if name in found)


def _run(command: Sequence[str | Path], place: Path, python: Path | None = None) -> str:
    """Return the output of a command; raise _StepError with the command and its output if it fails."""
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
