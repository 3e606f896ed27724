"""`webhookd restore`: replaces the journal with a backup while no server runs."""

from pathlib import Path

import click

from webhookd.admin.backup import contents_view
from webhookd.base.errors import CommandError
from webhookd.cli import offline
from webhookd.cli.backup import describe
from webhookd.cli.control import Control
from webhookd.cli.options import FilePath, prints_json, takes_config
from webhookd.cli.terminal import show_json
from webhookd.config import Config


@click.command("restore")
@click.argument("file", type=FilePath())
@prints_json
@takes_config
def command(config: Config, file: Path, as_json: bool) -> None:
    """Replace the journal with the backup FILE; the current journal is kept next to it.

    No server may run. FILE is verified first, and the current master key must open it. The output says what the next
    start sends again.
    """
    offline.check_is_file(config)
    if Control(config.server.control_socket).is_served():
        raise CommandError("a server is running: stop it first")
    file = file.absolute()
    restored = offline.restore(config, file)
    view = contents_view(restored.contents)
    if as_json:
        kept = None if restored.kept is None else str(restored.kept)
        show_json({"file": str(file), "contents": view, "kept": kept})
        return
    click.echo(f"restored {file}: {describe(view)}")
    if restored.kept is not None:
        click.echo(f"the previous journal is kept as {restored.kept}")
    click.echo(f"the next start sends its {view.pending} pending deliveries")
    click.echo(
        "deliveries that were sent after the backup are pending in it: they are sent again, with the same webhook-id"
    )
    since = "at all" if view.last_event_at is None else f"after that of {view.last_event_at}"
    click.echo(f"events that were accepted {since} are not in it: have their producers send them again")
    click.echo("webhooks, secrets and API keys are those of the backup: revoke again what was revoked since")
