"""`webhookd doctor`: finds problems of configuration, machine and journal, and says what to do."""

import json
from pathlib import Path

import click

from webhookd.base.errors import CommandError, JournalError, WebhookdError
from webhookd.cli.checks import Finding, Level, examine
from webhookd.cli.database_checks import examine_database
from webhookd.cli.options import takes_config
from webhookd.config import Config
from webhookd.journal import Server, inspect, look_at_server, place_of

_STATUS = {Level.OK: 0, Level.PROBLEM: 1, Level.DAMAGED: JournalError.exit_status}
_SUMMARY = {
    Level.OK: "no problem found",
    Level.PROBLEM: "problems found",
    Level.DAMAGED: "the journal can't be trusted",
}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@takes_config
def command(config: Config, as_json: bool) -> None:
    """Check configuration, files, sockets, disk, journal and audit log, without changing anything.

    It may run while the server runs. It reads the whole journal, which takes a while if that is large; with
    journal.url it reads only the audit log, and looks how the server of the database is set up.

    Exit status: 0 no problem, 1 problems, 70 the journal can't be trusted.
    """
    found = _look(config)
    levels = {finding.level for _, finding in found}
    worst = next(level for level in (Level.DAMAGED, Level.PROBLEM, Level.OK) if level in levels)
    if as_json:
        checks = [{"name": name, "status": finding.level, "detail": finding.detail} for name, finding in found]
        click.echo(json.dumps({"status": worst, "checks": checks}, indent=2))
    else:
        for name, finding in found:
            click.echo(f"{finding.level:<8} {name:<14} {finding.detail}")
        click.echo(_SUMMARY[worst])
    click.get_current_context().exit(_STATUS[worst])


def _look(config: Config) -> list[tuple[str, Finding]]:
    place = place_of(config.journal)
    return _look_at_database(config, place) if isinstance(place, Server) else _look_at_file(config, place)


def _look_at_database(config: Config, place: Server) -> list[tuple[str, Finding]]:
    try:
        with look_at_server(place) as looked:
            return list(examine_database(config, looked))
    except JournalError as error:
        unusable = Finding(Level.DAMAGED, str(error))
    except WebhookdError as error:
        unusable = Finding(Level.PROBLEM, str(error))
    return [("database", unusable), *examine_database(config, None)]


def _look_at_file(config: Config, path: Path) -> list[tuple[str, Finding]]:
    try:
        if path.exists():
            with inspect(path) as journal:
                return list(examine(config, journal))
        unusable = Finding(Level.PROBLEM, f"there is no {path} yet: `webhookd init` or `webhookd serve` creates it")
    except OSError as error:
        unusable = Finding(Level.PROBLEM, f"{path}: {error.strerror}; run this as the server's user or root")
    except JournalError as error:
        unusable = Finding(Level.DAMAGED, str(error))
    except CommandError as error:
        unusable = Finding(Level.PROBLEM, str(error))
    return [("journal", unusable), *examine(config, None)]
