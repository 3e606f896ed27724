"""Publishes events to the webhooks that subscribe to them, and changes endpoints for the API.

The journal changes first. What the process keeps in memory (subscriptions, lanes, catalogue) follows in the commit's
callback, on the event loop and in the order of commits: memory is never ahead of the disk, and two changes never
overtake each other. Targets are found in memory, without a query, and the commit leaves out a target that has been
deleted meanwhile. Changes that webhookd makes by itself go to the store directly: `Reporter` disables endpoints,
`Schedule` corrects their times.
"""

from collections.abc import Callable, Hashable
from functools import partial

import trio

from webhookd.base.clock import Timeline
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.event_format import accept
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import DeliveryStatus, Endpoint, NewEvent, Policy, PolicyOverrides, PublishResult
from webhookd.base.secret import Secret
from webhookd.base.stages import reached
from webhookd.config import Config
from webhookd.crypto.vault import Vault
from webhookd.delivery.policy.resolve import resolve
from webhookd.delivery.request import RequestSender
from webhookd.delivery.signing import secret_hint
from webhookd.dispatch.actor import Actor
from webhookd.dispatch.clock_steps import Schedule
from webhookd.dispatch.expiry_sweep import ExpirySweep
from webhookd.dispatch.flights import Shared
from webhookd.dispatch.health import EndpointHealth, Inside, assess
from webhookd.dispatch.operational_events import is_own
from webhookd.dispatch.registry import Registry
from webhookd.dispatch.reporter import Reporter
from webhookd.dispatch.slots import Slots
from webhookd.dispatch.subscriptions import Subscriptions
from webhookd.dispatch.supervisor import Supervisor
from webhookd.jobs.replay import Replayer
from webhookd.jobs.test_delivery import Tester
from webhookd.journal import (
    AuditEntry,
    DeliveriesQueued,
    DeliveryRow,
    EndpointChanges,
    EndpointCondition,
    EventTypeAdded,
    EventTypeRemoved,
    NewEndpoint,
    QueueGrown,
    QueuesFound,
    SettingsReread,
    SlotsAskedBack,
    SlotsLost,
    SlotsTaken,
    Store,
    Ticket,
    WebhookChanged,
    WebhookChangedElsewhere,
    WebhookDeleted,
    slot_of,
)
from webhookd.observe.logs import get_logger
from webhookd.observe.measures import Measures

SWEEP_SECONDS = 60.0
SECOND_LOOK_SECONDS = 1.0
BOOT_WAKE_INTERVAL_SECONDS = 0.002
CANCELED_A_STEP = 500
NO_OVERRIDES = PolicyOverrides()

_log = get_logger("router")


