"""`webhookd serve`: the server."""

import gc
import logging
from functools import partial

import click
import trio

from webhookd import logs, server
from webhookd.cli.options import takes_config
from webhookd.config import Config
from webhookd.output import StandardStreams
from webhookd.sdnotify import READY, notify
from webhookd.version import VERSION

YOUNG_OBJECTS = 20_000


@click.command("serve")
@takes_config
def command(config: Config) -> None:
    """Run the server until SIGTERM or SIGINT.

    Under systemd it says so itself when it is ready and that it is alive (Type=notify, WatchdogSec).

    One line on standard output says that it is ready, and where. Where the journal holds no API key yet, a line
    before it shows a new admin key, this once. The log goes to standard error.

    On a signal it takes no more events, gives requests in flight time to end (delivery.drain_seconds), and exits 0. A
    second signal cuts the waiting.
    """
    streams = StandardStreams(logs.dropped_line)
    logs.configure(config.log, streams.error)
    logging.captureWarnings(capture=True)
    # Under load thousands of objects are alive for a moment and hardly any are in a cycle: look for those rarely, and
    # never through what was imported.
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
    try:
        trio.run(partial(server.serve, config, _announce, streams.error))
    finally:
        streams.flush()


def _announce(ready: server.Ready) -> None:
    lines = [
        f"webhookd {VERSION} ready: API {ready.url}, events on {ready.ingest_socket}, control {ready.control_socket}"
    ]
    if ready.first_admin_key is not None:
        lines.insert(0, f"admin key (shown once): {ready.first_admin_key.reveal()}")
    print(*lines, sep="\n", flush=True)
    notify(READY, f"STATUS=API {ready.url}, events on {ready.ingest_socket}")
