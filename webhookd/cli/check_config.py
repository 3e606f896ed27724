"""`webhookd check-config`: what is wrong, or what is in force."""

import click

from webhookd.admin.tokens import open_tokens
from webhookd.cli.options import takes_config
from webhookd.config import Config, describe


@click.command("check-config")
@takes_config
def command(config: Config) -> None:
    """Check the configuration: say what is wrong with line and key, or print what is in force.

    What is printed is the file and the environment together, with absolute paths and every default.
    """
    open_tokens(config.jwt)
    click.echo(describe(config), nl=False)
