"""`python -m tests`: everything that has to hold before a change goes in, in order, up to the first stage that fails.

The last line is pytest's own count, so that a glance at the end tells the result.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROGRAMS = Path(sys.executable).parent
SOURCES = sorted(str(path.relative_to(ROOT)) for top in ("webhookd", "tests") for path in (ROOT / top).rglob("*.py"))
STAGES = (
    ["ruff", "format", "--check", "--quiet"],
    ["ruff", "check", "--quiet"],
    [
        "flake8-async",
        "--startable-in-context-manager=run",
        # 124: what a protocol makes async need not await. 127: asks for another library. 220, 401: tests may block, and
        # look into exception groups themselves.
        "--disable=ASYNC124,ASYNC127,ASYNC220,ASYNC401",
        # 119: the answer's owner closes this generator, whatever becomes of the request.
        "--per-file-disable=webhookd/admin/publishing.py:ASYNC119",
        *SOURCES,
    ],
    ["mypy", "--no-error-summary"],
    ["lint-imports", "--no-logo"],
)


def main(arguments: list[str]) -> int:
    """Run the stages; the arguments go to pytest. Return the exit status."""
    for stage in STAGES:
        say(stage)
        status = subprocess.run([PROGRAMS / stage[0], *stage[1:]], cwd=ROOT, check=False).returncode
        if status:
            return status
    for left_over in ROOT.glob(".coverage*"):
        left_over.unlink()
    status, last_line = run_pytest(arguments)
    coverage = PROGRAMS / "coverage"
    subprocess.run([coverage, "combine", "--quiet"], cwd=ROOT, check=False)
    subprocess.run([coverage, "report"], cwd=ROOT, check=False)
    print(last_line, end="", flush=True)
    return status


def run_pytest(arguments: list[str]) -> tuple[int, str]:
    """Run pytest under coverage, show all it says but its last line, and return its status and that line."""
    command = ["coverage", "run", "-m", "pytest", *arguments]
    say(command)
    last_line = ""
    environ = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [PROGRAMS / command[0], *command[1:]], cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            print(last_line, end="", flush=True)
            last_line = line
    return process.returncode, last_line


def say(command: list[str]) -> None:
    """Show a stage without its list of files."""
    print("+", shlex.join(word for word in command if word not in SOURCES), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
