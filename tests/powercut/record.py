"""Record a run of the real server under strace: what it wrote, synced, sent and answered, in order.

A run has several lives on one journal. The first upgrades a journal of the oldest version, or creates everything.
Events are submitted over the socket and HTTP while others are delivered, a backup is made, the master key is rotated
(which overwrites sealed values and truncates the log), and the server is killed under load. The next life recovers and
continues; SIGTERM ends the last one, with its checkpoint.
"""

import os
import random
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import apsw
import trio

from tests.e2e.harness import CONFIG, Server
from tests.journal.harness import MASTER_KEY
from tests.journal.old import VERSIONS, make_old
from tests.launcher import program
from tests.patience import PATIENCE_SECONDS
from tests.powercut.disk import IGNORED
from tests.powercut.trace import STRACE, is_whole
from tests.receiver import Receiver, Reply, Request
from webhookd.crypto.key_file import format_master_key

ROOT = Path(__file__).parents[2]
BACKUP = Path("backups/copy.db")
_SIZES = (2, 2, 60, 400, 3000, 20_000)
_MOST_PIPELINED = 16
_POSTED = 4


@dataclass(kw_only=True)
class Recording:
    """A run: its directory, the files at its start, the trace and final files of each life, and the sent data by id."""

    home: Path
    start: dict[str, bytes]
    traces: list[Path] = field(default_factory=list)
    ends: list[dict[str, bytes]] = field(default_factory=list)
    sent: dict[str, bytes] = field(default_factory=dict)


@cache
def why_not() -> str | None:
    """Return why nothing can be recorded on this machine, or None."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run([*STRACE, "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    return f"strace can't trace a process: {tried.stderr.strip()}" if tried.stderr or tried.returncode else None


async def record(
    place: Path,
    *,
    seed: int,
    events: int,
    from_old: bool = False,
    lives: int = 1,
    faults: Sequence[str] = (),
    checkpoint_pages: int | None = None,
) -> Recording:
    """Run a server in the empty directory `place` through its lives, with `events` events in each phase of them."""
    dice = random.Random(seed)  # noqa: S311 - not for security
    home = place.resolve() / "home"
    (home / BACKUP.parent).mkdir(parents=True)
    if from_old:
        _make_old(home)
    recording = Recording(home=home, start=files_below(home))
    server = Server(home, CONFIG, {"PYTHONPATH": str(ROOT)})
    webhookd = program(*faults, checkpoint_pages=checkpoint_pages)
    async with trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver(_answer).run)
        for life in range(lives):
            trace = place / f"trace.{life}"
            recording.traces.append(trace)
            await server.start(program=(*STRACE, "-o", str(trace), *webhookd))
            assert server.process is not None
            pid = server.process.pid
            try:
                if life == 0:
                    for ordering in ("strict", "key", "none"):
                        url = f"{receiver.url}/{ordering}"
                        await server.webhook(url, ordering=ordering)
                await _live(server, recording, dice, [f"e{life}-{number}" for number in range(events)])
                if life < lives - 1:
                    await _kill_under_load(server, recording, dice, [f"k{life}-{number}" for number in range(events)])
                else:
                    await server.stop()
            finally:
                await server.end()  # noqa: ASYNC102 - it shields what it waits for
            with trio.fail_after(60):
                while not is_whole(trace, pid):
                    await trio.sleep(0.02)
            recording.ends.append(files_below(home))
        nursery.cancel_scope.cancel()
    return recording


def files_below(home: Path) -> dict[str, bytes]:
    """Return the content of each of the server's files below a directory, by path."""
    paths = (path for path in sorted(home.rglob("*")) if path.is_file() and not str(path).endswith(IGNORED))
    return {str(path): path.read_bytes() for path in paths}


def _make_old(home: Path) -> None:
    path = home / "webhookd.db"
    make_old(path, VERSIONS[0])
    connection = apsw.Connection(str(path))
    # Its webhook has no receiver.
    connection.execute("UPDATE endpoints SET is_active = 0; PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()
    key = home / "master.key"
    key.touch(mode=0o600)
    key.write_text(format_master_key(MASTER_KEY))


def _answer(request: Request, nth: int) -> Reply:
    return Reply(status=500 if request.path == "/none" and nth % 5 == 0 else 200)


async def _live(server: Server, recording: Recording, dice: random.Random, ids: Sequence[str]) -> None:
    """Send events, make a backup and rotate the master key meanwhile, and wait until all is delivered."""
    posted, piped = ids[:_POSTED], ids[_POSTED:]
    await _pipe(server, recording, dice, piped[: len(piped) // 2])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_pipe, server, recording, dice, piped[len(piped) // 2 :])
        for event_id in posted:
            text = _text(dice)
            body = {"type": "user.created", "id": event_id, "data": {"text": text}}
            recording.sent[event_id] = b'{"text": "%s"}' % text.encode()
            await server.post("/api/events", body)
        await server.post("/api/backup", {"file": str(server.directory / BACKUP), "force": True})
        with trio.fail_after(PATIENCE_SECONDS):
            while (await server.get("/api/backup"))["stage"] != "done":
                await trio.sleep(0.02)
        await server.post("/api/master-key/rotate", {})
        with trio.fail_after(PATIENCE_SECONDS):
            while (await server.get("/api/master-key"))["stage"] != "settled":
                await trio.sleep(0.02)
    for webhook in (await server.get("/api/webhooks"))["data"]:
        if webhook["isActive"]:
            await server.settled(webhook["id"])


async def _kill_under_load(server: Server, recording: Recording, dice: random.Random, ids: Sequence[str]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_pipe, server, recording, dice, ids)
        await trio.sleep(dice.uniform(0.02, 0.15))
        await server.kill()


async def _pipe(server: Server, recording: Recording, dice: random.Random, ids: Sequence[str]) -> None:
    """Send events over the socket, a few at a time, until all are answered or the server has ended."""
    left = list(ids)
    try:
        async with await trio.open_unix_socket(str(server.socket)) as stream:
            while left:
                count = dice.randint(1, _MOST_PIPELINED)
                now, left = left[:count], left[count:]
                await stream.send_all(b"".join(_line(recording, dice, event_id) for event_id in now))
                answered = 0
                while answered < len(now):
                    chunk = await stream.receive_some(65_536)
                    if not chunk:
                        return
                    answered += chunk.count(b"\n")
    except (OSError, trio.BrokenResourceError):
        return


def _line(recording: Recording, dice: random.Random, event_id: str) -> bytes:
    data = b'{"text":  "%s"}' % _text(dice).encode()
    recording.sent[event_id] = data
    key = f'"orderingKey": "k{dice.randrange(3)}", ' if dice.random() < 0.7 else ""
    return f'{{"type": "user.created", "id": "{event_id}", {key}"data": '.encode() + data + b"}\n"


def _text(dice: random.Random) -> str:
    return dice.randbytes(dice.choice(_SIZES) // 2).hex()
