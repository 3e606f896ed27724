"""`webhookd completion`: the script for a shell's completion."""

from types import MappingProxyType

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

_VARIABLE = "_WEBHOOKD_COMPLETE"  # as click derives it from the program's name
_SHELLS = MappingProxyType({"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete})


@click.command("completion")
@click.argument("shell", type=click.Choice(list(_SHELLS)))
def command(shell: str) -> None:
    """Print the script that lets a shell complete webhookd's commands, options and webhooks.

    \b
    bash: eval "$(webhookd completion bash)"      in ~/.bashrc
    zsh:  eval "$(webhookd completion zsh)"       in ~/.zshrc, after compinit
    fish: webhookd completion fish | source       in ~/.config/fish/config.fish

    The ids of webhooks come from the server on this machine, if one runs.
    """
    root = click.get_current_context().find_root().command
    # Not click's own function, which would run bash to check its version.
    script = _SHELLS[shell](root, {}, "webhookd", _VARIABLE)
    click.echo(script.source_template % script.source_vars())
