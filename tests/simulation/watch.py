"""Check each request as it is made, and learn from each answer what the endpoint allows next.

These are the rules once more in short, without code of the server. A request that was started before a rule changed
may reach the receiver up to `GRACE_SECONDS` later, because its body is read from the journal first.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping

import trio

from tests.simulation.model import GRACE_SECONDS, PARK_AFTER, SMALL_STEPS_SECONDS, Request, Subject, World
from webhookd.base.models import DeliveryError, Ordering, Outcome

RAMP_SECONDS = 10.0
ROUNDING_SECONDS = 0.01
PROMPT_SECONDS = 2.0  # the time that disks and other webhooks may take
REFUSALS = {400, 409, 413, 415, 422}


def check_request(world: World, request: Request, headers: Mapping[str, str]) -> None:
    """Check a request when it reaches its receiver."""
    subject = world.subjects[request.endpoint_id]
    now = request.at
    for state, since in (("deleted", subject.deleted_at), ("disabled", subject.disabled_at)):
        if since is not None and now > since + GRACE_SECONDS:
            world.report(f"{request.delivery} sent to {subject.id}, which is {state}")
    if subject.opened_at is not None and now > subject.opened_at + GRACE_SECONDS:
        is_early = request.steady_at < subject.open_until - ROUNDING_SECONDS
        if is_early and request.delivery not in world.by_hand:
            world.report(f"{request.delivery} sent to {subject.id} while its breaker is open")
        if any(other.at > subject.opened_at + GRACE_SECONDS for other in subject.in_flight):
            world.report(f"{request.delivery} sent to {subject.id} during its probe")
    if subject.paused_at is not None and now > subject.paused_at + GRACE_SECONDS:
        if request.steady_at < subject.paused_until - ROUNDING_SECONDS:
            world.report(f"{request.delivery} sent to {subject.id} before its Retry-After")
        if any(other.at > subject.paused_at + GRACE_SECONDS for other in subject.in_flight):
            world.report(f"{request.delivery} sent to {subject.id} during the first request after a pause")
    _check_ramp(world, subject, request)
    _check_promptness(world, subject, request)
    _check_body(world, request)
    _check_signature(world, subject, request, headers)
    _check_order(world, subject, request)
    _check_pace(world, subject, request.steady_at)
    subject.in_flight.append(request)
    subject.touched_at = now


def _check_body(world: World, request: Request) -> None:
    submission = world.submissions.get(request.event)
    if submission is not None and b'"data":' + submission.data + b"}" not in request.body:
        world.report(f"the body of {request.event} has other data than was submitted: {request.body!r}")


def _check_signature(world: World, subject: Subject, request: Request, headers: Mapping[str, str]) -> None:
    """Check that each signature is of a current secret, and that every current secret has one."""
    now = request.steady_at
    content = f"{request.event}.{headers['webhook-timestamp']}.".encode() + request.body
    tokens = headers["webhook-signature"].split()
    may, must = set(), set()
    for signing in subject.secrets:
        key = base64.b64decode(signing.secret.removeprefix("whsec_"))
        token = "v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
        begins, ends = signing.since, signing.until
        if ends is None or now < ends + GRACE_SECONDS:
            may.add(token)
            if begins + GRACE_SECONDS < now and (ends is None or now < ends - GRACE_SECONDS):
                must.add(token)
    if not set(tokens) <= may:
        world.report(f"{request.delivery} is signed with a secret that is not current at {subject.id}")
    if not must <= set(tokens):
        world.report(f"{request.delivery} is not signed with every current secret of {subject.id}")


def _check_order(world: World, subject: Subject, request: Request) -> None:
    if any(other.delivery == request.delivery for other in subject.in_flight):
        world.report(f"{request.delivery} is in flight twice")
    if subject.ordering is Ordering.NONE:
        return
    key = None if subject.ordering is Ordering.STRICT else _key(world, request)
    if subject.ordering is Ordering.KEY and key is None:
        return
    head = subject.heads.get(key)
    if _is_loose(world, request):
        if head is not None and head.delivery == request.delivery:
            subject.heads[key] = request  # the last answer counts, also after a refused retry by hand
        return
    ahead = [other for other in subject.in_flight if not _is_loose(world, other)]
    if subject.ordering is Ordering.KEY:
        ahead = [other for other in ahead if _key(world, other) == key]
    if ahead:
        world.report(f"{request.delivery} overtakes {ahead[0].delivery}, which is in flight")
    if head is not None and head.delivery != request.delivery:
        is_over = _has_ended(head) or _is_loose(world, head) or may_have_expired(world, subject, head.event)
        if not is_over:
            world.report(f"{request.delivery} overtakes {head.delivery}, which has not ended")
    subject.heads[key] = request
    if request.attempt == 1:
        last = subject.last_sequences.get(key, 0)
        if request.sequence < last:
            world.report(f"sequence {request.sequence} first sent after {last} to {subject.id}, key {key}")
        subject.last_sequences[key] = max(last, request.sequence)


def _is_loose(world: World, request: Request) -> bool:
    """Whether a delivery is outside its queue's order: it was retried by hand, or may have been parked."""
    return request.delivery in world.by_hand or world.refusals[request.delivery] >= PARK_AFTER


