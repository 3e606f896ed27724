"""The process: wiring, nesting, signals and the drain.

The nurseries nest so that what others depend on lives longest:

    writer  >  actors, connections out  >  edges (guard, ingest socket)

A stop signal first makes the server not ready. The edges stop taking and answer what they took; then nothing new is
sent and requests in flight get `drain_seconds`; the rest are canceled, which records them as interrupted; at last the
writer puts everything on disk, checkpoints and closes. A second signal cuts the waiting. A failure of the writer ends
the process at once: it is for the service manager to start it again, and for the journal to know what was pending.
"""

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from webhookd.admin.app import create_app
from webhookd.admin.auth import KeyRing, new_key
from webhookd.admin.binding import bind_control, bind_tcp
from webhookd.admin.guard import Guard
from webhookd.clock import Clock, SystemClock
from webhookd.config import Config
from webhookd.delivery.sender import Sender
from webhookd.errors import MasterKeyError, WebhookdError
from webhookd.ids import IdFactory
from webhookd.ingest import IngestServer
from webhookd.journal import Journal, check_master_key, holds_secrets, keys, open_journal
from webhookd.logs import get_logger
from webhookd.models import Role
from webhookd.router import Router
from webhookd.secrets import Vault, create_master_key, load_master_key
from webhookd.supervisor import Supervisor

EDGE_DRAIN_SECONDS = 10.0

_log = get_logger("server")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What a server says once it serves: where, and the first admin key where it has just made one."""

    url: str
    ingest_socket: Path
    control_socket: Path
    first_admin_key: str | None


def master_key_file(config: Config) -> Path:
    """Return where the master key is, or will be made: beside the journal unless the configuration says otherwise."""
    return config.secrets.master_key_file or config.journal.path.with_name("master.key")


async def unlock(journal: Journal, config: Config) -> Vault:
    """Return the vault of a journal; the key file is made where it is missing and nothing is sealed yet.

    Raises MasterKeyError for a file that can't be used, that is missing, or that isn't this journal's.
    """
    path = master_key_file(config)
    if path.exists():
        vault = Vault(load_master_key(path))
    elif await journal.read(holds_secrets):
        raise MasterKeyError(
            f"the master key {path} is missing, and the journal {config.journal.path} holds secrets that only it opens: "
            "restore the file, or set secrets.master_key_file to where it is"
        )
    else:
        vault = Vault(create_master_key(path))
    await journal.write(check_master_key, vault)
    return vault


async def ensure_admin_key(journal: Journal, ids: IdFactory, clock: Clock) -> str | None:
    """Make an admin key where the journal holds no key at all, and return its text; else None."""
    key_id, text = new_key(Role.ADMIN, ids)
    made = await journal.write(keys.insert_first, key_id=key_id, text=text, now=clock.now())
    return text if made else None
