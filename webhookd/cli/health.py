"""`webhookd health`: whether the server on this machine accepts work, for health checks of containers and services."""

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
    """The answer of `/readyz`; the API's own view takes longer to import than a health check should."""

    status: str
    reasons: list[str] = []


@click.command("health")
@click.option(
    "--timeout",
    "timeout_seconds",
    type=Seconds(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="The timeout for each read from the server.",
)
@prints_json
@takes_config
def command(config: Config, timeout_seconds: float, as_json: bool) -> None:
    """Check whether the server on this machine accepts work.

    It calls GET /readyz over the control socket, so it needs no key, address or port. A degraded server accepts work;
    the reasons are printed.

    Exit status: 0 if it accepts work, 1 if it doesn't or isn't running.
    """
    control = Control(config.server.control_socket, timeout_seconds)
    if not control.is_served():
        raise CommandError(f"no server listens on {config.server.control_socket}")
    try:
        readiness = control.get("/readyz", ReadinessAnswer)
    except Refused as refused:
        if refused.status == HTTPStatus.SERVICE_UNAVAILABLE:
            why = "; ".join(refused.reasons) or "it is starting or stopping"
            raise CommandError(f"the server accepts no work now: {why}") from refused
        raise
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(readiness)))
        return
    click.echo(readiness.status)
    for reason in readiness.reasons:
        click.echo(f"  {reason}")
