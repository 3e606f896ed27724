"""What every command has in common: `--config`, and the configuration it leads to."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

import click

from webhookd.config import Config, load_config

P = ParamSpec("P")
R = TypeVar("R")
_FILE = "webhookd.configuration_file"
_MOST_SECONDS = 1e9


class Seconds(click.FloatRange):
    """A number of seconds that a clock can wait for: to Python `nan` is in every range, and `inf` is a number."""

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        seconds = float(super().convert(cast("float", value), param, ctx))
        if not seconds <= _MOST_SECONDS:
            self.fail(f"{value} is no number of seconds up to {_MOST_SECONDS:.0f}.", param, ctx)
        return seconds


class InOrder(click.Group):
    """Commands that are listed in the order in which they are written down, which is that of a first acquaintance."""

    def list_commands(self, _context: click.Context) -> list[str]:
        """Return their names."""
        return list(self.commands)


def takes_config(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command the option `--config`, which reaches it as `config`: loaded and checked."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        callback=_load,
        metavar="FILE",
        help="The TOML file to configure it by. Without one: the defaults, with everything below ./var.",
    )(command)


def checks_config(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command that needs no configuration the same option; the file is checked and has no other effect."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        callback=_check,
        expose_value=False,
        metavar="FILE",
        help="Taken as by every command; nothing here depends on it.",
    )(command)


def prints_json(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command `--json`, which reaches it as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, as the API has it.")(command)


def takes_page(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command that lists something `--limit` and `--cursor`."""
    limit = click.option(
        "--limit", type=click.IntRange(1), default=50, show_default=True, metavar="N", help="How many at most."
    )
    cursor = click.option("--cursor", metavar="CURSOR", help="Go on where a list ended, with its nextCursor.")
    return limit(cursor(command))


def load(path: Path | None) -> Config:
    """Return what the file and the process's environment say."""
    return load_config(path, os.environ)


def _load(context: click.Context, _parameter: click.Parameter, path: Path | None) -> Config:
    context.meta[_FILE] = path
    return load(path)


def configuration_file() -> Path | None:
    """Return the file that `--config` named, for the command that runs."""
    path: Path | None = click.get_current_context().meta[_FILE]
    return path


def _check(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    if path is not None:
        load(path)
