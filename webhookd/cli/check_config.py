"""`webhookd check-config`: checks the configuration and prints it, or prints the reference."""

import click
import msgspec

from webhookd.admin.tokens import open_tokens
from webhookd.cli.options import prints_json, takes_config
from webhookd.cli.terminal import show_json
from webhookd.config import Config, describe, reference, shown
from webhookd.journal import check_driver


@click.command("check-config")
@click.option("--reference", "as_reference", is_flag=True, help="Print every key with its default and its meaning.")
@prints_json
@takes_config
def command(config: Config, as_reference: bool, as_json: bool) -> None:
    """Check the configuration: print the first error with its line and key, or the configuration in force.

    The output combines the file and the environment, with absolute paths and every default; passwords in URLs are
    hidden. --reference prints the page docs/configuration.md instead, in Markdown.
    """
    open_tokens(config.jwt)
    if config.journal.url is not None:
        check_driver()
    if as_reference:
        click.echo(reference(), nl=False)
    elif as_json:
        show_json(msgspec.to_builtins(shown(config), enc_hook=str))
    else:
        click.echo(describe(config), nl=False)
