"""`webhookd nodes` with a server whose journal is a file, with several nodes, and without a server."""

from functools import partial
from pathlib import Path

import pytest
import trio

from tests.cli.conftest import invoke, refusal
from tests.e2e.harness import running
from webhookd.admin.schemas import NodesView, NodeView
from webhookd.cli.control import Control


async def test_a_file_has_one_server(tmp_path: Path) -> None:
    """It says so, and without a server that none runs."""
    async with running(tmp_path) as server:
        config = server.config_file
        said = await trio.to_thread.run_sync(partial(invoke, "nodes", "--config", config))
        assert said.output == "the journal is a file, which one server has for itself\n"
        said = await trio.to_thread.run_sync(partial(invoke, "nodes", "--config", config, "--json"))
        assert said.output == '{\n  "nodes": [],\n  "freeSlots": 0\n}\n'
    refused = await trio.to_thread.run_sync(partial(refusal, "nodes", "--config", config))
    assert refused == f"no server listens on {tmp_path / 'control.sock'}"


def test_nodes_are_a_table_and_slots_without_one_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each node is a row with its share; while some slots have no node, the exit status is 1."""
    own = NodeView(
        id="node_a.1",
        name="web-1",
        version=1,
        program="0.1.0",
        address="10.0.0.11",
        slots=128,
        leads=True,
        lease_seconds=6.2,
        last_beat_at="2026-01-15T12:00:00.000Z",
        beat_age_seconds=0.8,
        changes_behind=2,
        own=True,
    )
    answer = NodesView(nodes=(own,), free_slots=0)
    monkeypatch.setattr(Control, "is_served", lambda _: True)
    monkeypatch.setattr(Control, "get", lambda *_: answer)
    config = tmp_path / "config.toml"
    config.write_text("")
    assert invoke("nodes", "--config", config).output.splitlines() == [
        "NAME                     SLOTS  LEASE  BEHIND  VERSION  SETTINGS  ADDRESS    ID",
        "web-1 (this one, leads)  128    6.2 s  2       0.1.0    v1        10.0.0.11  node_a.1",
    ]
    answer = NodesView(nodes=(own,), free_slots=128)
    said = refusal("nodes", "--config", config)
    assert said == "128 slots have no node: nothing is sent to their webhooks"
