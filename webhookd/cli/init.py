"""`webhookd init`: creates everything that a server needs in one directory."""

import os
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click
import trio

from webhookd.base.errors import CommandError
from webhookd.base.files import make_directory
from webhookd.cli import offline
from webhookd.cli.options import FilePath, load, prints_json
from webhookd.cli.terminal import show_json
from webhookd.crypto.key_file import find_key_place


@click.command("init")
@click.argument("directory", type=click.Path(path_type=Path), default=Path(), metavar="[DIR]")
@click.option(
    "--config", "config_file", type=FilePath(), help="Use this configuration instead of writing DIR/config.toml."
)
@prints_json
def command(directory: Path, config_file: Path | None, as_json: bool) -> None:
    """Write DIR/config.toml (default: the working directory), and create the master key, the journal and an admin key.

    What exists already is not changed, so it may be run again.
    """
    path = config_file or directory / "config.toml"
    is_new = config_file is None and _write_template(path)
    if config_file is None and not as_json:
        click.echo(f"{'wrote' if is_new else 'kept'} {path}")
    config = load(path)
    key = trio.run(offline.initialize, config)
    place = find_key_place(config, os.environ)
    if as_json:
        created = {"config": str(path), "journal": config.journal.name, "masterKey": str(place)}
        show_json({**created, "adminKey": None if key is None else key.reveal()})
        return
    click.echo(f"journal {config.journal.name}")
    click.echo(f"master key {place} (keep a copy: without it the journal's secrets are lost)")
    click.echo("the journal has API keys already" if key is None else f"admin key (shown once): {key.reveal()}")
    click.echo(f"next: webhookd serve --config {path}")


def _write_template(path: Path) -> bool:
    """Write the commented configuration unless the file exists; return whether it was written."""
    try:
        make_directory(path.parent)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "w") as file:
            file.write(template())
    except FileExistsError:
        if path.is_file():
            return False
        raise CommandError(f"{path} exists and is not a file") from None
    except OSError as error:
        raise CommandError(f"can't write {path}: {error.strerror}") from error
    return True


def template() -> str:
    """Return the shipped `config.toml`."""
    return template_file().read_text(encoding="utf-8")


def template_file() -> Traversable:
    """Return the shipped `config.toml`: inside an installed package, or at the top of a working copy."""
    package = files("webhookd")
    packaged = package / "cli" / "config.toml"
    return packaged if packaged.is_file() else package / ".." / "config.toml"
