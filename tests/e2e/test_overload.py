"""An overloaded server stores exactly what it accepts, and its memory does not grow with the backlog."""

import shutil
from pathlib import Path

import pytest

from tests.bench.seed import Content, Group, seed
from tests.bench.server import serving
from tests.journal.old import ask
from tests.launcher import program
from tests.overload import FAULTS, finds, run
from tests.patience import wait_until

NOWHERE = "http://127.0.0.1:1234/"
LITTLE, MUCH = 2_000, 40_000
GROWN_MEBIBYTES = 12
WEBHOOKS = 2


def test_accepted_equals_stored_under_overload(tmp_path: Path) -> None:
    """Every accepted event is stored and no refused one; refusals are 429 and 503 with Retry-After, or error lines."""
    count = run(tmp_path)
    assert count.broken() == []
    assert count.accepted == count.stored
    seen = set(count.answers)
    assert {"HTTP 202", "HTTP 503", "line ok"} <= seen
    assert "HTTP 429" in seen or "closed without an answer" in seen


def test_a_loss_under_overload_is_found(tmp_path: Path) -> None:
    """The harness finds a server that acknowledges refused events."""
    assert finds(tmp_path, FAULTS[0])


@pytest.fixture(scope="module")
def journals(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    seeded = {}
    for deliveries in (LITTLE, MUCH):
        seeded[deliveries] = tmp_path_factory.mktemp("backlog")
        seed(seeded[deliveries], Content(groups=(Group(count=WEBHOOKS, url=NOWHERE),), deliveries=deliveries))
    return seeded


def peak(seeded: Path, *faults: str) -> float:
    """Return the peak memory, in MiB, of a server that starts on a copy of a journal."""
    journal = seeded.with_name(f"{seeded.name}-{len(list(seeded.parent.iterdir()))}")
    shutil.copytree(seeded, journal)
    environ = {"WEBHOOKD_LOG__LEVEL": "error"}
    with serving(journal, environ=environ, abandon=True, wrapper=program(*faults) if faults else ()) as server:
        attempted = "SELECT count(DISTINCT delivery_pk) FROM attempts"
        wait_until(lambda: ask(journal / "webhookd.db", attempted) == [(WEBHOOKS,)])
        return server.peak_mebibytes()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_backlog(journals: dict[int, Path]) -> None:
    """A start on twenty times the backlog takes hardly more memory; the test finds a server that reads all of it."""
    little, much = peak(journals[LITTLE]), peak(journals[MUCH])
    assert much - little < GROWN_MEBIBYTES
    assert peak(journals[MUCH], "holds the whole backlog in memory") - little > GROWN_MEBIBYTES
