"""`webhookd serve`: runs the server."""

import gc
import logging
from functools import partial
from pathlib import Path

import click
import trio

from webhookd import server, signals
from webhookd.admin.tokens import open_tokens
from webhookd.base.allocator import use_one_arena
from webhookd.base.version import VERSION
from webhookd.cli.options import configuration_file, load, takes_config
from webhookd.config import Config
from webhookd.observe import logs
from webhookd.observe.output import StandardStreams
from webhookd.observe.sdnotify import READY, notify

YOUNG_OBJECTS = 20_000


@click.command("serve")
@takes_config
def command(config: Config) -> None:
    """Run the server until SIGTERM, SIGINT or SIGQUIT.

    Under systemd it reports by itself when it is ready, and that it is alive (Type=notify, WatchdogSec).

    When it is ready, it prints a line with its addresses on standard output. If the journal has no API key, a line
    before that shows a new admin key, only once. The log goes to standard error.

    On a signal it accepts no more events, waits for requests in flight (delivery.drain_seconds), and exits with 0. A
    second signal ends the waiting. SIGHUP checks the configuration and logs what a restart would change.
    """
    signals.ignore()
    use_one_arena()  # before the streams, which have threads
    streams = StandardStreams(logs.dropped_line)
    logs.configure(config.log, streams.error)
    logging.captureWarnings(capture=True)
    # Under load thousands of objects live for a moment, and hardly any are in a cycle: collect rarely, and never
    # examine what was imported.
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
    try:
        trio.run(partial(server.serve, config, _announce, streams.error, partial(_read, configuration_file())))
    finally:
        streams.flush()


def _read(path: Path | None) -> Config:
    """Return the configuration that a start would use now, with the checks of a start."""
    config = load(path)
    open_tokens(config.jwt)
    return config


def _announce(ready: server.Ready) -> None:
    places = f"API {' and '.join(ready.urls)}, events on {ready.ingest_socket}"
    lines = [f"webhookd {VERSION} ready: {places}, control {ready.control_socket}"]
    if ready.first_admin_key is not None:
        lines.insert(0, f"admin key (shown once): {ready.first_admin_key.reveal()}")
    print(*lines, sep="\n", flush=True)
    notify(READY, f"STATUS={places}")
