"""The server process: how its parts are created and nested, and how it stops.

The nurseries are nested so that what other parts depend on runs longest:

    writer  >  actors, outgoing connections  >  edges (guard, ingest socket)

A stop signal makes the server not ready, and it accepts no more events. The ingest socket answers what it has read and
closes. No new request is sent; requests in flight may end while the API still answers, and then the API closes. All of
this has one time limit, `drain_seconds`, whatever clients and receivers do: what is left then is cut off. Requests in
flight are recorded as interrupted, and queries end. Last the writer commits everything, checkpoints and closes, for
which two more seconds are enough. A second signal ends the waiting. If the writer fails, the process ends at once: the
service manager starts it again, and the journal knows what was pending.
"""

import os
import random
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import trio

from webhookd.admin.app import create_app
from webhookd.admin.auth import KeyRing, new_key
from webhookd.admin.guard import Guard
from webhookd.admin.last_use import save_uses
from webhookd.admin.lifecycle import Readiness
from webhookd.admin.prometheus import Exporter, LogStream
from webhookd.admin.services import Services
from webhookd.admin.tokens import open_tokens
from webhookd.base.clock import Clock, DatabaseClock, SystemClock, Timeline
from webhookd.base.errors import JournalError, WebhookdError
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import Role
from webhookd.base.secret import Secret
from webhookd.base.stages import reached
from webhookd.base.version import VERSION
from webhookd.config import Config
from webhookd.dashboard.app import add_dashboard
from webhookd.delivery import custom_headers
from webhookd.delivery.http.sender import Sender
from webhookd.dispatch.router import Router
from webhookd.dispatch.supervisor import Supervisor
from webhookd.ingest import IngestServer
from webhookd.jobs.attempt_follower import AttemptFollower
from webhookd.jobs.backup import BackupJob
from webhookd.jobs.key_rotation import unlock
from webhookd.jobs.statistics import SavedStatistics
from webhookd.journal import (
    SQLITE_VERSION,
    Action,
    AuditActor,
    AuditActorKind,
    AuditEntry,
    LeaseTimes,
    Store,
    open_store,
    place_of,
)
from webhookd.journal import Server as DatabaseServer
from webhookd.observe.footprint import Footprints
from webhookd.observe.logs import get_logger
from webhookd.observe.loop_watch import LoopWatch, Stalls
from webhookd.observe.measures import Measures
from webhookd.observe.sdnotify import STOPPING, alive, notify
from webhookd.signals import hearing
from webhookd.sockets.tcp import bind_tcp, urls_of
from webhookd.sockets.unix import bind_unix

EDGE_DRAIN_SECONDS = 10.0
LAST_ANSWERS_SECONDS = 0.5  # what an edge gets even if the time limit is used up
_CONTROL_MODE = 0o600
_CONTROL_BACKLOG = 64

_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

_log = get_logger("server")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Where a server that is ready listens, and the first admin key if it has just created one.

    `urls` are the API's, one for each address of `server.host`.
    """

    urls: tuple[str, ...]
    ingest_socket: Path
    control_socket: Path
    first_admin_key: Secret[str] | None


class _Lifecycle:
    """The state of the server, for the admin API."""

    def __init__(self, store: Store, router: Router) -> None:
        self.state = Readiness.STARTING
        self._store = store
        self._router = router

    def readiness(self) -> tuple[Readiness, tuple[str, ...]]:
        """Return the state, and the reasons if it is degraded or the database can't be reached."""
        if self.state is not Readiness.OK:
            return self.state, ()
        if not self._store.is_reachable:
            return Readiness.UNREACHABLE, (
                "the journal's database can't be reached, or its disk has failed; nothing is accepted or sent",
            )
        if not self._store.is_current:
            return Readiness.UNREACHABLE, ("what other nodes change can't be followed; no API key is accepted",)
        reasons = [
            f"sending to {endpoint.id} keeps crashing inside webhookd" for endpoint in self._router.registry.halted()
        ]
        if self._store.is_full:
            reasons.append("the disk of the journal is full; events are refused")
        if self._store.is_at_bound:
            reasons.append("the journal has reached journal.max_bytes; events are refused")
        return (Readiness.DEGRADED if reasons else Readiness.OK), tuple(reasons)


