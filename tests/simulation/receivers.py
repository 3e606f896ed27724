"""Receivers that answer at random, in the place of the server's transport."""

import trio

from tests.senders import TaskSender
from tests.simulation import watch
from tests.simulation.model import Request, World
from webhookd.base.models import DeliveryError, Outcome
from webhookd.delivery.request import Request as Sent

OUTAGE_SECONDS = 30
FAULTS = (
    DeliveryError.CONNECT,
    DeliveryError.DNS,
    DeliveryError.TLS,
    DeliveryError.PROTOCOL,
    DeliveryError.BLOCKED,
)
# The receiver accepts the event, but its answer is cut off or never sent, so the server can't know.
LOST_REPLIES = (
    "the receiver closed the connection without a byte of an answer",
    "the receiver closed the connection in the middle of its head",
    "the receiver closed the connection in the middle of the body it announced",
)


class SimulatedSender(TaskSender):
    """Waits and returns an outcome without a connection; after a crash of the server it never returns."""

    def __init__(self, world: World, life: int) -> None:
        self._world = world
        self._life = life

    async def send(self, sent: Sent) -> Outcome:
        world, url = self._world, sent.url
        await self._hang_if_dead()
        names = dict(sent.headers)
        request = Request(
            self._life,
            sent.endpoint_id,
            names["x-webhook-delivery"],
            names["webhook-id"],
            int(names["x-webhook-attempt"]),
            int(names["x-webhook-sequence"]),
            trio.current_time(),
            world.clock.steady(),
            sent.body,
            url,
        )
        world.requests.append(request)
        world.note(f"> {url} {sorted(sent.headers)} {sent.body!r}")
        watch.check_request(world, request, names)
        world.step()
        outcome, seconds = self._answer(url, request)
        try:
            with trio.move_on_after(sent.timeout_seconds) as patience:
                await trio.sleep(seconds)
        except trio.Cancelled:
            if not world.is_dead:
                watch.learn(world, request, Outcome(duration_seconds=0.0, error=DeliveryError.INTERRUPTED))
            raise
        await self._hang_if_dead()
        if patience.cancelled_caught:
            outcome = Outcome(duration_seconds=sent.timeout_seconds, error=DeliveryError.TIMEOUT)
        watch.learn(world, request, outcome)
        world.note(f"< {request.delivery} {request.attempt} {outcome.status} {outcome.error}")
        if _may_be_last(request, outcome) and not world.is_healing and world.dice.random() < 0.25:
            world.fuse = world.dice.randint(1, 6)  # about when the attempt and its operational events are recorded
        world.step()
        return outcome

    async def _hang_if_dead(self) -> None:
        """Never return in a killed process that has not been cancelled yet."""
        if self._world.is_dead:
            await trio.sleep_forever()

    def _answer(self, url: str, request: Request) -> tuple[Outcome, float]:
        """Return the outcome of a request, and after how many seconds."""
        dice = self._world.dice
        seconds = dice.choice((0.0, 0.001, 0.02, 0.2, 1.5))
        # Outages last for some time: each receiver behaves in one way for each period.
        behaviour = hash_of(f"{self._world.seed} {url} {int(trio.current_time() / OUTAGE_SECONDS)}") % 6
        if not self._world.is_healing:
            if behaviour == 0 or (behaviour == 2 and dice.random() < 0.3):
                return self._failure(seconds, request)
            if behaviour == 1 and dice.random() < 0.4:
                return self._refusal(seconds)
            if dice.random() < 0.02:
                return self._directive(seconds)
        request.is_accepted = True
        if dice.random() < 0.05:  # a body longer than the server reads
            return Outcome(duration_seconds=seconds, status=200, body=b"x" * 4096, truncated=True), seconds
        return Outcome(duration_seconds=seconds, status=dice.choice((200, 200, 201, 204))), seconds

    def _failure(self, seconds: float, request: Request) -> tuple[Outcome, float]:
        dice = self._world.dice
        roll = dice.random()
        if roll < 0.25:
            error = dice.choice(FAULTS)
            return Outcome(duration_seconds=seconds, error=error, detail=error.value), seconds
        if roll < 0.35:
            request.is_accepted = True
            return Outcome(
                duration_seconds=seconds, error=DeliveryError.PROTOCOL, detail=dice.choice(LOST_REPLIES)
            ), seconds
        if roll < 0.45:
            request.is_accepted = dice.random() < 0.5
            return Outcome(duration_seconds=0.0, status=200), 1e6  # hangs until the timeout
        if roll < 0.65:
            after = dice.choice(("7", "20", "40", "soon"))
            return Outcome(
                duration_seconds=seconds, status=dice.choice((429, 503)), headers=(("retry-after", after),)
            ), (seconds)
        return Outcome(duration_seconds=seconds, status=dice.choice((302, 401, 404, 500, 502))), seconds

    def _refusal(self, seconds: float) -> tuple[Outcome, float]:
        status = self._world.dice.choice((400, 409, 422))
        return Outcome(duration_seconds=seconds, status=status), seconds

    def _directive(self, seconds: float) -> tuple[Outcome, float]:
        directive = self._world.dice.choice((None, "abort", "disable"))
        if directive is None:
            return Outcome(duration_seconds=seconds, status=410), seconds
        status = self._world.dice.choice((500, 200)) if directive == "abort" else 500  # a 2xx may abort, too
        return Outcome(duration_seconds=seconds, status=status, headers=(("webhook-delivery", directive),)), seconds


def _may_be_last(request: Request, outcome: Outcome) -> bool:
    """Whether this answer may be the last of a delivery."""
    is_refused_again = outcome.status in watch.REFUSALS and request.attempt > 1
    return is_refused_again or outcome.status == 410 or ("webhook-delivery", "abort") in outcome.headers


def hash_of(text: str) -> int:
    """Return a number that depends only on the text."""
    value = 0
    for byte in text.encode():
        value = (value * 131 + byte) % 1_000_000_007
    return value
