"""Every check of the project, then its tests with coverage.

Format, lint, types, the import contract, and the oldest and newest Python and packages (`tests.versions`) are checked
at once. `python -m tests` stops at the first that fails, with its status. What is given behind it goes to pytest:
`python -m tests -k order` runs the checks and those tests, `python -m tests -n 0` all of them in one process.
"""

import os
import subprocess
import sys
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
COVERAGE = ("--cov", "--cov-report=")


def main() -> int:
    """Run the stages; return the status of the first that fails, or 0."""
    files = [str(path.relative_to(ROOT)) for source in SOURCES for path in sorted((ROOT / source).rglob("*.py"))]
    checks: list[tuple[str, list[str]]] = [
        ("format", [tool("ruff"), "format", "--check", "-q", *SOURCES]),
        ("lint", [tool("ruff"), "check", "-q", *SOURCES]),
        # It takes the longest by far, and in halves half of that.
        *(
            ("lint of async code", [tool("flake8-async"), "--disable", ",".join(NOT_ASKED), *half])
            for half in (files[::2], files[1::2])
        ),
        ("types", [tool("mypy"), "--no-error-summary"]),
        ("import contract", [tool("lint-imports"), "--no-logo"]),
        ("versions of Python and of the packages", [sys.executable, "-m", "tests.versions", "--quick"]),
    ]
    # Beside each other; told one after the other.
    with ThreadPoolExecutor(len(checks)) as pool:
        running = [(name, pool.submit(check, command)) for name, command in checks]
        for name, done in running:
            result = done.result()
            print(f"== {name}", flush=True)
            print(result.stdout, end="", flush=True)
            if result.returncode:
                return failed(name, result.returncode)
    print("== tests", flush=True)
    status = subprocess.call([tool("pytest"), *PARALLEL, *COVERAGE, *sys.argv[1:]], cwd=ROOT, env=environment())
    if status:
        return failed("tests", status)
    command = [tool("coverage"), "report", "--format=total"]
    total = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(f"== {total.stdout.strip()} % of lines and branches covered, processes of the tests' own apart", flush=True)
    return 0


def check(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a check to its end, with all that it says."""
    return subprocess.run(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def failed(name: str, status: int) -> int:
    """Say what failed, and return its status."""
    print(f"== {name} failed with status {status}", flush=True)
    return status


def tool(name: str) -> str:
    """Return the path of a tool that was installed beside this Python."""
    return str(BIN / name)


def environment() -> dict[str, str]:
    """Return the environment of a stage: child processes of the tests find what is installed here."""
    return dict(os.environ) | {"PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}", "PYTHONUNBUFFERED": "1"}


if __name__ == "__main__":
    sys.exit(main())
