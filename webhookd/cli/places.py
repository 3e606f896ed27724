"""The place that a command works on: a remote server, the server on this machine, or the journal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar, cast

import click
from click.core import ParameterSource

from webhookd.base.errors import CommandError
from webhookd.cli.api import Api, Remote
from webhookd.cli.control import Control
from webhookd.cli.options import FilePath, load
from webhookd.cli.sources import ApiSource, Source
from webhookd.config import Config

P = ParamSpec("P")
R = TypeVar("R")

URL_VARIABLE = "WEBHOOKD_URL"
KEY_VARIABLE = "WEBHOOKD_API_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The values of `--config`, `--url` and `--key`; the configuration is read when it is needed."""

    config_file: Path | None = None
    url: str | None = None
    key: str | None = None

    def config(self) -> Config:
        """Return the configuration in force; ConfigError."""
        return load(self.config_file)

    def server(self) -> Api:
        """Return the API of the server; CommandError if none runs."""
        if (api := self.server_if_any()) is not None:
            return api
        raise CommandError(
            f"this command needs a running server, and none listens on {self._socket()}: {self._remedy()}"
        )

    def server_if_any(self) -> Api | None:
        """Return the API of the server named by `--url`, or of the one on this machine, or None if none runs."""
        if self.url is not None:
            return Remote(self.url, self.key)
        control = Control(self._socket())
        return control if control.is_served() else None

    @contextmanager
    def source(self) -> Iterator[Source]:
        """Open the source of lists: the server or, if none runs, the journal, which is noted on standard error."""
        if (api := self.server_if_any()) is not None:
            yield ApiSource(api)
            return
        # Importing this takes longer than an answer of a server.
        from webhookd.cli.journal_source import JournalSource  # noqa: PLC0415

        config = self.config()
        if config.journal.url is None and not config.journal.path.exists():
            nothing = f"no server listens on {self._socket()}, and there is no journal {config.journal.path}"
            raise CommandError(f"{nothing}: {self._remedy()}")
        where = "no server runs" if config.journal.url is None else f"no server listens on {self._socket()}"
        click.echo(f"{where}: read from the journal {config.journal.name}", err=True)
        with JournalSource.open(config) as journal:
            yield journal

    def _socket(self) -> Path:
        return self.config().server.control_socket

    def _remedy(self) -> str:
        which = "" if self.config_file is None else f" --config {self.config_file}"
        hint = "" if self.config_file else ", give its configuration with --config"
        return f"start it with `webhookd serve{which}`{hint}, or name a remote one with --url and --key"


def takes_place(command: Callable[Concatenate[Place, P], R]) -> Callable[P, R]:
    """Add `--config`, `--url` and `--key` to a command, which gets them as a Place, its first argument."""

    @click.option(
        "--config",
        "config_file",
        type=FilePath(),
        help="The TOML file of the server on this machine. Without one: the defaults, with everything below ./var.",
    )
    @click.option(
        "--url",
        "server_url",
        envvar=URL_VARIABLE,
        metavar="URL",
        help=f"A remote server, by its API's URL. [{URL_VARIABLE}]",
    )
    @click.option(
        "--key",
        "server_key",
        envvar=KEY_VARIABLE,
        metavar="KEY",
        help=f"The API key for --url; on the command line other users can see it. [{KEY_VARIABLE}]",
    )
    @wraps(command)
    def placed(*args: P.args, **kwargs: P.kwargs) -> R:
        config_file, url, key = (kwargs.pop(name) for name in ("config_file", "server_url", "server_key"))
        place = Place(
            config_file=cast("Path | None", config_file), url=cast("str | None", url), key=cast("str | None", key)
        )
        given = click.get_current_context().get_parameter_source("server_key")
        if place.url is None and given is ParameterSource.COMMANDLINE:
            raise click.UsageError("--key goes with --url: the control socket of this machine's server needs no key")
        return command(place, *args, **kwargs)

    return placed
