"""`webhookd rotate-master-key`: through the running server or, if none runs, in the journal."""

import time
from functools import partial
from pathlib import Path

import click
import trio

from webhookd.admin.master_key import PATH, MasterKeyView, master_key_view
from webhookd.base.secret import Secret
from webhookd.cli import offline
from webhookd.cli.control import Control
from webhookd.cli.options import FilePath, prints_json, takes_config
from webhookd.cli.terminal import show_json
from webhookd.config import Config, LogConfig
from webhookd.crypto.key_file import format_master_key, load_master_key
from webhookd.jobs.key_rotation import Stage
from webhookd.observe import logs

_LOOK_SECONDS = 0.2


@click.command("rotate-master-key")
@click.option(
    "--new-key-file",
    type=FilePath(),
    help="The new key: base64 of 32 bytes, mode 0600. Required if a service manager provides the key.",
)
@prints_json
@takes_config
def command(config: Config, new_key_file: Path | None, as_json: bool) -> None:
    """Encrypt all secrets in the journal with a new master key, and replace the current key.

    It works while the server runs, and may be interrupted at any point: the journal can always be opened with the
    current key, and the next start continues the rotation. Without --new-key-file a random key is created.

    If webhookd can't replace the key (a credential, a directory it can't write to) it prints what to do.
    """
    new = None if new_key_file is None else load_master_key(new_key_file)
    control = Control(config.server.control_socket)
    if control.is_served():
        done = _through_server(control, new)
    else:
        # Only warnings and errors, on standard error: the result is printed below.
        logs.configure(LogConfig(level="warning", format=config.log.format))
        done = master_key_view(trio.run(partial(offline.rotate_master_key, config, new)))
    if as_json:
        show_json(done)
        return
    click.echo(f"master key {done.key_id}: {done.resealed} values encrypted again")
    if done.instruction is None:
        click.echo("the new key is in place; earlier copies of the journal still need the old one")
    else:
        click.echo(f"to do: {done.instruction}")


def _through_server(control: Control, new: Secret[bytes] | None) -> MasterKeyView:
    body = {} if new is None else {"newKey": format_master_key(new)}
    progress = control.post(f"{PATH}/rotate", body, MasterKeyView)
    while progress.stage is Stage.CHANGING:
        time.sleep(_LOOK_SECONDS)
        progress = control.get(PATH, MasterKeyView)
    return progress
