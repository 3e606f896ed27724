"""`webhookd nodes`: the nodes that share a journal on PostgreSQL, and how many endpoints' slots each of them drives."""

import click

from webhookd.admin.schemas import NodesView, NodeView
from webhookd.base.errors import CommandError
from webhookd.cli.control import Control
from webhookd.cli.options import prints_json, takes_config
from webhookd.cli.terminal import show_json, show_table
from webhookd.config import Config


@click.command("nodes")
@prints_json
@takes_config
def command(config: Config, as_json: bool) -> None:
    """List the nodes that share the journal with the server on this machine.

    Webhooks are divided into 256 slots, and each slot is driven by one node at a time.

    Exit status: 0 if every slot has a node, 1 if some have none, or no server runs on this machine.
    """
    control = Control(config.server.control_socket)
    if not control.is_served():
        raise CommandError(f"no server listens on {config.server.control_socket}")
    found = control.get("/api/nodes", NodesView)
    if as_json:
        show_json(found)
    elif not found.nodes:
        click.echo("the journal is a file, which one server has for itself")
    else:
        show_table(
            ("NAME", "SLOTS", "LEASE", "BEHIND", "VERSION", "SETTINGS", "ADDRESS", "ID"),
            [_row(node) for node in found.nodes],
        )
    if found.free_slots:
        raise CommandError(f"{found.free_slots} slots have no node: nothing is sent to their webhooks")


def _row(node: NodeView) -> tuple[str, ...]:
    marks = [mark for mark, holds in (("this one", node.own), ("leads", node.leads)) if holds]
    name = f"{node.name} ({', '.join(marks)})" if marks else node.name
    return (
        name,
        str(node.slots),
        f"{node.lease_seconds:g} s",
        str(node.changes_behind),
        node.program or "",
        f"v{node.version}",
        node.address or "local",
        node.id,
    )