async def serve(
    config: Config,
    announce: Callable[[Ready], None],
    log: LogStream,
    reread: Callable[[], Config],
    *,
    lease_times: LeaseTimes | None = None,
) -> None:
    """Run the server until SIGTERM, SIGINT or SIGQUIT; call it under `trio.run`.

    `announce` is called when the server is ready, and must not wait. `log` is the log's output, for the metrics.
    `reread` returns the configuration that a start would use now. `lease_times` are those of a node on PostgreSQL, if
    they aren't the usual ones.

    Raises CommandError if an address, a socket or the lock is in use, ConfigError, MasterKeyError, and JournalError if
    the journal can't be trusted, now or at the start.
    """
    machine = SystemClock() if config.journal.url is None else DatabaseClock(SystemClock())
    ids = IdFactory(SystemClock().now)  # threads of the journal create some
    measures = Measures()
    stalls = Stalls()
    with unwrapped(), trio.open_signal_receiver(*_STOPPING) as signals:
        async with (
            alive(),
            hearing(config, reread),
            writing(config, machine, ids, measures, lease_times=lease_times) as store,
        ):
            clock = Timeline(machine)  # not before: the store may have set it
            with ExitStack() as bound:
                rotator = await unlock(store, config, os.environ)
                tokens = open_tokens(config.jwt)
                sender = Sender(config.delivery, config.egress)
                router = Router(
                    store=store,
                    sender=sender,
                    vault=rotator.vault,
                    clock=clock,
                    ids=ids,
                    config=config,
                    sample=random.random,
                    measures=measures,
                )
                tcp, control, ingest = _bind(config, router, measures, bound)
                lifecycle = _Lifecycle(store, router)
                footprints = Footprints(store.path)
                exporter = Exporter(
                    measures,
                    store=store,
                    router=router,
                    connections=sender.transport,
                    lifecycle=lifecycle,
                    ingest=ingest,
                    log=log,
                    stalls=stalls,
                    footprints=footprints,
                    clock=clock,
                    max_in_flight=config.delivery.max_in_flight,
                )
                services = Services(
                    router=router,
                    store=store,
                    lifecycle=lifecycle,
                    keys=KeyRing(feed=store.feed, is_current=lambda: store.is_current),
                    tokens=tokens,
                    vault=rotator.vault,
                    rotator=rotator,
                    backup_job=BackupJob(store),
                    clock=clock,
                    ids=ids,
                    config=config,
                    measures=measures,
                    metrics=exporter,
                    statistics=SavedStatistics(measures.statistics, store, clock),
                    attempts=AttemptFollower(store.deliveries.recent_attempts, router.recent),
                    stalls=stalls,
                    footprints=footprints,
                    check_url=sender.check_url,
                    check_headers=custom_headers.check,
                )
                app = create_app(services)
                if config.server.dashboard:
                    add_dashboard(app, services)
                guard = Guard(
                    app,
                    tcp=tcp,
                    control=[control],
                    max_connections=config.server.max_connections,
                    max_connections_per_address=config.server.max_connections_per_address,
                    new_request_id=partial(ids.new, Prefix.REQUEST),
                )
                # Only when nothing can fail any more: a key that is not shown is lost.
                first_admin_key = await ensure_admin_key(store, ids, clock)
                reached("admin_key.created")
                async with store.holding_changes():
                    for row in await store.keys.all():
                        services.keys.put(row)
                await router.begin()
                await services.statistics.begin()
                ready = Ready(
                    urls=urls_of(tcp),
                    ingest_socket=config.ingest.socket,
                    control_socket=config.server.control_socket,
                    first_admin_key=first_admin_key,
                )
                async with trio.open_nursery() as sending:
                    for name, task in (("sender", sender.run), ("deadlines", sender.keep_time)):
                        sending.start_soon(Supervisor(name).run, task)
                    await sending.start(router.run)
                    for name, task in (
                        ("master key", rotator.run),
                        ("key files", rotator.look),
                        ("retention", partial(store.retention.run, config.journal.retention_days, clock.trusted)),
                        ("backup", services.backup_job.run),
                        ("census", exporter.run),
                        ("node metrics", exporter.nodes.run),
                        ("statistics", services.statistics.run),
                    ):
                        sending.start_soon(Supervisor(name).run, task)
                    sending.start_soon(rotator.end_without_key)
                    if tokens is not None:
                        sending.start_soon(Supervisor("tokens").run, tokens.run)
                    sending.start_soon(Supervisor("last use").run, partial(save_uses, services.keys, store))
                    async with trio.open_nursery() as edges:
                        edges.start_soon(Supervisor("admin API").run, guard.run)
                        await edges.start(ingest.run)
                        lifecycle.state = Readiness.OK
                        _log.info("server.ready", version=VERSION, sqlite=SQLITE_VERSION, url=" and ".join(ready.urls))
                        announce(ready)
                        # From here on: nothing has waited for a long step before this.
                        sending.start_soon(Supervisor("loop watch").run, LoopWatch(stalls, clock).run)
                        await anext(signals)
                        await _drain(services, lifecycle, signals, ingest=ingest, guard=guard)
                        edges.cancel_scope.cancel()
                    sending.cancel_scope.cancel()
    _log.info("server.stopped")


