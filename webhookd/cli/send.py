"""`webhookd send`: submits events over the socket, one from the command line, or lines of standard input."""

import json
import os
import socket
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import cast

import click
import msgspec

from webhookd.base.errors import CommandError, ErrorCode, Rejected
from webhookd.base.event_format import check_json_text, decode_event, decode_json
from webhookd.base.files import user
from webhookd.base.line_splitter import Line, LineSplitter, Oversized
from webhookd.base.models import PublishResult
from webhookd.cli.options import Seconds, takes_config
from webhookd.client import Client, Event
from webhookd.config import Config

_PROBE_SECONDS = 1.0
_CHUNK_BYTES = 65_536
_any_json = msgspec.json.Decoder(msgspec.Raw)


@click.command("send")
@click.option("--type", "type_", metavar="T", help="The event's type. Without it, events are read from standard input.")
@click.option("--data", metavar="JSON", help="The event's data: a JSON object.")
@click.option("--id", "id_", metavar="I", help="The event's id: sent again with the same id, it is a duplicate.")
@click.option("--organization", metavar="ID", help="The event's organization.")
@click.option("--ordering-key", metavar="KEY", help='The event\'s ordering key, for webhooks whose ordering is "key".')
@click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The socket to use instead of ingest.socket.",
)
@click.option(
    "--timeout",
    type=Seconds(min=0, min_open=True),
    default=10,
    show_default=True,
    help="How long to wait without an answer, over lost connections and restarts of the server.",
)
@takes_config
def command(
    *,
    config: Config,
    type_: str | None,
    data: str | None,
    id_: str | None,
    organization: str | None,
    ordering_key: str | None,
    socket_path: Path | None,
    timeout: float,
) -> None:
    """Submit an event, or each line of standard input, and print one result a line.

    A line of standard input is an event as on the socket: {"type": "user.created", "data": {}}, optionally with "id",
    "timestamp", "organizationId", "orderingKey" and "traceparent".

    A result is printed when its event is on the server's disk. Exit status 1 if any event was refused; the others were
    accepted.
    """
    fields = {"id": id_, "organizationId": organization, "orderingKey": ordering_key}
    if type_ is None:
        if given := [name for name, value in {"data": data, **fields}.items() if value is not None]:
            raise click.UsageError(f"{given[0]} is for a single event; give its --type too")
        lines: Iterable[Line] = _lines(cast("BufferedIOBase", sys.stdin.buffer), config.ingest.max_event_bytes)
    else:
        if data is None:
            raise click.UsageError("an event needs --data, a JSON object such as '{}'")
        lines = [_line(type_, data, fields)]
    path = socket_path or config.ingest.socket
    _check_socket(path)
    refused = 0
    with Client(path, timeout=timeout) as client:
        for outcome in _outcomes(client, lines, config.ingest.max_event_bytes):
            _show(outcome)
            refused += isinstance(outcome, Rejected)
    if refused:
        raise CommandError(f"{refused} of the events {'was' if refused == 1 else 'were'} refused")


def _check_socket(path: Path) -> None:
    """Raise CommandError if waiting for a server is useless: there is no socket, or this user may not open it.

    The client handles a socket that refuses or is busy: it waits for a server that is being restarted.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, NotADirectoryError):
            raise CommandError(
                f"there is no socket {path}: start webhookd serve, or name its configuration with --config FILE"
            ) from None
        except PermissionError:
            raise CommandError(
                f"{user(os.geteuid())} may not open the socket {path}: send as the server's user or as a member of its "
                "group, or name another server's configuration with --config FILE"
            ) from None
        except OSError:
            if path.exists() and not path.is_socket():
                raise CommandError(f"{path} is not a socket: name the server's with --config FILE") from None


def _line(type_: str, data: str, fields: dict[str, str | None]) -> bytes:
    data = data.removeprefix("\ufeff")
    try:
        text = data.encode(errors="surrogateescape")
        check_json_text(text)
        decode_json(text, _any_json)
    except Rejected as refused:
        raise click.BadParameter(refused.detail, param_hint="--data") from refused
    head = json.dumps({"type": type_} | {name: value for name, value in fields.items() if value is not None})
    # A newline would end the event's line. In JSON it can only be white space, unlike U+2028.
    one_line = data.replace("\r", " ").replace("\n", " ")
    return f'{head[:-1]}, "data": {one_line}}}'.encode(errors="surrogateescape")


def _lines(stream: BufferedIOBase, max_event_bytes: int) -> Iterator[Line]:
    """Yield the lines as they arrive; a line that is too long is not held in memory."""
    splitter = LineSplitter(max_event_bytes)
    while chunk := stream.read1(_CHUNK_BYTES):
        yield from splitter.feed(chunk)
    if (last := splitter.finish()) is not None:
        yield last


def _outcomes(client: Client, lines: Iterable[Line], max_event_bytes: int) -> Iterator[PublishResult | Rejected]:
    """Submit the valid events, and yield the result or the refusal of every line in order."""
    waiting: deque[Rejected | None] = deque()  # a line that is refused here, or None for a submitted event

    def events() -> Iterator[Event]:
        for line in lines:
            try:
                event = _event(line, max_event_bytes)
            except Rejected as rejected:
                waiting.append(rejected)
            else:
                waiting.append(None)
                yield event

    for result in client.send_many(events()):
        while (rejected := waiting.popleft()) is not None:
            yield rejected
        yield result
    yield from filter(None, waiting)


def _event(line: Line, max_event_bytes: int) -> Event:
    if line is Oversized.LINE:
        raise Rejected(
            ErrorCode.PAYLOAD_TOO_LARGE, f"the line is too long; at most {max_event_bytes} bytes are accepted"
        )
    new = decode_event(line.strip(), max_bytes=max_event_bytes)
    return Event(**{**msgspec.structs.asdict(new), "data": bytes(new.data)})


def _show(result: PublishResult | Rejected) -> None:
    if isinstance(result, Rejected):
        answer = {"ok": False, "error": {"code": result.code.value, "message": result.detail}}
    else:
        answer = {"ok": True, **msgspec.structs.asdict(result)}
    click.echo(json.dumps(answer, ensure_ascii=False))
