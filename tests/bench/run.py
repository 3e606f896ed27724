"""Run cases one after the other, print the figures of each, and return them for the files and the exit status."""

import json
import os
import platform
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.bench.report import Result, as_json, as_markdown, show
from tests.bench.server import SkippedCaseError
from webhookd.base.version import VERSION
from webhookd.journal import SQLITE_VERSION

WIDTH = 150


@dataclass(frozen=True, slots=True)
class Runnable:
    """A case with its title and its load."""

    title: str
    run: Callable[[], Result]


@dataclass(slots=True)
class Outcome:
    """The results of the cases by name, and why the others have none."""

    measured: dict[str, Result] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def has_failed(self) -> bool:
        """Whether a case broke or lost deliveries."""
        return bool(self.broken) or any(result.lost for result in self.measured.values())


def run_all(console: Console, cases: Mapping[str, Runnable]) -> Outcome:
    """Run the cases in order; an error of one doesn't keep the others from running."""
    outcome = Outcome()
    for name, case in cases.items():
        try:
            outcome.measured[name] = case.run()
        except SkippedCaseError as error:
            outcome.skipped[name] = str(error)
            console.print(f"{name} SKIPPED: {error}", soft_wrap=True)
        except Exception as error:  # noqa: BLE001 - the root of a case: the others still run
            traceback.print_exc()
            outcome.broken[name] = str(error)
            console.print(f"{name} BROKE: {error}", soft_wrap=True)
        else:
            show(console, f"{name}: {case.title}", outcome.measured[name])
    return outcome


def machine() -> dict[str, str]:
    """Return what the figures depend on: the time, the versions, the processors."""
    cpu = next(
        (line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "webhookd": VERSION,
        "Python": platform.python_version(),
        "SQLite": SQLITE_VERSION,
        "cores": str(os.cpu_count()),
        "CPU": cpu,
    }


def write(
    outcome: Outcome,
    cases: Mapping[str, Runnable],
    about: Mapping[str, Any],
    *,
    as_json_to: Path | None,
    as_markdown_to: Path | None,
) -> None:
    """Write every figure to the files that were asked for; - is standard output."""
    document = {
        **about,
        "skipped": outcome.skipped,
        "broken": outcome.broken,
        "results": [as_json(name, cases[name].title, result) for name, result in outcome.measured.items()],
    }
    _write(as_json_to, json.dumps(document, indent=1))
    _write(as_markdown_to, as_markdown(outcome.measured))


def _write(path: Path | None, text: str) -> None:
    if path == Path("-"):
        print(text)
    elif path is not None:
        path.write_text(text + "\n")
