"""The checks of `webhookd doctor`, one function each, in the order in which they are printed.

A check yields its findings. An error that it raises becomes a finding too: JournalError means that the journal can't be
trusted, any other error of webhookd is a problem.
"""

import grp
import os
import pwd
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from webhookd.admin.schemas import LoopView, StallView
from webhookd.admin.tokens import open_tokens
from webhookd.base.errors import JournalError, WebhookdError
from webhookd.base.interpreter import Optimization, describe, lacking_here
from webhookd.cli.control import Control
from webhookd.cli.health import ReadinessAnswer
from webhookd.config import Config
from webhookd.crypto.key_file import find_key_place
from webhookd.delivery.custom_headers import reserved
from webhookd.journal import SQLITE_VERSION, Inspection, Views, copy_before_upgrade

_LEAST_FREE_BYTES = 256 * 1024 * 1024
_FULL_SHARE = 0.9
_OLDEST_SQLITE = (3, 51, 3)
_LONG_STALL_SECONDS = 1.0
_OTHERS_MAY_WRITE = 0o002
_GROUP_MAY_WRITE = 0o020


class Level(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    NOTE = "note"  # could be better, and nothing is wrong
    PROBLEM = "problem"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Finding:
    """A result of a check; `detail` says what was found and, for a problem, what to do."""

    level: Level
    detail: str


def configuration(config: Config) -> Iterator[Finding]:
    """The files that the configuration names can be used; the configuration itself was read before."""
    tokens = open_tokens(config.jwt)
    yield ok(f"valid; tokens (JWT) are {'not ' if tokens is None else ''}accepted")


def server(config: Config) -> Iterator[Finding]:
    """A running server is ready, and its event loop was not blocked."""
    control = Control(config.server.control_socket)
    if not control.is_served():
        yield ok("none is running")
        return
    readiness = control.get("/readyz", ReadinessAnswer)
    yield from [problem(reason) for reason in readiness.reasons] or [ok(f"running, {readiness.status}")]
    yield of_stall(control.get("/api/loop", LoopView).longest_stall)


def of_stall(stall: StallView | None) -> Finding:
    """Return a finding on the event loop's longest stall; only CPU time counts, not what the machine delayed."""
    if stall is None:
        return ok("the event loop was never blocked for 20 ms in the last hour")
    detail = (
        f"the event loop's longest stall of the last hour ended at {stall.ended_at}: {stall.seconds * 1000:.0f} ms, "
        f"{stall.cpu_seconds * 1000:.0f} ms of them on a processor, in {stall.task or 'no single task'}"
    )
    if stall.cpu_seconds < _LONG_STALL_SECONDS:
        return ok(detail)
    return problem(f"{detail}; please report its line `loop.stalled` in the log")


def sockets(config: Config) -> Iterator[Finding]:
    """The sockets have the right mode, and no other user can replace them."""
    for name, path, mode in (
        ("server.control_socket", config.server.control_socket, 0o600),
        ("ingest.socket", config.ingest.socket, 0o660),
    ):
        yield from _open_to_others(path.parent)
        try:
            found = path.stat()
        except FileNotFoundError:
            yield ok(f"{name}: {path} is created by a server")
            continue
        if not stat.S_ISSOCK(found.st_mode):
            yield problem(f"{name}: {path} is not a socket: remove it")
        elif (actual := stat.S_IMODE(found.st_mode)) != mode:
            yield problem(f"{name}: {path} has mode {actual:04o} instead of {mode:04o}: chmod {mode:o} {path}")
        else:
            yield ok(f"{name}: {path}, mode {mode:04o}")


def files(path: Path) -> Iterator[Finding]:
    """Only the owner can read the journal's files."""
    yield from _open_to_others(path.parent)
    owner = path.stat().st_uid if path.exists() else None
    for file in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm", ".lock", ".reserve"))):
        if not file.exists():
            continue
        found = file.stat()
        mode = stat.S_IMODE(found.st_mode)
        if mode & 0o077:
            yield problem(f"{file} has mode {mode:04o}, and others can read it: chmod 600 {file}")
        elif owner is not None and found.st_uid != owner:
            yield problem(f"{file} belongs to uid {found.st_uid} and the journal to {owner}: chown {owner} {file}")
        else:
            yield ok(f"{file}, mode {mode:04o}")


def master_key(config: Config, journal: Views | None) -> Iterator[Finding]:
    """The master key exists, only its owner can read it, and it opens the journal's secrets."""
    place = find_key_place(config, os.environ)
    key = place.load()
    if journal is None:
        yield ok(f"{place} is a key; whether it is the journal's can't be checked")
    elif journal.check_master_key(key, None if config.journal.url is None else place.load_next()):
        yield ok(f"{place} opens the journal's secrets")
    else:
        yield ok(f"{place}; the journal holds no secret yet")


def disk(path: Path, most: int | None) -> Iterator[Finding]:
    """The disk and journal.max_bytes have room."""
    free = shutil.disk_usage(path.parent).free
    size = path.stat().st_size if path.exists() else 0
    if free < _LEAST_FREE_BYTES:
        yield problem(f"{_megabytes(free)} are free in {path.parent}: free space before events are refused")
    elif most is not None and size > most * _FULL_SHARE:
        yield problem(
            f"the journal has {_megabytes(size)} of the {_megabytes(most)} that journal.max_bytes allows: raise it, or "
            "shorten journal.retention_days"
        )
    else:
        yield ok(f"{_megabytes(free)} are free in {path.parent}; the journal has {_megabytes(size)}")


def sqlite(version: str) -> Iterator[Finding]:
    """Before 3.51.3 a write-ahead log could be damaged (https://sqlite.org/wal.html#walresetbug)."""
    if tuple(int(part) for part in version.split(".")[:3]) < _OLDEST_SQLITE:
        yield problem(f"SQLite {version} can damage a journal: install a newer apsw")
    else:
        yield ok(f"SQLite {version}")


def interpreter(lacks: tuple[Optimization, ...] | None) -> Iterator[Finding]:
    """The interpreter was built with PGO and LTO, as CPython's documentation recommends for speed."""
    yield Finding(Level.NOTE, describe(lacks)) if lacks else ok(describe(lacks))


def tables(journal: Inspection, path: Path) -> Iterator[Finding]:
    """This program supports the version of the tables."""
    found, known = journal.version()
    if found > known:
        yield Finding(Level.DAMAGED, f"version {found}, and this webhookd supports {known}: run the newer one")
    elif found < known:
        copy = copy_before_upgrade(path)
        yield ok(f"version {found}; the next start upgrades it to {known}, after a copy, {copy.name}")
    else:
        yield ok(f"version {found}")


def pages(journal: Inspection) -> Iterator[Finding]:
    """Every page of the file is intact, and every index matches its rows."""
    damaged = [f"{' '.join(complaint.split())}: restore the last copy" for complaint in journal.bad_pages()]
    yield from [Finding(Level.DAMAGED, detail) for detail in damaged] or [ok("every page is intact")]


def references(journal: Inspection) -> Iterator[Finding]:
    """Every row that is referred to exists."""
    damaged = [f"{found}: another program has changed the file" for found in journal.dangling()]
    yield from [Finding(Level.DAMAGED, detail) for detail in damaged] or [ok("every reference is valid")]


def audit_log(journal: Inspection) -> Iterator[Finding]:
    """The chain of the audit log is intact, and so are its triggers."""
    found, known = journal.version()
    if found < known and not journal.has_audit_log():
        yield ok("this version of the tables has none")
        return
    yield from audit_chain(journal)


def audit_chain(journal: Views) -> Iterator[Finding]:
    """The chain of the audit log is intact, and so are its triggers."""
    chain = journal.audit_chain()
    for name in journal.missing_triggers():
        yield Finding(Level.DAMAGED, f"the trigger {name} is missing: another program has changed the journal")
    if chain.broken is not None:
        yield Finding(Level.DAMAGED, f"the chain breaks after entry {chain.entries}: {chain.broken}")
    else:
        yield ok(f"{chain.entries} entries, the chain is intact; last hash {chain.head.hex()}")


def headers(journal: Views) -> Iterator[Finding]:
    """No webhook has a custom header whose name was reserved later, which isn't sent."""
    if len(set(journal.version())) > 1:
        return
    unsent = [
        f"{endpoint.id} has the header {name}, which is reserved and isn't sent: remove or rename it"
        for endpoint in journal.webhooks()
        for name in endpoint.header_names
        if reserved(name) is not None
    ]
    yield from [problem(detail) for detail in unsent] or [ok("every custom header is sent")]


def _checks(config: Config, journal: Inspection | None) -> Iterator[tuple[str, Iterable[Finding]]]:
    """Yield each check with its name; it runs when its findings are read."""
    path = config.journal.path
    yield "configuration", configuration(config)
    yield "server", server(config)
    yield "sockets", sockets(config)
    yield "files", files(path)
    yield "master key", master_key(config, journal)
    yield "disk", disk(path, config.journal.max_bytes)
    yield "sqlite", sqlite(SQLITE_VERSION)
    yield "interpreter", interpreter(lacking_here())
    if journal is not None:
        yield "tables", tables(journal, path)
        yield "pages", pages(journal)
        yield "references", references(journal)
        yield "audit log", audit_log(journal)
        yield "headers", headers(journal)


def examine(config: Config, journal: Inspection | None) -> Iterator[tuple[str, Finding]]:
    """Run every check, and yield its findings with its name.

    `journal` is None if it couldn't be opened, which is a finding already.
    """
    yield from run(_checks(config, journal))


def run(checks: Iterable[tuple[str, Iterable[Finding]]]) -> Iterator[tuple[str, Finding]]:
    """Run checks, and yield their findings with their names; an error that one raises becomes a finding."""
    for name, findings in checks:
        try:
            for finding in findings:
                yield name, finding
        except JournalError as error:
            yield name, Finding(Level.DAMAGED, str(error))
        except WebhookdError as error:
            yield name, problem(str(error))
        except OSError as error:
            yield name, problem(f"{error.filename}: {error.strerror}")


def _open_to_others(directory: Path) -> Iterator[Finding]:
    """Yield the directories above a file in which other users could replace files."""
    for place in (directory.absolute(), *directory.absolute().parents):
        if not place.is_dir():
            continue
        found = place.stat()
        mode = stat.S_IMODE(found.st_mode)
        if mode & stat.S_ISVTX and place != directory.absolute():
            continue  # in a sticky directory, such as /tmp, only a file's owner can replace it
        if mode & _OTHERS_MAY_WRITE:
            yield problem(f"every user can write to {place}: chmod o-w {place}")
        elif mode & _GROUP_MAY_WRITE and not _is_private(found.st_gid, found.st_uid):
            yield problem(f"the group {found.st_gid} can write to {place}: chmod g-w {place}")


def _is_private(gid: int, uid: int) -> bool:
    """Whether a group is root's, or a user's own group with that user as its only member."""
    try:
        owner, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return gid == 0
    return gid == 0 or (owner.pw_gid == gid and set(group.gr_mem) <= {owner.pw_name})


def ok(detail: str) -> Finding:
    """Return a finding of nothing to be done."""
    return Finding(Level.OK, detail)


def problem(detail: str) -> Finding:
    """Return a finding of something to be done."""
    return Finding(Level.PROBLEM, detail)


def _megabytes(size: int) -> str:
    return f"{size / 1_048_576:,.0f} MiB"
