"""The problems on the overview, worst first: a sentence for each, with a link to its page."""

from dataclasses import dataclass

from webhookd.admin.auth import Permission
from webhookd.admin.reason_text import reason_text
from webhookd.base.models import Endpoint
from webhookd.dashboard import formatting
from webhookd.dashboard.nodes import problems_of
from webhookd.dashboard.pages import Visit
from webhookd.dashboard.webhook_states import condition
from webhookd.journal import FoundWebhooks, Situation, WebhookKind, WebhookOrder, WebhookSearch

MOST_WEBHOOKS = 12
OLD_SECONDS = 900.0
KEY_EXPIRES_SOON_SECONDS = 7 * 86_400.0
_LOW_SPACE = 0.1
_NEARLY_FULL = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """One problem: its tone (`bad`, `warn` or `idle`), in a word, in a sentence, and the path of its page."""

    tone: str
    word: str
    sentence: str
    path: str | None = None
    subject: str = ""


async def concerns(visit: Visit, situation: Situation) -> list[Concern]:
    """Return the problems that the caller may see."""
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
        sentence = "The journal's disk is full, and events are refused until there is space again."
        found.append(Concern(tone="bad", word="disk full", sentence=sentence))
    if (reading := visit.services.metrics.nodes.reading) is not None:
        found += [
            Concern(tone=tone, word=word, sentence=sentence, path="/nodes")
            for tone, word, sentence in problems_of(*reading)
        ]
    disk = (await visit.services.footprints.look()).disk
    if disk is None:
        return found
    if limit is not None and disk.journal_bytes > limit * _NEARLY_FULL:
        sentence = (
            f"The journal has {formatting.size(disk.journal_bytes)} of at most {formatting.size(limit)} "
            "(journal.max_bytes)."
        )
        found.append(Concern(tone="warn", word="nearly full", sentence=sentence))
    if disk.free_bytes < disk.whole_bytes * _LOW_SPACE and not store.is_full:
        sentence = (
            f"{formatting.size(disk.free_bytes)} of {formatting.size(disk.whole_bytes)} are free on the journal's disk."
        )
        found.append(Concern(tone="warn", word="disk space", sentence=sentence))
    return found


def _of_age(visit: Visit, situation: Situation) -> list[Concern]:
    oldest = situation.oldest_pending_at
    if oldest is None or visit.now - oldest < OLD_SECONDS:
        return []
    return [
        Concern(
            tone="warn",
            word="late",
            sentence=f"The oldest pending delivery is from {formatting.when(oldest)} UTC; "
            f"{formatting.plural(situation.pending, 'delivery is', 'deliveries are')} pending.",
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
            continue  # it has recovered in the meantime
        pending = (
            f" {formatting.plural(health.queued, 'delivery is', 'deliveries are')} pending." if health.queued else ""
        )
        parked = f" {formatting.plural(health.parked, 'is', 'are')} parked." if health.parked else ""
        sentence = f"{formatting.readable(reason_text(health) or 'Sending')}.{pending}{parked}"
        tone = "warn" if tone == "busy" else tone
        found.append(
            Concern(tone=tone, word=word, sentence=sentence, path=f"/webhooks/{endpoint.id}", subject=_name(endpoint))
        )
    more = listed.total - len(listed.endpoints)
    if more > 0:
        sentence = f"{formatting.plural(more, 'more webhook')} {'needs' if more == 1 else 'need'} attention."
        found.append(Concern(tone="warn", word="more", sentence=sentence, path="/webhooks?kind=troubled&order=trouble"))
    return found


async def _of_keys(visit: Visit) -> list[Concern]:
    if not visit.may(Permission.ADMINISTER):
        return []
    soon = await visit.services.store.keys.ending(
        visit.caller.organization_id,
        after=visit.now,
        before=visit.now + KEY_EXPIRES_SOON_SECONDS,
        limit=MOST_WEBHOOKS,
    )
    return [
        Concern(
            tone="warn",
            word="key expires",
            sentence=f"The {row.role.value} key {row.name or row.id} expires at {formatting.when(row.expires_at)} UTC.",
            path="/keys",
        )
        for row in soon
    ]


def _name(endpoint: Endpoint) -> str:
    return endpoint.description or endpoint.url
