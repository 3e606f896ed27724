"""The command line: runs a command, and turns an error into one line and an exit status.

A command's module is imported when the command is called, so that `send` and `verify` don't load the server's
libraries.
"""

import sys
from importlib import import_module
from types import MappingProxyType

import click

from webhookd.base.errors import WebhookdError
from webhookd.base.version import VERSION
from webhookd.observe import journald

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_MODULES = MappingProxyType(
    {
        "serve": "serve",
        "init": "init",
        "check-config": "check_config",
        "systemd-unit": "systemd_unit",
        "build-binary": "build_binary",
        "webhooks": "webhooks",
        "deliveries": "deliveries",
        "events": "events",
        "tail": "tail",
        "replay": "replay",
        "keys": "keys",
        "rotate-master-key": "rotate_master_key",
        "backup": "backup",
        "restore": "restore",
        "send": "send",
        "listen": "listen",
        "verify": "verify",
        "health": "health",
        "doctor": "doctor",
        "demo": "demo",
        "completion": "completion",
    }
)


class _Commands(click.Group):
    """The commands; each is the `command` of its own module."""

    def list_commands(self, _context: click.Context) -> list[str]:
        """Return the names in the order in which a new user needs them."""
        return list(_MODULES)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """Import a command; None if it is unknown."""
        if name not in _MODULES:
            return None
        command: click.Command = import_module(f"webhookd.cli.{_MODULES[name]}").command
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
