"""`webhookd completion`: the script for a shell's completion."""

import click
from click.shell_completion import get_completion_class

from webhookd.base.errors import CommandError

_VARIABLE = "_WEBHOOKD_COMPLETE"  # as click derives it from the program's name
_SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
def command(shell: str) -> None:
    """Print the script that lets a shell complete webhookd's commands, options and webhooks.

    \b
    bash: eval "$(webhookd completion bash)"      in ~/.bashrc
    zsh:  eval "$(webhookd completion zsh)"       in ~/.zshrc, after compinit
    fish: webhookd completion fish | source       in ~/.config/fish/config.fish

    The ids of webhooks come from the server on this machine, if one runs.
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise CommandError(f"the shell {shell} is not supported")
    root = click.get_current_context().find_root().command
    # Not click's own function, which would run bash to check its version.
    script = kind(root, {}, "webhookd", _VARIABLE)
    click.echo(script.source_template % script.source_vars())