class Router:
    """Publishes events and changes endpoints.

    `registry` runs the actors, `replayer` recovers and replays, `tester` sends test deliveries. `event_types` are the
    names in the catalogue.
    """

    def __init__(
        self,
        *,
        store: Store,
        sender: RequestSender,
        vault: Vault,
        clock: Timeline,
        ids: IdFactory,
        config: Config,
        sample: Callable[[], float],
        measures: Measures,
        sweep_seconds: float = SWEEP_SECONDS,
    ) -> None:
        self.event_types: set[str] = set()
        self.sweeps_that_found_work = 0
        self._nursery: trio.Nursery | None = None
        self._sweep_seconds = sweep_seconds
        self._store = store
        self._sender = sender
        self._vault = vault
        self._clock = clock
        self._ids = ids
        self._config = config
        self._default_policy = resolve(NO_OVERRIDES, config.delivery)
        self._subscriptions = Subscriptions()
        self._reporter = Reporter(store, self._subscriptions, clock, ids, measures)
        self.recent = self._reporter.recent
        self._schedule = Schedule(store, clock, vault, self._policy)
        slots = Slots(config.delivery.max_in_flight, is_open=store.ownership.may_send)
        shared = Shared(store, sender, self._reporter, clock, ids, slots, sample)
        self.registry = Registry(
            clock, slots, partial(Actor, shared=shared, schedule=self._schedule), owns=store.ownership.owns
        )
        self._expiry_sweep = ExpirySweep(store, self.registry, self._reporter, self._schedule, clock)
        self.replayer = Replayer(store, clock, ids, wake=self._requeued, policy=self._policy)
        self.tester = Tester(store, sender, clock, ids, load=self._schedule.load, policy=self._policy)

    async def begin(self) -> None:
        """Read endpoints and catalogue from the journal, and follow its changes; publish nothing before."""
        self._schedule.begin(
            shift=self.registry.shift, reload=self.registry.reload, corrected=self._expiry_sweep.look_at_all
        )
        feed = self._store.feed
        feed.follow(DeliveriesQueued, self._offer)
        feed.follow(DeliveriesQueued, self._expiry_sweep.note)
        feed.follow(WebhookChanged, self._adopt)
        feed.follow(WebhookChangedElsewhere, self._adopt_from_elsewhere)
        feed.follow(WebhookDeleted, self._abandon)
        feed.follow(SettingsReread, self._adopt_all)
        feed.follow(QueueGrown, lambda grown: self.registry.requeued(grown.endpoint_pk))
        feed.follow(QueueGrown, lambda grown: self._expiry_sweep.grown(grown.endpoint_pk))
        feed.follow(SlotsTaken, self._take_over)
        feed.follow(QueuesFound, self._find_queues)
        feed.follow(SlotsLost, lambda lost: self.registry.lose(lost.slots))
        feed.follow(SlotsAskedBack, self._give_back)
        feed.follow(EventTypeAdded, lambda added: self.event_types.add(added.name))
        feed.follow(EventTypeRemoved, lambda removed: self.event_types.discard(removed.name))
        async with self._store.holding_changes():
            for endpoint in await self._store.webhooks.all():
                self._adopt(WebhookChanged(endpoint))
            if self._store.is_shared:
                self.registry.empty_buckets()
            self.event_types = {row.name for row in await self._store.event_types.all()}

    def _offer(self, queued: DeliveriesQueued) -> None:
        for delivery in queued.deliveries:
            if delivery.status is DeliveryStatus.PENDING:
                self.registry.offer(delivery)

    def _take_over(self, taken: SlotsTaken) -> None:
        self._expiry_sweep.look_at_all()  # it wasn't told what these queues got
        self.registry.empty_buckets(taken.slots)
        self._wake_slots(taken.slots)

    def _find_queues(self, found: QueuesFound) -> None:
        for endpoint_pk in self.registry.in_slots(found.slots):
            self._expiry_sweep.grown(endpoint_pk)
        self._wake_slots(found.slots)

    def _wake_slots(self, slots: frozenset[int]) -> None:
        if self._nursery is not None:  # else `_resume` finds what they have queued
            self._nursery.start_soon(Supervisor("take over").run, partial(self._wake_backlog, slots))

    def _give_back(self, asked: SlotsAskedBack) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(Supervisor("give back").run, partial(self._retire, asked.slots))

    async def _retire(self, slots: frozenset[int]) -> None:
        await self._store.give_back(await self.registry.retire(slots))

    def _adopt(self, changed: WebhookChanged) -> None:
        endpoint, forgiveness = changed
        policy = self._policy(endpoint)
        self._subscriptions.put(endpoint, policy)
        self.registry.put(endpoint, policy, forgiveness)
        self._expiry_sweep.grown(endpoint.pk)
        if forgiveness is not None and endpoint.is_active:
            self.registry.wake(endpoint.pk)

    def _adopt_from_elsewhere(self, changed: WebhookChangedElsewhere) -> None:
        policy = self._policy(changed.endpoint)
        self._subscriptions.put(changed.endpoint, policy)
        self.registry.put(changed.endpoint, policy)
        self.registry.requeued(changed.endpoint.pk)  # its times may have been forgiven, too
        self._expiry_sweep.grown(changed.endpoint.pk)  # by its new age

    def _abandon(self, deleted: WebhookDeleted) -> None:
        self._subscriptions.remove(deleted.endpoint.pk)
        self.registry.remove(deleted.endpoint.pk)

    def _adopt_all(self, reread: SettingsReread) -> None:
        """Follow all settings at once; another webhook may have the row number of one that is known."""
        ids = {endpoint.pk: endpoint.id for endpoint in reread.endpoints}
        for endpoint in self.registry.endpoints():
            if ids.get(endpoint.pk) != endpoint.id:
                self._abandon(WebhookDeleted(endpoint))
        for endpoint in reread.endpoints:
            self._adopt_from_elsewhere(WebhookChangedElsewhere(endpoint))
        self.event_types.clear()
        self.event_types.update(reread.event_types)
        self._expiry_sweep.look()

    def _policy(self, endpoint: Endpoint) -> Policy:
        # Most webhooks have no settings of their own and share one policy.
        own = endpoint.overrides
        return self._default_policy if own == NO_OVERRIDES else resolve(own, self._config.delivery)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the actors until canceled; the actors of a backlog are started one after the other, not all at once."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if asked_back := self._store.ownership.asked_back:  # before this process was ready
                self._give_back(SlotsAskedBack(asked_back))
            await nursery.start(self.registry.run)
            nursery.start_soon(Supervisor("resume").run, self._resume)
            nursery.start_soon(Supervisor("replay").run, self.replayer.run)
            nursery.start_soon(Supervisor("expiry").run, self._expiry_sweep.run)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None  # slots that are taken from now on get no actors

    async def _resume(self) -> None:
        await self._wake_backlog()
        while True:
            await trio.sleep(self._sweep_seconds)
            await self._sweep()

    async def _wake_backlog(self, slots: frozenset[int] | None = None) -> None:
        """Wake the endpoints of these slots (None: of all) that have something queued, one after the other."""
        backlog = [pk for pk in await self._backlog() if slots is None or slot_of(pk) in slots]
        for endpoint_pk in backlog:
            if self.registry.wake(endpoint_pk) is not None:
                await trio.sleep(BOOT_WAKE_INTERVAL_SECONDS)
        for endpoint_pk in backlog:
            # It was deleted, and its node stopped during the cancelation; or another node has just made it.
            if self.registry.lane(endpoint_pk) is None:
                _, is_deleted = await self._store.webhooks.by_pk(endpoint_pk)
                if is_deleted:
                    await self._cancel_queue(endpoint_pk)

    async def _backlog(self) -> list[int]:
        """Return the row numbers of the endpoints that this process drives and that have something queued."""
        return [pk for pk in await self._store.deliveries.backlog() if self._store.ownership.owns(pk)]

    async def _sweep(self) -> None:
        """Wake endpoints that have work but no actor: a safety net that should never find any."""
        idle = await self._idle_with_work()
        if not idle:
            return
        await trio.sleep(SECOND_LOOK_SECONDS)  # a commit may be about to wake them
        for endpoint_pk in idle & await self._idle_with_work():
            if self.registry.wake(endpoint_pk) is not None:
                self.sweeps_that_found_work += 1
                _log.warning("sweep.found_work", endpoint_pk=endpoint_pk)

    async def _idle_with_work(self) -> set[int]:
        return {endpoint_pk for endpoint_pk in await self._backlog() if self.registry.running(endpoint_pk) is None}

    async def room(self, flow: Hashable = None) -> None:
        """Wait until the journal takes another event of a flow; Rejected JOURNAL_FULL or SHUTTING_DOWN if it won't."""
        await self._store.room(flow)

    def publish(self, new: NewEvent, flow: Hashable = None) -> Ticket[PublishResult]:
        """Submit an event with its deliveries to the journal, in one synchronous step right after `room`.

        Waiting for the ticket may be canceled; the event is stored all the same. Events of one flow are stored in the
        order in which they are submitted; different flows take turns. Raises Rejected UNKNOWN_EVENT_TYPE, and
        VALIDATION_ERROR for a key that the database can't store.
        """
        self._check_type(new.type)
        if new.ordering_key is not None and "\0" in new.ordering_key and self._store.is_shared:
            raise Rejected(
                ErrorCode.VALIDATION_ERROR,
                "the orderingKey holds a NUL character (U+0000), which the database can't store: leave it out",
                errors=(("/orderingKey", "takes no NUL character"),),
            )
        event = accept(new, event_id=new.id or self._ids.new(Prefix.EVENT), now=self._clock.now())
        aim = partial(self._subscriptions.targets, event.type, event.organization_id)
        return self._store.publish(event, aim(), aim=aim, flow=flow, may_repeat=new.id is not None)

    def _check_type(self, name: str) -> None:
        if is_own(name):
            raise Rejected(ErrorCode.UNKNOWN_EVENT_TYPE, f"{name} is webhookd's own and can't be published")
        if name not in self.event_types and self._config.events.unknown_event_types == "reject":
            raise Rejected(
                ErrorCode.UNKNOWN_EVENT_TYPE,
                f"{name} isn't in the catalogue: add it with PUT /api/event-types/{name}, or set "
                'events.unknown_event_types = "accept"',
                errors=(("/type", "a name of the catalogue"),),
            )

    async def create_endpoint(self, new: NewEndpoint, entry: AuditEntry | None = None) -> Endpoint:
        """Register an endpoint, which gets the events published after the commit; Rejected QUOTA_EXCEEDED."""
        most = self._config.organizations.max_webhooks
        return await self._store.webhooks.create(self._vault, new, most=most, entry=entry)

    async def update_endpoint(
        self,
        endpoint_id: str,
        changes: EndpointChanges,
        entry: AuditEntry | None = None,
        condition: EndpointCondition | None = None,
    ) -> Endpoint:
        """Change an endpoint; where the change forgives an outage, it is tried at once.

        Raises Rejected NOT_FOUND, or what `condition` raises in the transaction of the change.
        """
        async with self.registry.changing(endpoint_id):
            return await self._store.webhooks.update(
                self._vault, endpoint_id, changes, self._clock.now(), entry=entry, condition=condition
            )

    async def rotate_secret(
        self,
        endpoint_id: str,
        secret: Secret[str],
        overlap_seconds: float,
        entry: AuditEntry | None = None,
        condition: EndpointCondition | None = None,
    ) -> Endpoint:
        """Replace an endpoint's secret; during the overlap both secrets sign. Raises as `update_endpoint`."""
        async with self.registry.changing(endpoint_id):
            return await self._store.webhooks.rotate(
                self._vault,
                endpoint_id,
                self._clock.now(),
                secret=secret,
                secret_hint=secret_hint(secret.reveal()),
                overlap_seconds=overlap_seconds,
                entry=entry,
                condition=condition,
            )

    async def delete_endpoint(
        self,
        endpoint_id: str,
        entry: AuditEntry | None = None,
        condition: EndpointCondition | None = None,
    ) -> Endpoint:
        """Delete an endpoint and cancel its queue; a request in flight still ends and is recorded.

        Raises as `update_endpoint`.
        """
        endpoint = await self._store.webhooks.delete(endpoint_id, self._clock.now(), entry=entry, condition=condition)
        await self._cancel_queue(endpoint.pk)
        await self._sender.forget(endpoint_id)
        return endpoint

    async def _cancel_queue(self, endpoint_pk: int) -> None:
        # In steps, so that other writes don't wait for a long queue.
        while await self._store.deliveries.cancel(endpoint_pk, self._clock.now(), CANCELED_A_STEP):
            reached("cancel.step")

    async def retry(
        self, delivery_id: str, organization_id: str | None, entry: AuditEntry | None = None, *, force: bool
    ) -> DeliveryRow:
        """Retry a delivery by hand, as the contract says for its status; Rejected NOT_FOUND or CONFLICT."""
        row = await self._store.deliveries.find(delivery_id, organization_id)
        lane = self.registry.wake(row.endpoint_pk)
        if lane is None:
            raise Rejected(ErrorCode.CONFLICT, "the webhook of this delivery has been deleted")
        if row.pk in lane.in_flight:
            raise Rejected(ErrorCode.CONFLICT, "the delivery is being sent right now; look at its attempts")
        endpoint, policy = lane.endpoint, lane.policy
        with self.registry.holding(row.endpoint_pk, row.pk):
            retried = await self._store.deliveries.retry(
                row.pk,
                force=force,
                now=self._clock.now(),
                max_age_seconds=policy.max_age_seconds,
                ordering=policy.ordering,
                entry=entry,
                organization_id=endpoint.organization_id,
            )
        self._requeued(row.endpoint_pk)  # the actor may have returned meanwhile
        return retried

    def _requeued(self, endpoint_pk: int) -> None:
        self.registry.requeued(endpoint_pk)
        self._store.requeued(endpoint_pk)
        self._expiry_sweep.grown(endpoint_pk)
        self._expiry_sweep.look()

    async def health(self, subjects: list[Endpoint]) -> list[EndpointHealth]:
        """Return the health of endpoints, from their lanes, or from the journal if no actor is running here.

        Of an endpoint that another node drives the journal has all but what that node alone knows: whether a request is
        in flight, its rate limit's tokens, and crashes.
        """
        now = self._clock.now()
        orderings = {endpoint.pk: self._policy(endpoint).ordering for endpoint in subjects}
        facts = await self._store.webhooks.health_facts(orderings)
        drivers = await self._store.read_drivers(list(orderings))
        return [
            assess(
                endpoint,
                *facts[endpoint.pk],
                lane=self.registry.running(endpoint.pk),
                supervisor=self.registry.supervisor(endpoint.pk),
                now=now,
                driver=drivers.get(endpoint.pk),
            )
            for endpoint in subjects
        ]

    async def inside(self, endpoint: Endpoint) -> Inside:
        """Return the state, the policy and the bucket by which an endpoint's actor decides."""
        is_here = self._store.ownership.owns(endpoint.pk)
        running, lane = self.registry.running(endpoint.pk), self.registry.lane(endpoint.pk)
        state = await self._store.webhooks.state(endpoint.pk) if running is None else running.state
        return Inside(state=state, policy=self._policy(endpoint), bucket=lane.bucket if is_here and lane else None)
