"""Every check of the project, then its tests.

Format and lint come first, and what they find stops everything. Types, the import contract, the oldest and newest
Python and packages (`tests.versions`) and the lint of async code are then checked beside the tests, and told after
them. flake8-async reads the files that have changed, since it takes two minutes for all of them; `python -m tests.full`
has it read them all, measures coverage, and runs what takes long. The status is that of the first that fails. What is
given behind it goes to pytest: `python -m tests -k order` runs the checks and those tests, `-n 0` all of them in one
process.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# flake8-async stands in for what ruff lacks; these of its rules don't fit here.
NOT_ASKED = (
    *(f"ASYNC{number}" for number in (119, 900, 910, 911, 912, 913)),  # off by default, and meant for libraries
    "ASYNC110",  # ruff asks it of the package; in the tests another process sets no event
    "ASYNC114",  # a `run` may also be started without waiting for it
    "ASYNC124",  # a framework decides which of its callbacks are async
    "ASYNC127",  # httpx is the user's choice
    "ASYNC220",  # a test may block its own loop for a moment
    "ASYNC401",  # a test may accept a group or its only member
)
ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
SOURCES = ("webhookd", "tests")
# Much of the suite waits for processes and clocks. More than four at once would wait for each other.
PARALLEL = ("-n", str(min(4, max(2, os.cpu_count() or 2))), "--dist", "worksteal")

Done = subprocess.CompletedProcess[str]


def main() -> int:
    """Run the stages; return the status of the first that fails, or 0."""
    for name, command in (
        ("format", [tool("ruff"), "format", "--check", "-q", *SOURCES]),
        ("lint", [tool("ruff"), "check", "-q", *SOURCES]),
    ):
        if status := told(name, check(command)):
            return status
    beside = [
        ("types", [tool("mypy"), "--no-error-summary"]),
        ("import contract", [tool("lint-imports"), "--no-logo"]),
        ("versions of Python and of the packages", [sys.executable, "-m", "tests.versions", "--quick"]),
    ]
    if files := changed():
        beside.append((f"lint of async code in {len(files)} files that changed", async_lint(files)))
    with ThreadPoolExecutor(len(beside)) as pool:
        running = [(name, pool.submit(check, command)) for name, command in beside]
        print("== tests", flush=True)
        status, last = tested([tool("pytest"), *PARALLEL, *sys.argv[1:]])
        if status == 1:
            print("== what failed, once more by itself: a machine may have been too busy", flush=True)
            status, last = tested([tool("pytest"), "-n", "0", "--last-failed", "--last-failed-no-failures", "none"])
        failures = [told(name, done.result()) for name, done in running]
    if status:
        failures.append(failed("tests", status))
    print(f"== {last}", flush=True)
    return next((failure for failure in failures if failure), 0)


def tested(command: Sequence[str]) -> tuple[int, str]:
    """Run the tests, showing what they say as it comes; return the status and the closing line."""
    last = ""
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip("= \n") or last
    return process.returncode, last


def sources() -> list[str]:
    """Return every file of Python."""
    return [str(path.relative_to(ROOT)) for source in SOURCES for path in sorted((ROOT / source).rglob("*.py"))]


def changed() -> list[str]:
    """Return the files that the last commit or the working copy has changed; all of them where git can't tell."""
    found: set[str] = set()
    for command in (
        ["git", "diff", "--name-only", "HEAD~1"],
        ["git", "ls-files", "--others", "--exclude-standard"],
    ):
        try:
            said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return sources()
        found |= set(said.splitlines())
    return [path for path in sources() if path in found]


def async_lint(files: Sequence[str]) -> list[str]:
    """Return the command that looks at the async code of these files."""
    return [tool("flake8-async"), "--disable", ",".join(NOT_ASKED), *files]


def check(command: Sequence[str]) -> Done:
    """Run a check to its end, with all that it says."""
    return subprocess.run(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def told(name: str, result: Done) -> int:
    """Print what a check has said; return its status."""
    print(f"== {name}", flush=True)
    print(result.stdout, end="", flush=True)
    return failed(name, result.returncode) if result.returncode else 0


def failed(name: str, status: int) -> int:
    """Say what failed, and return its status."""
    print(f"== {name} failed with status {status}", flush=True)
    return status


def tool(name: str) -> str:
    """Return the path of a tool that was installed beside this Python."""
    return str(BIN / name)


def environment() -> dict[str, str]:
    """Return the environment of a stage: child processes of the tests find what is installed here.

    Many containers tell Python to write no bytecode, and then each of some hundred processes compiles all it imports.
    """
    environ = dict(os.environ) | {"PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}", "PYTHONUNBUFFERED": "1"}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    return environ


if __name__ == "__main__":
    sys.exit(main())
