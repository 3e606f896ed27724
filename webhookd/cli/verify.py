"""`webhookd verify`: checks the signature of one request, and names the likely mistake."""

from typing import BinaryIO

import click

from webhookd.base.clock import iso
from webhookd.base.errors import CommandError
from webhookd.cli.options import Seconds, checks_config, prints_json
from webhookd.cli.terminal import show_json
from webhookd.verify import VerificationError, verify

_MOST_BODY_BYTES = 16 * 1024 * 1024


@click.command("verify")
@click.option("--secret", required=True, metavar="S", help="The webhook's whsec_… secret, or its whpk_… public key.")
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="'NAME: VALUE'",
    help="A header of the request; may be repeated. Headers without 'webhook' in the name are not needed.",
)
@click.option(
    "--body",
    type=click.File("rb"),
    default="-",
    metavar="FILE",
    help="The exact bytes of the body; - is standard input.",
)
@click.option(
    "--tolerance",
    type=Seconds(min=0),
    default=300,
    show_default=True,
    help="The allowed difference between the request's time and now, either way.",
)
@prints_json
@checks_config
def command(secret: str, headers: tuple[str, ...], body: BinaryIO, tolerance: float, as_json: bool) -> None:
    """Check the signature of one request, and name the likely mistake if it is wrong.

    Exit status 0 if the signature is valid, 1 if not.
    """
    try:
        verified = verify(secret, _parse(headers), _read(body), tolerance_seconds=tolerance)
    except VerificationError as error:
        if as_json:
            show_json({"ok": False, "mistake": error.mistake, "detail": str(error)})
        raise CommandError(f"{error.mistake}: {error}") from error
    sent_at = None if verified.timestamp is None else iso(verified.timestamp)
    if as_json:
        show_json({"ok": True, "header": verified.header, "eventId": verified.event_id, "sentAt": sent_at})
        return
    facts = [f"{verified.header} is valid"]
    if verified.event_id is not None:
        facts.append(f"event {verified.event_id}")
    if sent_at is not None:
        facts.append(f"sent at {sent_at}")
    click.echo(", ".join(facts))


def _read(body: BinaryIO) -> bytes:
    try:
        read = body.read(_MOST_BODY_BYTES + 1)
    except OSError as error:
        raise CommandError(f"can't read {body.name}: {error.strerror}") from error
    if len(read) > _MOST_BODY_BYTES:
        raise CommandError(f"{body.name} is larger than {_MOST_BODY_BYTES} bytes, which no request's body is")
    return read


def _parse(headers: tuple[str, ...]) -> dict[str, str]:
    parsed: dict[str, str] = {}
    for text in headers:
        name, separator, value = text.partition(":")
        if not separator or not name.strip():
            raise click.BadParameter(f"{text!r} is not 'name: value'", param_hint="--header")
        parsed[name.strip()] = value.strip()
    return parsed
