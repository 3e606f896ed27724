"""Receivers that record each request, its answer, and the life of the server in which it was made."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import standardwebhooks
import stripe
import svix.webhooks

from tests.receiver import Act, Receiver, Reply, Request, Script, always

_VERIFIED_EVERY = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request and its answer; `life` is the number of the server process, from 1."""

    life: int
    request: Request
    reply: Reply

    @property
    def attempt(self) -> tuple[str, int]:
        """The delivery's id and the number of the attempt."""
        return self.request.headers["x-webhook-delivery"], int(self.request.headers["x-webhook-attempt"])

    @property
    def event(self) -> str:
        """The event's id."""
        return self.request.headers["webhook-id"]

    @property
    def sequence(self) -> int:
        """The delivery's sequence."""
        return int(self.request.headers["x-webhook-sequence"])

    @property
    def is_good(self) -> bool:
        """Whether it was answered with success."""
        return self.reply.act is Act.ANSWER and self.reply.status == 200

    @property
    def had_no_answer(self) -> bool:
        """Whether no byte was answered, so that the same attempt may be repeated on a new connection."""
        return self.reply.act in {Act.CLOSE, Act.RESET}


@dataclass
class Lives:
    """The number of started server processes."""

    count: int = 0


@dataclass
class Watched:
    """A webhook, its receiver, and the exchanges of that receiver."""

    name: str
    ordering: str
    concurrency: int
    script: Script
    lives: Lives
    exchanges: list[Exchange] = field(default_factory=list)
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
        if self.secret and len(self.exchanges) % _VERIFIED_EVERY == 0:
            self._verify(request)
        self.exchanges.append(Exchange(life=self.lives.count, request=request, reply=reply))
        return reply

    def _verify(self, request: Request) -> None:
        """Verify a request with the libraries that receivers use."""
        signature = request.headers["x-webhook-signature"]
        try:
            standardwebhooks.Webhook(self.secret).verify(request.body, request.headers)
            svix.webhooks.Webhook(self.secret).verify(request.body, request.headers)
            stripe.WebhookSignature.verify_header(request.body.decode(), signature, self.secret, tolerance=300)
        except Exception as error:  # noqa: BLE001 - each library has its own exceptions
            self.unverified.append(f"{request.headers['webhook-id']} has an invalid signature: {error!r}")


def receivers(seed: int, lives: Lives) -> Iterator[Watched]:
    """Yield receivers of every ordering: healthy, erratic and slow ones."""
    yield Watched("strict", "strict", 1, always(), lives)
    yield Watched("strict, erratic", "strict", 1, _erratic(seed, slowest_seconds=0.004), lives)
    yield Watched("key, slow", "key", 4, _slow(seed + 1), lives)
    yield Watched("none, erratic", "none", 8, _erratic(seed + 2, slowest_seconds=0.02), lives)


def _erratic(seed: int, *, slowest_seconds: float) -> Script:
    """Return a script that sometimes fails, closes or resets, and else answers after a short delay."""
    chance = random.Random(seed)  # noqa: S311 - not for security
    bad = (Reply(status=500), Reply(act=Act.CLOSE), Reply(act=Act.CUT), Reply(act=Act.RESET))

    def answer(_request: Request, _nth: int) -> Reply:
        if chance.random() < 0.15:
            return chance.choice(bad)
        return Reply(delay_seconds=chance.random() * slowest_seconds)

    return answer


def _slow(seed: int) -> Script:
    chance = random.Random(seed)  # noqa: S311 - not for security
    return lambda _request, _nth: Reply(delay_seconds=0.005 + chance.random() * 0.03)
