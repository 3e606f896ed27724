"""Measure how long moving a journal to PostgreSQL and back takes: `python -m tests.bench.moving --deliveries 100000`.

The journal has an event and an attempt for each delivery. The database is a server of its own on this machine, without
a network between and, where that is possible, in memory; so the figures are those of webhookd's own work.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.seed import Content, Group, seed
from tests.postgres_server import server_or_skip
from webhookd.base.database_url import parse
from webhookd.crypto.key_file import load_master_key
from webhookd.journal import Server, move_journal

_WEBHOOKS = 100
_SETTINGS = {"shared_buffers": "128MB", "max_wal_size": "1GB"}


def main(arguments: Sequence[str]) -> None:
    """Print both times in seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deliveries", type=int, default=100_000)
    deliveries = parser.parse_args(arguments).deliveries
    groups = (Group(count=_WEBHOOKS, url="http://127.0.0.1:9/{number}"),)
    with TemporaryDirectory() as place, server_or_skip(_SETTINGS) as postgres, postgres.database() as name:
        directory = Path(place)
        seed(directory, Content(groups=groups, deliveries=deliveries, are_sent=True))
        [file] = directory.glob("*.db")
        server = Server(url=parse(postgres.url(name)))
        size = file.stat().st_size / 1_048_576
        print(f"{deliveries:,} events, deliveries and attempts, {size:,.0f} MiB")
        print(f"to PostgreSQL  {_seconds(file, server, directory):.1f} s")
        print(f"to a file      {_seconds(server, directory / 'back.db', directory):.1f} s")


def _seconds(source: Path | Server, target: Path | Server, directory: Path) -> float:
    began = time.perf_counter()
    key = load_master_key(directory / "master.key")
    move_journal(source, target, load_key=lambda: key, now=time.time())
    return time.perf_counter() - began


if __name__ == "__main__":
    main(sys.argv[1:])
