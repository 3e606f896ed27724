"""What needs somebody now, worst first: sentences, each with the page where it can be looked into."""

from dataclasses import dataclass

from webhookd.admin.auth import Permission
from webhookd.admin.reason_text import reason_text
from webhookd.base.models import Endpoint
from webhookd.dashboard import formatting
from webhookd.dashboard.pages import Visit
from webhookd.dashboard.webhook_states import condition
from webhookd.journal import FoundWebhooks, Situation, WebhookKind, WebhookOrder, WebhookSearch

MOST_WEBHOOKS = 12
OLD_SECONDS = 900.0
KEY_ENDS_SOON_SECONDS = 7 * 86_400.0
_LITTLE_ROOM = 0.1
_NEARLY_FULL = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """One thing that needs somebody: how bad (`bad`, `warn`, `idle`), in a word, in a sentence, and where to look."""

    tone: str
    word: str
    sentence: str
    path: str | None = None
    subject: str = ""


async def concerns(visit: Visit, situation: Situation) -> list[Concern]:
    """Return what the caller may know of and should."""
    found = [
        *await _of_the_server(visit),
        *_of_age(visit, situation),
        *await _of_webhooks(visit),
        *await _of_keys(visit),
    ]
    return sorted(found, key=lambda concern: ("bad", "warn", "idle").index(concern.tone))


async def _of_the_server(visit: Visit) -> list[Concern]:
    if visit.caller.organization_id is not None:
        return []
    store, limit = visit.services.store, visit.services.config.journal.max_bytes
    found = []
    if store.is_full:
        sentence = "The journal's disk has no room: events are refused. Make room and it goes on by itself."
        found.append(Concern(tone="bad", word="disk full", sentence=sentence))
    footprint = await visit.services.footprints.look()
    size = footprint.journal_bytes
    if limit is not None and size > limit * _NEARLY_FULL:
        sentence = (
            f"The journal has {formatting.size(size)} of the {formatting.size(limit)} that journal.max_bytes allows."
        )
        found.append(Concern(tone="warn", word="nearly full", sentence=sentence))
    free, whole = footprint.disk_free_bytes, footprint.disk_bytes
    if free < whole * _LITTLE_ROOM and not store.is_full:
        sentence = f"{formatting.size(free)} are left on the journal's disk of {formatting.size(whole)}."
        found.append(Concern(tone="warn", word="disk", sentence=sentence))
    return found


def _of_age(visit: Visit, situation: Situation) -> list[Concern]:
    oldest = situation.oldest_pending_at
    if oldest is None or visit.now - oldest < OLD_SECONDS:
        return []
    return [
        Concern(
            tone="warn",
            word="late",
            sentence=f"The oldest undelivered event came {formatting.when(oldest)} UTC; "
            f"{formatting.plural(situation.pending, 'delivery waits', 'deliveries wait')}.",
            path="/webhooks?order=queued",
        )
    ]


async def _of_webhooks(visit: Visit) -> list[Concern]:
    services, organization_id = visit.services, visit.caller.organization_id
    wanted = WebhookSearch(
        organization_id=organization_id,
        kind=WebhookKind.TROUBLED,
        order=WebhookOrder.TROUBLE,
        descending=True,
        limit=MOST_WEBHOOKS,
    )
    listed: FoundWebhooks = await services.store.webhooks.search(wanted, visit.now)
    halted = [one for one in services.router.registry.halted() if organization_id in {None, one.organization_id}]
    known = {one.id for one in halted}
    subjects = [*halted[:MOST_WEBHOOKS], *(one for one in listed.endpoints if one.id not in known)]
    states = await services.router.health(subjects)
    found = []
    for endpoint, health in zip(subjects, states, strict=True):
        word, tone = condition(endpoint, health)
        if tone == "good":
            continue  # it has recovered since
        waiting = f" {formatting.plural(health.queued, 'delivery waits', 'deliveries wait')}." if health.queued else ""
        parked = f" {formatting.plural(health.parked, 'is', 'are')} parked." if health.parked else ""
        sentence = f"{formatting.readable(reason_text(health) or 'Sending')}.{waiting}{parked}"
        tone = "warn" if tone == "busy" else tone
        found.append(
            Concern(tone=tone, word=word, sentence=sentence, path=f"/webhooks/{endpoint.id}", subject=_name(endpoint))
        )
    more = listed.total - len(listed.endpoints)
    if more > 0:
        sentence = f"And {formatting.plural(more, 'webhook')} more that are not well."
        found.append(Concern(tone="warn", word="more", sentence=sentence, path="/webhooks?kind=troubled&order=trouble"))
    return found


async def _of_keys(visit: Visit) -> list[Concern]:
    if not visit.may(Permission.ADMINISTER):
        return []
    soon = await visit.services.store.keys.ending(
        visit.caller.organization_id,
        after=visit.now,
        before=visit.now + KEY_ENDS_SOON_SECONDS,
        limit=MOST_WEBHOOKS,
    )
    return [
        Concern(
            tone="warn",
            word="key ends",
            sentence=f"The {row.role.value} key {row.name or row.id} ends {formatting.when(row.expires_at)} UTC.",
            path="/keys",
        )
        for row in soon
    ]


def _name(endpoint: Endpoint) -> str:
    return endpoint.description or endpoint.url
