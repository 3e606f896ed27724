"""Receivers that remember what they answered to whom, and in which life of the server they were asked."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import standardwebhooks
import stripe
import svix.webhooks

from tests.receiver import Act, Receiver, Reply, Request, Script, always

_VERIFIED_EVERY = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One request and its answer; `life` counts the processes that were started before."""

    life: int
    request: Request
    reply: Reply

    @property
    def attempt(self) -> tuple[str, int]:
        """The delivery and the number of the attempt."""
        return self.request.headers["x-webhook-delivery"], int(self.request.headers["x-webhook-attempt"])

    @property
    def event(self) -> str:
        """The event's id."""
        return self.request.headers["webhook-id"]

    @property
    def sequence(self) -> int:
        """The place in the webhook's queue."""
        return int(self.request.headers["x-webhook-sequence"])

    @property
    def is_good(self) -> bool:
        """Whether it was answered with success."""
        return self.reply.act is Act.ANSWER and self.reply.status == 200

    @property
    def was_swallowed(self) -> bool:
        """Whether no byte came back, so that the same attempt may ask again on a fresh connection."""
        return self.reply.act in {Act.CLOSE, Act.RESET}


@dataclass
class Lives:
    """How many processes were started."""

    count: int = 0


@dataclass
class Watched:
    """A webhook of one ordering, its receiver and all that this heard."""

    name: str
    ordering: str
    concurrency: int
    script: Script
    lives: Lives
    heard: list[Heard] = field(default_factory=list)
    webhook_id: str = ""
    secret: str = ""
    unverified: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.receiver = Receiver(self._answer)

    def recover(self) -> None:
        """Answer everything with success from now on."""
        self.script = always()

    def _answer(self, request: Request, nth: int) -> Reply:
        reply = self.script(request, nth)
        if self.secret and len(self.heard) % _VERIFIED_EVERY == 0:
            self._verify(request)
        self.heard.append(Heard(life=self.lives.count, request=request, reply=reply))
        return reply

    def _verify(self, request: Request) -> None:
        """Have a request verified by the libraries that receivers use."""
        signature = request.headers["x-webhook-signature"]
        try:
            standardwebhooks.Webhook(self.secret).verify(request.body, request.headers)
            svix.webhooks.Webhook(self.secret).verify(request.body, request.headers)
            stripe.WebhookSignature.verify_header(request.body.decode(), signature, self.secret, tolerance=300)
        except Exception as error:  # noqa: BLE001 - each library has its own
            self.unverified.append(f"{request.headers['webhook-id']} came with signatures that don't hold: {error!r}")


def receivers(seed: int, lives: Lives) -> Iterator[Watched]:
    """Yield receivers of every ordering: well, erratic and slow."""
    yield Watched("strict", "strict", 1, always(), lives)
    yield Watched("strict, erratic", "strict", 1, _erratic(seed, slowest_seconds=0.004), lives)
    yield Watched("key, slow", "key", 4, _slow(seed + 1), lives)
    yield Watched("none, erratic", "none", 8, _erratic(seed + 2, slowest_seconds=0.02), lives)


def _erratic(seed: int, *, slowest_seconds: float) -> Script:
    """Return a script that fails, drops, stalls and answers."""
    chance = random.Random(seed)  # noqa: S311 - a test's dice
    bad = (Reply(status=500), Reply(act=Act.CLOSE), Reply(act=Act.CUT), Reply(act=Act.RESET))

    def answer(_request: Request, _nth: int) -> Reply:
        if chance.random() < 0.15:
            return chance.choice(bad)
        return Reply(delay_seconds=chance.random() * slowest_seconds)

    return answer


def _slow(seed: int) -> Script:
    chance = random.Random(seed)  # noqa: S311 - a test's dice
    return lambda _request, _nth: Reply(delay_seconds=0.005 + chance.random() * 0.03)