def may_have_expired(world: World, subject: Subject, event: str) -> bool:
    """Whether a delivery may have expired, counted from the first submission of its event."""
    most = subject.overrides.retry.max_age_seconds
    if most is None:
        return world.unobserved > 0
    submission = world.submissions.get(event)
    return (
        world.unobserved > 0 or submission is None or world.clock.steady() >= submission.at + most - SMALL_STEPS_SECONDS
    )


def _has_ended(request: Request) -> bool:
    """Whether the answer ends the delivery."""
    outcome = request.outcome
    if outcome is None:
        return False
    is_final = outcome.status is not None and (200 <= outcome.status < 300 or outcome.status == 410)
    return is_final or ("webhook-delivery", "abort") in outcome.headers


def _key(world: World, request: Request) -> str | None:
    """Return the ordering key, or None; it is unknown for an event whose acknowledgement was lost."""
    submission = world.submissions.get(request.event)
    return None if submission is None else submission.key


def _check_pace(world: World, subject: Subject, now: float) -> None:
    limit = subject.overrides.rate_limit
    if limit is None:
        return
    # Each restart and each change of the limit starts a new count.
    times = subject.request_times.setdefault((world.life, subject.version), [])
    times.append(now)
    for index, first in enumerate(times):
        if len(times) - index > limit.burst + limit.per_second * (now - first + 0.25) + 1:
            world.report(f"{len(times) - index} requests in {now - first:.3f} s at {subject.id}: above {limit}")
            return


def _check_ramp(world: World, subject: Subject, request: Request) -> None:
    """Check the requests in flight: at most the concurrency, and fewer in the ten seconds after an outage or pause."""
    most = subject.overrides.concurrency
    assert most is not None
    if subject.ordering is Ordering.STRICT:
        return  # `_check_order` allows only one, and requests outside the order do not count
    since = subject.recovered_at
    is_ramped = subject.overrides.rate_limit is None and not subject.is_settling
    if since is not None and is_ramped and request.steady_at < since + RAMP_SECONDS:
        most = 1 + int((most - 1) * (request.steady_at - since + ROUNDING_SECONDS) / RAMP_SECONDS)
    if len(subject.in_flight) >= most:
        world.report(
            f"{request.delivery} sent to {subject.id} with {len(subject.in_flight)} in flight, of at most {most}"
        )


def _check_promptness(world: World, subject: Subject, request: Request) -> None:
    """Check that a webhook is tried at once after a change of its URL and after it was enabled."""
    if subject.untried_since is None:
        return
    since, subject.untried_since = subject.untried_since, None
    limit = subject.overrides.rate_limit
    most = PROMPT_SECONDS + (0.0 if limit is None else 1.0 / limit.per_second)
    if request.at > since + most:
        world.report(f"{request.delivery} sent to {subject.id} {request.at - since:.1f} s after the change of that")


