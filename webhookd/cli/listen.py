"""`webhookd listen`: a receiver for development."""

from itertools import chain, repeat

import click

from webhookd.cli.options import checks_config
from webhookd.cli.receiver import LocalReceiver, Received
from webhookd.cli.terminal import plain, show_json_line
from webhookd.verify import VerificationError, verify

_LONGEST_SHOWN = 2000


def _statuses(_context: click.Context, _parameter: click.Parameter, text: str) -> list[int]:
    statuses = [int(word) if word.strip().isdecimal() else 0 for word in text.split(",")]
    if not all(200 <= status <= 599 for status in statuses):
        raise click.BadParameter("statuses from 200 to 599, separated by commas, such as 500,500,200")
    return statuses


@click.command("listen")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=9000, show_default=True, help="0 takes a free one.")
@click.option("--secret", metavar="whsec_…", help="Verify each request with this secret (or whpk_… public key).")
@click.option(
    "--respond",
    default="200",
    callback=_statuses,
    show_default=True,
    metavar="STATUS,…",
    help="The answers, one for each request; the last repeats.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line for each request.")
@checks_config
def command(host: str, port: int, secret: str | None, respond: list[int], as_json: bool) -> None:
    """Receive webhooks on this machine: verify and print each request, and answer with the given status.

    The server must be allowed to send here: egress.allow_http = true, egress.ports = [] and
    egress.allow_networks = ["127.0.0.0/8", "::1/128"].
    """
    statuses = chain(respond, repeat(respond[-1]))
    show = _show_json if as_json else _show

    def take(request: Received) -> int:
        status = next(statuses)
        show(request, _signature(secret, request), status)
        return status

    receiver = LocalReceiver(host, port, take)
    click.echo(f"listening on {receiver.url}", err=as_json)
    receiver.run()


def _show(request: Received, signature: str, status: int) -> None:
    headers = request.headers
    facts = [
        _plain(headers.get("x-webhook-event", "no type")),
        _plain(headers.get("webhook-id", "no id")),
        f"sequence {_plain(headers.get('x-webhook-sequence', '?'))}",
        f"attempt {_plain(headers.get('x-webhook-attempt', '?'))}",
        signature,
        f"answered {status}",
    ]
    click.echo(f"POST {_plain(request.path)}: {', '.join(facts)}")
    click.echo(f"  {_plain(request.body.decode(errors='replace'))}")


def _show_json(request: Received, signature: str, status: int) -> None:
    show_json_line(
        {
            "path": request.path,
            "headers": dict(request.headers),
            "body": request.body.decode(errors="replace"),
            "signature": signature,
            "answered": status,
        }
    )


def _signature(secret: str | None, request: Received) -> str:
    if secret is None:
        return "signature not checked"
    try:
        verified = verify(secret, request.headers, request.body)
    except VerificationError as error:
        return f"SIGNATURE WRONG ({error.mistake}): {error}"
    return f"signature verified ({verified.header})"


def _plain(text: str) -> str:
    """Return a printable and shortened text."""
    return plain(text[:_LONGEST_SHOWN]) + ("…" if len(text) > _LONGEST_SHOWN else "")
