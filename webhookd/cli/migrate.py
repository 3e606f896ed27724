"""`webhookd migrate`: moves the journal from its file to a PostgreSQL database, or back, while no server runs."""

import json
import os
from pathlib import Path

import click

from webhookd.base.database_url import SCHEMES, DatabaseUrlError, hidden, parse
from webhookd.base.errors import CommandError, ConfigError
from webhookd.cli import offline
from webhookd.cli.control import Control
from webhookd.cli.options import FilePath, configuration_file, prints_json, takes_config
from webhookd.cli.terminal import show_json, show_table
from webhookd.config import Config, LogConfig
from webhookd.crypto.key_file import find_key_place
from webhookd.journal import Moved, Server
from webhookd.observe import logs

_NAMED = (("endpoints", "webhooks"), *((name, name) for name in ("events", "deliveries", "attempts")))


@click.command("migrate")
@click.option(
    "--to",
    "to",
    required=True,
    metavar="PLACE",
    help="The empty database (postgresql://user@host/database), or from a database the new file.",
)
@click.option("--password-file", type=FilePath(), help="The file with the database's password, of mode 0600.")
@click.option("--dry-run", is_flag=True, help="Write nothing; say what would be moved, and what would not fit.")
@click.option("--replace-nul", is_flag=True, help="Store U+FFFD for NUL characters, which PostgreSQL can't store.")
@prints_json
@takes_config
def command(
    config: Config, *, to: str, password_file: Path | None, dry_run: bool, replace_nul: bool, as_json: bool
) -> None:
    """Move the journal from its file to a PostgreSQL database, or from the database to a file.

    No server may run. The configuration names the journal that is moved; it is only read. What was copied is compared
    with it, and only then can a server start with the copy. A move that was cut off is begun again by the same command.

    The output says what to change in the configuration then.
    """
    target = _target(config, to, password_file)
    if Control(config.server.control_socket).is_served():
        raise CommandError("a server is running: stop it first")
    logs.configure(LogConfig(level="warning", format=config.log.format))
    moved = offline.migrate(config, target, is_trial=dry_run, replaces_nul=replace_nul, report=_report)
    name = str(target.url) if isinstance(target, Server) else str(target)
    if as_json:
        show_json(
            {
                "from": config.journal.name,
                "to": name,
                "dryRun": dry_run,
                "tables": {
                    table: {"rows": each.rows, "sha256": each.sha256 or None} for table, each in moved.tables.items()
                },
                "keyId": moved.key_id,
                "begunAgain": moved.begun_again,
                "unfit": moved.unfit,
            }
        )
    elif dry_run:
        _show_trial(moved, name)
    else:
        _show(config, moved, target, hidden(to))
    if moved.unfit:
        raise CommandError("some values don't fit: nothing can be moved before they are corrected, or --replace-nul")


def _target(config: Config, to: str, password_file: Path | None) -> Path | Server:
    """Return the place to move to; ConfigError for one on the engine that the journal is on."""
    is_in_file = config.journal.url is None
    if to.partition("://")[0].lower() not in SCHEMES:
        if is_in_file:
            raise ConfigError(
                "--to must be a database, postgresql://user@host/database: `webhookd backup` copies a journal to "
                "another file"
            )
        if password_file is not None:
            raise ConfigError("--password-file is for a database that --to names: journal.password_file is this one's")
        return Path(to).absolute()
    if not is_in_file:
        raise ConfigError("--to must be a file: PostgreSQL's own tools, such as pg_dump, copy one database to another")
    try:
        url = parse(to)
    except DatabaseUrlError as error:
        raise ConfigError(f"the URL of --to {error}") from None  # it may hold a password
    if url.password is not None and password_file is not None:
        raise ConfigError("--password-file can't be given together with a password in the URL of --to")
    return Server(url=url, password_file=None if password_file is None else password_file.absolute())


def _report(what: str, rows: int, of: int) -> None:
    if of:
        click.echo(f"{what}: {rows:,} of {of:,} rows", err=True)


def _show_trial(moved: Moved, name: str) -> None:
    show_table(("TABLE", "ROWS"), [(table, f"{each.rows:,}") for table, each in moved.tables.items()])
    if moved.begun_again:
        click.echo(f"a move to {name} was cut off before: it would be begun again")
    for each in moved.unfit:
        click.echo(f"does not fit: {each}")
    if not moved.unfit:
        click.echo(f"nothing was written; all of it can be moved to {name}")


def _show(config: Config, moved: Moved, target: Path | Server, to: str) -> None:
    counts = ", ".join(f"{moved.tables[table].rows:,} {name}" for table, name in _NAMED)
    if moved.begun_again:
        click.echo("an earlier move was cut off: it was begun again")
    click.echo(f"moved and verified: {counts}, {moved.audit_entries:,} entries of the audit log")
    click.echo("not moved: sessions of the dashboard, whose users sign in again")
    if moved.key_id is not None:
        click.echo(f"the master key stays the same, {moved.key_id}")
    file = configuration_file()
    click.echo(f"\nput this into {'the configuration' if file is None else file}, in place of the present [journal]:\n")
    for line in _settings(config, target, to):
        click.echo(line)
    click.echo()
    old = config.journal.name
    if isinstance(target, Server):
        click.echo(
            f"and move {old} away before a server starts (with {old}-wal, if there is one): one that is started with "
            "it sends everything twice."
        )
    else:
        click.echo(f"and start no server on {old} any more: it would send everything twice.")
        click.echo(
            "the feed of events is in the order of their numbers now: a consumer that had not read all of it begins "
            "again some events before the last one that it has seen."
        )
    click.echo("keep it, and its master key, until there is a backup of the new one; then delete it.")


def _settings(config: Config, target: Path | Server, to: str) -> list[str]:
    """Return the settings of the journal that was moved, as TOML."""
    if isinstance(target, Path):
        return ["[journal]", f"path = {json.dumps(str(target))}"]
    lines = ["[journal]", f"url = {json.dumps(to)}"]
    if target.password_file is not None:
        lines.append(f"password_file = {json.dumps(str(target.password_file))}")
    if config.secrets.master_key_file is None and not (place := find_key_place(config, os.environ)).is_credential:
        # Next to a database there is no default place.
        lines += ["", "[secrets]", f"master_key_file = {json.dumps(str(place.path))}"]
    return lines