def learn(world: World, request: Request, outcome: Outcome) -> None:
    """Learn from the outcome that the server got."""
    subject = world.subjects[request.endpoint_id]
    subject.in_flight.remove(request)
    request.ended_at, request.outcome = trio.current_time(), outcome
    subject.touched_at = request.ended_at
    if subject.untried_since is not None:
        if request.is_delivered:
            subject.waiting.discard(request.delivery)
        # Requests in flight may have held the queue up.
        subject.untried_since = request.ended_at if subject.waiting else None
    directives = [value for name, value in outcome.headers if name == "webhook-delivery"]
    world.refusals[request.delivery] += outcome.status in REFUSALS
    is_outdated = subject.is_outdated(request)
    is_slowing = outcome.status in {429, 503} and not subject.is_moving and request.url == subject.url
    if is_outdated and not is_slowing:
        return  # it is no answer of the changed webhook
    if outcome.status == 410 or "disable" in directives:
        # During a change of the webhook it is unknown whether this disables it.
        subject.disabled_at, subject.enabled_since = request.ended_at if is_outdated is False else None, None
        subject.has_dropped = subject.has_dropped or subject.drops
        subject.expect_nothing()
    is_closing = outcome.status is not None and (200 <= outcome.status < 300 or outcome.status in REFUSALS | {410})
    if is_closing or "abort" in directives:
        _good_answer(world, subject, request, is_doubtful=is_outdated is None)
    elif is_slowing:
        subject.faults = subject.doubtful_faults = 0
        if _is_probe(subject, request):
            subject.open_until = 0.0  # the breaker stays half-open: the first request after the pause is the next probe
        after = [float(value) for name, value in outcome.headers if name == "retry-after" and value.isdigit()]
        until = world.clock.steady() + max(after, default=0.0)
        subject.paused_until = until if subject.paused_at is None else max(until, subject.paused_until)
        subject.paused_at = request.ended_at
        subject.expect_nothing()
    elif outcome.status in {429, 503}:
        subject.expect_nothing()  # it is, or may be, an answer of the old URL
    elif outcome.error is not DeliveryError.INTERRUPTED:
        _fault(world, subject, is_doubtful=is_outdated is None, is_probe=_is_probe(subject, request))


def _good_answer(world: World, subject: Subject, request: Request, *, is_doubtful: bool) -> None:
    """Learn from a success or a refusal: it ends an outage, and a pause if it was sent after the pause."""
    is_paused = subject.paused_at is not None
    is_in_force = is_paused and world.clock.steady() < subject.paused_until - ROUNDING_SECONDS
    is_straggler = subject.paused_at is not None and request.at <= subject.paused_at
    if not is_doubtful and (is_in_force or is_straggler):
        subject.faults = subject.doubtful_faults = 0
        return
    if not is_doubtful and (is_paused or (subject.opened_at is not None and not subject.doubtful_faults)):
        subject.recovered_at = world.clock.steady()
    subject.reset_failures()
    subject.paused_at = None


def _is_probe(subject: Subject, request: Request) -> bool:
    return subject.opened_at is not None and request.at > subject.opened_at + GRACE_SECONDS


def _fault(world: World, subject: Subject, *, is_doubtful: bool, is_probe: bool) -> None:
    if is_doubtful:
        subject.doubtful_faults += 1  # reset by the change, or counted after it
        return
    subject.faults += 1
    threshold = subject.overrides.breaker_threshold
    delays, jitter = subject.overrides.retry.delays, subject.overrides.retry.jitter
    assert threshold is not None
    assert delays is not None
    assert jitter is not None
    if is_probe or (subject.opened_at is None and subject.faults >= threshold):
        subject.opened_at = trio.current_time()
        # With doubtful faults the breaker may have opened before, and this fault may have changed nothing.
        is_certain = not subject.doubtful_faults
        subject.open_until = world.clock.steady() + min(delays) * (1 - jitter) if is_certain else 0.0
