"""`webhookd doctor`: finds problems of configuration, machine and journal, and says what to do."""

import json

import click

from webhookd.base.errors import CommandError, JournalError
from webhookd.cli.checks import Finding, Level, examine
from webhookd.cli.options import takes_config
from webhookd.config import Config
from webhookd.journal import inspect

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

    It may run while the server runs. It reads the whole journal, which takes a while if that is large.

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
    path = config.journal.path
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
