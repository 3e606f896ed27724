"""The other end: answers as the dice say, at the place where the server has its transport."""

import trio

from tests.simulation import watch
from tests.simulation.model import Request, World
from webhookd.base.models import DeliveryError, Outcome

OUTAGE_SECONDS = 30
TROUBLES = (
    DeliveryError.CONNECT,
    DeliveryError.DNS,
    DeliveryError.TLS,
    DeliveryError.PROTOCOL,
    DeliveryError.BLOCKED,
)
# An answer that ends midway, or never comes: the receiver has done its part, and the server can't know.
LOST_REPLIES = (
    "the receiver closed the connection without a byte of an answer",
    "the receiver closed the connection in the middle of its head",
    "the receiver closed the connection in the middle of the body it announced",
)


class SimulatedSender:
    """Makes no connection: lets time pass and returns an outcome, or none where the server dies meanwhile."""

    def __init__(self, world: World, life: int) -> None:
        self._world = world
        self._life = life

    async def send(
        self, *, endpoint_id: str, url: str, headers: list[tuple[str, str]], body: bytes, timeout_seconds: float
    ) -> Outcome:
        world = self._world
        await self._stay_silent_if_dead()
        names = dict(headers)
        request = Request(
            self._life,
            endpoint_id,
            names["x-webhook-delivery"],
            names["webhook-id"],
            int(names["x-webhook-attempt"]),
            int(names["x-webhook-sequence"]),
            trio.current_time(),
            world.clock.steady(),
            body,
            url,
        )
        world.requests.append(request)
        world.note(f"> {url} {sorted(headers)} {body!r}")
        watch.began(world, request, names)
        world.step()
        outcome, seconds = self._answer(url, request)
        try:
            with trio.move_on_after(timeout_seconds) as patience:
                await trio.sleep(seconds)
        except trio.Cancelled:
            if not world.is_dead:
                watch.ended(world, request, Outcome(duration_seconds=0.0, error=DeliveryError.INTERRUPTED))
            raise
        await self._stay_silent_if_dead()
        if patience.cancelled_caught:
            outcome = Outcome(duration_seconds=timeout_seconds, error=DeliveryError.TIMEOUT)
        watch.ended(world, request, outcome)
        world.note(f"< {request.delivery} {request.attempt} {outcome.status} {outcome.error}")
        if _may_be_last(request, outcome) and not world.is_healing and world.dice.random() < 0.25:
            world.fuse = world.dice.randint(1, 6)  # about when it is recorded, with what is told of it
        world.step()
        return outcome

    async def _stay_silent_if_dead(self) -> None:
        """Let nothing come of what a killed process still does."""
        if self._world.is_dead:
            await trio.sleep_forever()

    async def forget(self, endpoint_id: str) -> None:
        await trio.lowlevel.checkpoint()

    def _answer(self, url: str, request: Request) -> tuple[Outcome, float]:
        """Return what comes of a request, and after how long."""
        dice = self._world.dice
        seconds = dice.choice((0.0, 0.001, 0.02, 0.2, 1.5))
        # Outages last: each stretch of time has its own mood for each receiver.
        mood = hash_of(f"{self._world.seed} {url} {int(trio.current_time() / OUTAGE_SECONDS)}") % 6
        if not self._world.is_healing:
            if mood == 0 or (mood == 2 and dice.random() < 0.3):
                return self._trouble(seconds, request)
            if mood == 1 and dice.random() < 0.4:
                return self._refusal(seconds)
            if dice.random() < 0.02:
                return self._wish(seconds)
        request.taken = True
        if dice.random() < 0.05:  # more than is read: the rest is cut off
            return Outcome(duration_seconds=seconds, status=200, body=b"x" * 4096, truncated=True), seconds
        return Outcome(duration_seconds=seconds, status=dice.choice((200, 200, 201, 204))), seconds

    def _trouble(self, seconds: float, request: Request) -> tuple[Outcome, float]:
        dice = self._world.dice
        roll = dice.random()
        if roll < 0.25:
            error = dice.choice(TROUBLES)
            return Outcome(duration_seconds=seconds, error=error, detail=error.value), seconds
        if roll < 0.35:
            request.taken = True
            return Outcome(
                duration_seconds=seconds, error=DeliveryError.PROTOCOL, detail=dice.choice(LOST_REPLIES)
            ), seconds
        if roll < 0.45:
            request.taken = dice.random() < 0.5
            return Outcome(duration_seconds=0.0, status=200), 1e6  # hangs; the deadline ends it
        if roll < 0.65:
            after = dice.choice(("7", "20", "40", "soon"))
            return Outcome(
                duration_seconds=seconds, status=dice.choice((429, 503)), headers=(("retry-after", after),)
            ), (seconds)
        return Outcome(duration_seconds=seconds, status=dice.choice((302, 401, 404, 500, 502))), seconds

    def _refusal(self, seconds: float) -> tuple[Outcome, float]:
        status = self._world.dice.choice((400, 409, 422))
        return Outcome(duration_seconds=seconds, status=status), seconds

    def _wish(self, seconds: float) -> tuple[Outcome, float]:
        wish = self._world.dice.choice((None, "abort", "disable"))
        if wish is None:
            return Outcome(duration_seconds=seconds, status=410), seconds
        status = self._world.dice.choice((500, 200)) if wish == "abort" else 500  # it may say both yes and no
        return Outcome(duration_seconds=seconds, status=status, headers=(("webhook-delivery", wish),)), seconds


def _may_be_last(request: Request, outcome: Outcome) -> bool:
    """Whether a delivery may fail with this answer."""
    is_refused_again = outcome.status in watch.REFUSALS and request.attempt > 1
    return is_refused_again or outcome.status == 410 or ("webhook-delivery", "abort") in outcome.headers


def hash_of(text: str) -> int:
    """Return a number that depends on the text alone."""
    value = 0
    for byte in text.encode():
        value = (value * 131 + byte) % 1_000_000_007
    return value
