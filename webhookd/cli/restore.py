"""`webhookd restore`: a backup in the journal's place, while no server runs."""

from pathlib import Path

import click

from webhookd.admin.backup import contents_view
from webhookd.base.errors import CommandError
from webhookd.cli import offline
from webhookd.cli.backup import describe
from webhookd.cli.control import Control
from webhookd.cli.options import prints_json, takes_config
from webhookd.cli.terminal import show_json
from webhookd.config import Config


@click.command("restore")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@prints_json
@takes_config
def command(config: Config, file: Path, as_json: bool) -> None:
    """Put the backup FILE in the journal's place; the journal that is there is kept beside it.

    Only while no server runs. FILE is verified first, and the master key that is in place has to open it. It says what
    the next start will send again.
    """
    if Control(config.server.control_socket).is_served():
        raise CommandError("a server is running: stop it, and restore then")
    file = file.absolute()
    restored = offline.restore(config, file)
    view = contents_view(restored.contents)
    if as_json:
        kept = None if restored.kept is None else str(restored.kept)
        show_json({"file": str(file), "contents": view, "kept": kept})
        return
    click.echo(f"restored {file}: {describe(view)}")
    if restored.kept is not None:
        click.echo(f"the journal from before is kept as {restored.kept}")
    click.echo(f"the next start sends the {view.pending} deliveries that are pending in it")
    click.echo(
        "sent again, under the same webhook-id, is what was delivered after the backup was made: to it that is pending"
    )
    since = "at all" if view.last_event_at is None else f"after that of {view.last_event_at}"
    click.echo(f"events that were taken in {since} are not in it: have their producers send them again")
    click.echo("webhooks, secrets and API keys are as they were: revoke again what was revoked since")