async def _drain(
    services: Services,
    lifecycle: _Lifecycle,
    signals: AsyncIterator[int],
    *,
    ingest: IngestServer,
    guard: Guard,
) -> None:
    """End all work within `drain_seconds`; a second signal ends the waiting."""
    router = services.router
    deadline = trio.current_time() + services.config.delivery.drain_seconds
    lifecycle.state = Readiness.DRAINING
    notify(STOPPING)
    _log.info("server.draining", in_flight=router.registry.slots.taken)
    services.store.refuse_events()

    def edge_seconds() -> float:
        return min(max(deadline - trio.current_time(), LAST_ANSWERS_SECONDS), EDGE_DRAIN_SECONDS)

    async def cut() -> None:
        await anext(signals)
        _log.warning("server.drain_cut", in_flight=router.registry.slots.taken)
        draining.cancel_scope.cancel()

    async def finish_requests() -> None:
        with trio.move_on_at(deadline) as patience:
            await router.registry.drain()
        if patience.cancelled_caught:
            _log.warning("server.drain_timed_out", interrupted=router.registry.slots.taken)

    async def end_reads() -> None:
        # A query runs in a thread, which can't be canceled: the edges would wait for it.
        await trio.sleep_until(deadline)
        services.store.end_reads()

    async with trio.open_nursery() as draining:
        draining.start_soon(cut)
        draining.start_soon(end_reads)
        async with trio.open_nursery() as resting:
            resting.start_soon(ingest.drain, edge_seconds())
            resting.start_soon(finish_requests)
        await guard.drain(edge_seconds())
        draining.cancel_scope.cancel()
    services.store.end_reads()


@asynccontextmanager
async def writing(
    config: Config,
    clock: Clock,
    ids: IdFactory,
    measures: Measures | None = None,
    *,
    drives: bool = True,
    lease_times: LeaseTimes | None = None,
) -> AsyncIterator[Store]:
    """Open the journal and run its writer; when the block ends, everything submitted is on disk.

    A process that doesn't drive endpoints, such as a command, takes none from the servers that share a database.
    """
    place = place_of(config.journal)
    if isinstance(place, DatabaseServer) and not drives:
        place = replace(place, takes_part=False)
    if isinstance(place, DatabaseServer) and lease_times is not None:
        place = replace(place, times=lease_times)
    async with (
        open_store(place, clock=clock, ids=ids, max_bytes=config.journal.max_bytes, measures=measures) as store,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()


def _bind(
    config: Config, router: Router, measures: Measures, bound: ExitStack
) -> tuple[list[socket.socket], socket.socket, IngestServer]:
    """Bind every listener; `bound` closes them."""
    ingest = IngestServer(config.ingest, router, refused=measures.refuse)
    ingest.bind()
    bound.callback(ingest.close)
    control = bind_unix(
        config.server.control_socket, mode=_CONTROL_MODE, key="server.control_socket", backlog=_CONTROL_BACKLOG
    )
    bound.callback(control.close)
    tcp = bind_tcp(config.server.host, config.server.port)
    for listener in tcp:
        bound.callback(listener.close)
    return tcp, control.socket, ingest


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise webhookd's error from the exception groups of nurseries; a group with any other error is not changed."""
    try:
        yield
    except BaseExceptionGroup as group:
        known, rest = group.split(WebhookdError)
        if known is None or rest is not None:
            raise
        leaves = list(_leaves(known))
        # A journal that can't be trusted is the cause of what failed with it.
        raise next((leaf for leaf in leaves if isinstance(leaf, JournalError)), leaves[0]) from group


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def ensure_admin_key(store: Store, ids: IdFactory, clock: Clock) -> Secret[str] | None:
    """Create an admin key if the journal has no key, and return its text; else None."""
    if await store.keys.all():  # a start on a full disk must not write
        return None
    row, text = new_key(Role.ADMIN, ids, clock.now(), name="first admin key")
    return text if await store.keys.create_first(row, command_entry(Action.KEY_CREATE, clock)) else None


def command_entry(action: Action, clock: Clock, fields: Iterable[str] = ()) -> AuditEntry:
    """Return an audit entry for an action of the user who runs this process."""
    actor = AuditActor(kind=AuditActorKind.COMMAND, id=str(os.getuid()))
    return AuditEntry(actor=actor, action=action, at=clock.now(), fields=tuple(fields))
