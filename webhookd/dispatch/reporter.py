"""What follows from an attempt, an expiry or an automatic disable: rows, operational events, counts and log lines."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from webhookd.base.clock import Clock
from webhookd.base.event_types import OperationalEvent
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import AttemptRecord, DisabledReason, Endpoint, EndpointState, Message, QueuedDelivery
from webhookd.dispatch import operational_events
from webhookd.dispatch.subscriptions import Subscriptions
from webhookd.jobs.test_delivery import own_event
from webhookd.journal import DeliveryRow, Publish, Store
from webhookd.observe.attempt_feed import AttemptFeed, facts_of
from webhookd.observe.logs import delivery_attempted, get_logger
from webhookd.observe.measures import Measures

ROWS_PER_EXPIRY = 500  # deliveries and the operational events about them, in one transaction

Announce = Callable[[dict[str, object]], Sequence[Publish]]

_log = get_logger("router")


class Reporter:
    """Reports for all actors; `recent` holds the last attempts of the process."""

    def __init__(
        self, store: Store, subscriptions: Subscriptions, clock: Clock, ids: IdFactory, measures: Measures
    ) -> None:
        self.recent = AttemptFeed()
        self._store = store
        self._subscriptions = subscriptions
        self._clock = clock
        self._ids = ids
        self._measures = measures

    def notices(
        self, endpoint: Endpoint, message: Message, record: AttemptRecord, before: EndpointState
    ) -> list[Publish]:
        """Return the operational events that an attempt causes; `before` is the endpoint's state before it."""
        caused = operational_events.after_attempt(endpoint, message.event_id, message.type, record, before)
        return [publish for name, data in caused for publish in self._announcer(endpoint, name)(data)]

    def attempted(self, endpoint: Endpoint, message: Message, record: AttemptRecord, before: EndpointState) -> None:
        """Count and log an attempt whose record has been submitted."""
        self._measures.attempted(endpoint, record)
        attempt = facts_of(endpoint, message, record)
        self.recent.add(attempt)
        delivery_attempted(attempt)
        if before.breaker is not record.endpoint.breaker:
            _log.info(
                "breaker.changed",
                endpoint=endpoint.id,
                breaker=record.endpoint.breaker.value,
                faults=record.endpoint.consecutive_faults,
                last_error=record.endpoint.last_error,
            )

    def disable(self, endpoint: Endpoint, reason: DisabledReason, *, forgiven: int) -> None:
        """Disable an endpoint in the journal, unless more changes have forgiven something than these.

        The commit is passed on to the router.
        """
        now = self._clock.now()
        _log.warning("endpoint.disabled", endpoint=endpoint.id, reason=reason.value)
        announce = self._announcer(endpoint, OperationalEvent.DISABLED)

        def notices(stored: Endpoint) -> Sequence[Publish]:
            is_new = stored.disabled_at == now  # else a user has disabled it before
            return announce(operational_events.disabled(endpoint, reason, now)) if is_new else ()

        self._store.webhooks.disable(endpoint.pk, reason, now, forgiven=forgiven, notices_of=notices)

    async def expire(self, endpoint: Endpoint, expired: Sequence[QueuedDelivery]) -> None:
        """Record an endpoint's deliveries whose maximum age has passed as failed."""
        await self.expire_together({endpoint.pk: endpoint}, expired)

    async def expire_together(self, endpoints: Mapping[int, Endpoint], expired: Sequence[QueuedDelivery]) -> None:
        """Record deliveries of these endpoints whose maximum age has passed as failed.

        They are recorded in transactions of at most 500 rows, with the operational events about them.
        """
        name = OperationalEvent.DELIVERY_FAILED.value
        rows_each = {
            pk: 1 + len(self._subscriptions.targets(name, endpoint.organization_id))
            for pk, endpoint in endpoints.items()
        }
        step: list[QueuedDelivery] = []
        rows = 0
        for delivery in expired:
            rows += rows_each[delivery.endpoint_pk]
            if step and rows > ROWS_PER_EXPIRY:
                await self._expire(endpoints, step)
                step, rows = [], rows_each[delivery.endpoint_pk]
            step.append(delivery)
        if step:
            await self._expire(endpoints, step)

    async def _expire(self, endpoints: Mapping[int, Endpoint], expired: Sequence[QueuedDelivery]) -> None:
        now = self._clock.now()
        announcers = {
            pk: self._announcer(endpoints[pk], OperationalEvent.DELIVERY_FAILED)
            for pk in {delivery.endpoint_pk for delivery in expired}
        }

        def notices(rows: list[DeliveryRow]) -> list[Publish]:
            reported = [row for row in rows if not operational_events.is_own(row.event_type)]
            return [
                publish
                for row in reported
                for publish in announcers[row.endpoint_pk](
                    operational_events.of_expired(endpoints[row.endpoint_pk], row)
                )
            ]

        pks = [delivery.pk for delivery in expired]
        for row in await self._store.deliveries.expire(pks, now, driving=announcers.keys(), notices_of=notices):
            endpoint = endpoints[row.endpoint_pk]
            self._measures.expired(endpoint, now)
            _log.warning("delivery.expired", endpoint=endpoint.id, delivery=row.id, attempts=row.attempts)

    def _announcer(self, endpoint: Endpoint, name: OperationalEvent) -> Announce:
        """Return a function that makes an operational event of its data; the writer's thread may call it.

        It returns nothing where no webhook subscribes to the event. Subscribers and time are those of this moment.
        """
        aim = partial(self._subscriptions.targets, name.value, endpoint.organization_id)
        targets = aim()
        now = self._clock.now()

        def announce(data: dict[str, object]) -> Sequence[Publish]:
            if not targets:
                return ()
            event = own_event(name.value, endpoint, data, event_id=self._ids.new(Prefix.EVENT), now=now)
            return (self._store.notice(event, targets, aim),)

        return announce
