"""The command line: runs a command, and turns an error into one line and an exit status.

A command's module is imported when the command is called, so that `send` and `verify` don't load the server's
libraries.
"""

import sys
from importlib import import_module

import click

from webhookd.base.errors import WebhookdError
from webhookd.base.version import VERSION
from webhookd.observe import journald

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_NAMES = (
    "serve",
    "init",
    "check-config",
    "systemd-unit",
    "build-binary",
    "webhooks",
    "deliveries",
    "events",
    "tail",
    "replay",
    "keys",
    "rotate-master-key",
    "backup",
    "restore",
    "migrate",
    "send",
    "listen",
    "verify",
    "health",
    "nodes",
    "doctor",
    "demo",
    "completion",
)


class _Commands(click.Group):
    """The commands; each is the `command` of its own module."""

    def list_commands(self, _context: click.Context) -> list[str]:
        """Return the names in the order in which a new user needs them."""
        return list(_NAMES)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """Import a command; None if it is unknown."""
        if name not in _NAMES:
            return None
        command: click.Command = import_module(f"webhookd.cli.{name.replace('-', '_')}").command
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, message="%(prog)s %(version)s")
def program() -> None:
    """Take events, keep them on disk, and deliver them as signed webhooks, in order, until they arrive.

    `webhookd demo` shows all of this on your machine in a few seconds. `webhookd serve` runs the server.

    Exit status: 0 success, 1 the command failed, 2 wrong usage, configuration or master key, 70 the journal can't be
    trusted.
    """


def main() -> None:
    """Run the command that the process was called with, and exit with its status."""
    try:
        status = program.main(prog_name="webhookd", standalone_mode=False)
        sys.stdout.flush()
    except WebhookdError as error:
        status = error.exit_status
        click.echo(f"{_mark()}webhookd: {error}", err=True)
    except click.ClickException as error:
        status = error.exit_code
        click.echo(_mark(), err=True, nl=False)
        error.show()
    except click.Abort:
        status = _INTERRUPTED
    sys.exit(status)


def _mark() -> str:
    """Return the prefix of an error line if systemd's journal reads it; `serve` adds its own."""
    is_journal = sys.stderr is sys.__stderr__ and sys.stderr is not None and journald.reads(sys.stderr.fileno())
    return journald.priority(journald.ERROR) if is_journal else ""
