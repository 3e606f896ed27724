"""Run every check of the project and its tests: `python -m tests`.

Format and lint run first, and a failure of either stops the run. Types, the import contract, the oldest and newest
Python and packages (`tests.versions`) and the lint of async code then run at the same time as the tests, and their
output is printed after that of the tests. flake8-async reads only changed files, because it takes two minutes for all
of them; `python -m tests.full` lints every file, measures coverage, and runs the long tests. The exit status is that of
the first failed check. Further arguments go to pytest: `python -m tests -k order` runs the checks and those tests,
`-n 0` runs all tests in one process.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# flake8-async has rules that ruff lacks. These of its rules do not fit this project.
DISABLED_RULES = (
    *(f"ASYNC{number}" for number in (119, 900, 910, 911, 912, 913)),  # off by default, and meant for libraries
    "ASYNC110",  # ruff checks it for the package; in the tests, another process can't set a trio event
    "ASYNC114",  # a `run` may also be started without waiting for it
    "ASYNC124",  # a framework decides which of its callbacks are async
    "ASYNC127",  # httpx is the user's choice
    "ASYNC220",  # a test may block its own loop for a moment
    "ASYNC401",  # a test may accept a group or its only member
)
ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
SOURCES = ("webhookd", "tests")
# A third of the suite's time is spent in waiting for processes and clocks, so two cores have work for three workers.
PARALLEL = ("-n", str(min(4, max(3, os.cpu_count() or 1))), "--dist", "worksteal")

Done = subprocess.CompletedProcess[str]


def main() -> int:
    """Run the stages; return the status of the first that fails, or 0."""
    for name, command in (
        ("format", [tool("ruff"), "format", "--check", "-q", *SOURCES]),
        ("lint", [tool("ruff"), "check", "-q", *SOURCES]),
    ):
        if status := report(name, check(command)):
            return status
    checks = [
        ("types", [tool("mypy"), "--no-error-summary"]),
        ("import contract", [tool("lint-imports"), "--no-logo"]),
        ("versions of Python and of the packages", [sys.executable, "-m", "tests.versions", "--quick"]),
    ]
    if files := changed():
        checks.append((f"lint of async code in {len(files)} changed files", async_lint(files)))
    with ThreadPoolExecutor(len(checks)) as pool:
        running = [(name, pool.submit(check, command)) for name, command in checks]
        print("== tests", flush=True)
        status, last = run_tests([tool("pytest"), *PARALLEL, *sys.argv[1:]])
        if status == 1:
            print("== failed tests again, one at a time: the machine may have been too busy", flush=True)
            status, last = run_tests([tool("pytest"), "-n", "0", "--last-failed", "--last-failed-no-failures", "none"])
        statuses = [report(name, done.result()) for name, done in running]
    if status:
        statuses.append(report_failure("tests", status))
    print(f"== {last}", flush=True)
    return next((status for status in statuses if status), 0)


def run_tests(command: Sequence[str]) -> tuple[int, str]:
    """Run the tests and print their output as it arrives; return the exit status and the last line."""
    last = ""
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip("= \n") or last
    return process.returncode, last


def sources() -> list[str]:
    """Return the path of every Python file, relative to the root."""
    return [str(path.relative_to(ROOT)) for source in SOURCES for path in sorted((ROOT / source).rglob("*.py"))]


def changed() -> list[str]:
    """Return the files that the last commit or the working copy changed; all files if git can't list them."""
    found: set[str] = set()
    for command in (
        ["git", "diff", "--name-only", "HEAD~1"],
        ["git", "ls-files", "--others", "--exclude-standard"],
    ):
        try:
            listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return sources()
        found |= set(listed.splitlines())
    return [path for path in sources() if path in found]


def async_lint(files: Sequence[str]) -> list[str]:
    """Return the command that lints the async code of these files."""
    return [tool("flake8-async"), "--disable", ",".join(DISABLED_RULES), *files]


def check(command: Sequence[str]) -> Done:
    """Run a check to its end; return its status and output."""
    return subprocess.run(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def report(name: str, result: Done) -> int:
    """Print the output of a check; return its status."""
    print(f"== {name}", flush=True)
    print(result.stdout, end="", flush=True)
    return report_failure(name, result.returncode) if result.returncode else 0


def report_failure(name: str, status: int) -> int:
    """Print which check failed; return its status."""
    print(f"== {name} failed with status {status}", flush=True)
    return status


def tool(name: str) -> str:
    """Return the path of a tool that is installed next to this Python."""
    return str(BIN / name)


def environment() -> dict[str, str]:
    """Return the environment of a check: child processes find the tools that are installed here.

    Many containers set PYTHONDONTWRITEBYTECODE, and then each of several hundred processes compiles all its imports.
    """
    environ = dict(os.environ) | {"PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}", "PYTHONUNBUFFERED": "1"}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    return environ


if __name__ == "__main__":
    sys.exit(main())
