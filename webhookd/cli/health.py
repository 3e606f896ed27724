"""`webhookd health`: whether the server on this machine takes work, for what watches a container or a service."""

import json
from http import HTTPStatus

import click
import msgspec

from webhookd.base.errors import CommandError
from webhookd.cli.api import Refused
from webhookd.cli.control import Control
from webhookd.cli.options import Seconds, prints_json, takes_config
from webhookd.config import Config


class ReadinessAnswer(msgspec.Struct):
    """What `/readyz` answers."""

    status: str
    reasons: list[str] = []


@click.command("health")
@click.option(
    "--timeout",
    "timeout_seconds",
    type=Seconds(min=0, min_open=True),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for each part of the answer.",
)
@prints_json
@takes_config
def command(config: Config, timeout_seconds: float, as_json: bool) -> None:
    """Say whether the server on this machine takes work.

    It asks GET /readyz over the control socket, so that it needs no key and depends on no address or port. A server
    that is degraded takes work: its reasons are printed.

    Exit status: 0 it takes work, 1 it doesn't, or none runs.
    """
    control = Control(config.server.control_socket, timeout_seconds)
    if not control.is_served():
        raise CommandError(f"no server listens on {config.server.control_socket}")
    try:
        readiness = control.get("/readyz", ReadinessAnswer)
    except Refused as refused:
        if refused.status == HTTPStatus.SERVICE_UNAVAILABLE:
            raise CommandError("the server takes no work now: it is starting or stopping") from refused
        raise
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(readiness)))
        return
    click.echo(readiness.status)
    for reason in readiness.reasons:
        click.echo(f"  {reason}")
