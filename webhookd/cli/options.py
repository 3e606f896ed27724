"""The options that commands share: `--config`, `--json` and the options of lists."""

import os
from pathlib import Path
from typing import cast

import click

from webhookd.config import Config, load_config

_FILE = "webhookd.configuration_file"
_MOST_SECONDS = 1e9


class FilePath(click.Path):
    """A file's path, as a pathlib.Path, with the metavar FILE."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)
        self.name = "file"


class Seconds(click.FloatRange):
    """A finite number of seconds: for Python `nan` is in every range, and `inf` is a number."""

    name = "number of seconds"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002 - click's
        """Return SECONDS."""
        return "SECONDS"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        seconds = float(super().convert(cast("float", value), param, ctx))
        if not seconds <= _MOST_SECONDS:
            self.fail(f"{value} is not a number of seconds up to {_MOST_SECONDS:.0f}.", param, ctx)
        return seconds


class InOrder(click.Group):
    """A group that lists its commands in the order of their definition."""

    def list_commands(self, _context: click.Context) -> list[str]:
        """Return their names."""
        return list(self.commands)


def load(path: Path | None) -> Config:
    """Return the configuration from the file and the process's environment."""
    return load_config(path, os.environ)


def _load(context: click.Context, _parameter: click.Parameter, path: Path | None) -> Config:
    context.meta[_FILE] = path
    return load(path)


def configuration_file() -> Path | None:
    """Return the file of `--config` of the current command."""
    path: Path | None = click.get_current_context().meta[_FILE]
    return path


def _check(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    if path is not None:
        load(path)


takes_config = click.option(
    "--config",
    type=FilePath(),
    callback=_load,
    help="The TOML file to configure it by. Without one: the defaults, with everything below ./var.",
)
"""Adds the option `--config` to a command, which gets the loaded configuration as `config`."""

checks_config = click.option(
    "--config",
    type=FilePath(),
    callback=_check,
    expose_value=False,
    help="Accepted as by every command; this one doesn't use it.",
)
"""Adds the option to a command that needs no configuration; the file is checked and has no other effect."""

prints_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, as in the API.")
takes_limit = click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, metavar="N", help="The most to list."
)
takes_cursor = click.option("--cursor", metavar="CURSOR", help="Continue a list, with its nextCursor.")
