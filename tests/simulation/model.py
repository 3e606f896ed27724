"""What the simulation knows by itself of events, endpoints and requests, apart from what the server says."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import trio

from tests.virtual_clock import VIRTUAL_EPOCH
from webhookd.base.models import Ordering, Outcome, PolicyOverrides, WhenInactive

MOST_STEPS = 120_000
TYPES = ("user.created", "user.deleted", "organization.created")
EXTRA_TYPE = "user.extra"
PARK_AFTER = 2
GRACE_SECONDS = 1.0


class SpinningError(Exception):
    """Somebody does the same again and again, without time passing."""


@dataclass(slots=True, eq=False)
class Request:
    """One request that a receiver saw; `outcome` is what the server got to know, `taken` what the receiver did.

    `at` and `ended_at` are trio's time, `steady_at` the steady clock's.
    """

    life: int
    endpoint_id: str
    delivery: str
    event: str
    attempt: int
    sequence: int
    at: float
    steady_at: float
    body: bytes
    url: str = ""
    ended_at: float | None = None
    outcome: Outcome | None = None
    taken: bool = False

    @property
    def is_delivered(self) -> bool:
        """Whether the answer that the server got to know says that the event was taken."""
        if self.outcome is None or self.outcome.status is None:
            return False
        return 200 <= self.outcome.status < 300 and ("webhook-delivery", "abort") not in self.outcome.headers


@dataclass(slots=True)
class Subject:
    """An endpoint as it was asked for, and what its answers so far forbid.

    Moments are trio's time; `open_until`, `paused_until`, `recovered_at` and those of secrets are the steady clock's.
    `paused_at` stays until a good answer has come after the pause; `untried_since` is when the webhook was changed so
    that one of `waiting` leaves at once. While it `is_settling` nobody knows which of two policies holds.
    """

    id: str
    url: str
    events: tuple[str, ...]
    overrides: PolicyOverrides
    ordering: Ordering
    created: bool = False
    deleting: bool = False
    deleted_at: float | None = None
    inactive_at: float | None = None
    on_since: float | None = None
    has_dropped: bool = False
    secrets: list["Signing"] = field(default_factory=list)
    version: int = 0
    faults: int = 0
    doubtful_faults: int = 0
    opened_at: float | None = None
    open_until: float = 0.0
    paused_at: float | None = None
    paused_until: float = 0.0
    recovered_at: float | None = None
    is_settling: bool = False
    change_began_at: float = -10.0
    change_ended_at: float = -10.0
    is_moving: bool = False
    untried_since: float | None = None
    waiting: set[str] = field(default_factory=set)
    flying: list[Request] = field(default_factory=list)
    last_of_line: dict[str | None, int] = field(default_factory=dict)
    heads: dict[str | None, Request] = field(default_factory=dict)
    touched_at: float = 0.0
    paces: dict[tuple[int, int], list[float]] = field(default_factory=dict)

    def forgive(self) -> None:
        """Forget what has failed: it has given a good answer."""
        self.faults = self.doubtful_faults = 0
        self.opened_at = None

    def begin_change(self, *, is_move: bool = False) -> None:
        """Note that a change begins which resets the failure state; the time at which it takes effect is unknown."""
        self._pardon()
        self.change_began_at, self.change_ended_at, self.is_moving = trio.current_time(), float("inf"), is_move

    def end_change(self) -> None:
        """Note that the change is on disk, or refused."""
        self._pardon()
        self.change_ended_at, self.is_moving = trio.current_time(), False

    def _pardon(self) -> None:
        self.forgive()
        self.paused_at = None

    def is_outdated(self, request: Request) -> bool | None:
        """Whether a request was made to the webhook as it was before the last change; None where nobody knows."""
        if request.at > self.change_ended_at + GRACE_SECONDS:
            return False
        return True if request.at < self.change_began_at and self.change_ended_at <= trio.current_time() else None

    def expect_request(self, waiting: set[str]) -> None:
        """Expect that one of the `waiting` deliveries is sent at once, because the webhook has just been changed."""
        self.waiting = waiting
        self.untried_since = trio.current_time() if waiting else None

    def expect_nothing(self) -> None:
        """Expect no request in particular: something holds the webhook that isn't its back-off."""
        self.untried_since = None

    @property
    def drops(self) -> bool:
        """Whether events that come while it is switched off aren't kept for it."""
        return self.overrides.when_inactive is WhenInactive.DROP

    def order(self, ordering: Ordering) -> None:
        """Begin another order; what is queued has no history in it."""
        self.ordering = ordering
        self.heads.clear()
        self.last_of_line.clear()


@dataclass(slots=True)
class Signing:
    """A secret and when it signs: `since` and `until`, the second once another has taken its place."""

    secret: str
    since: float
    until: float | None = None


@dataclass(slots=True)
class Submission:
    """An event that was handed in: `acked` is how many deliveries the server promised."""

    data: bytes
    type: str
    key: str | None
    at: float
    wall_at: float
    acked: int | None = None
    may_be_forgotten: bool = False
    wanted: set[str] = field(default_factory=set)


YEAR, DAY = 31_536_000.0, 86_400.0
UNHEARD_SECONDS = 65.0
SMALL_STEPS_SECONDS = 3.0  # what steps that are passed over may come to once servers have started anew


class SimulatedClock:
    """A machine's clocks: they follow trio's, until somebody sets the wall clock or suspends the machine."""

    def __init__(self) -> None:
        self.offset = 0.0
        self.suspended = 0.0
        self.is_set = False
        self.jumps: list[tuple[float, float]] = []

    def now(self) -> float:
        """Epoch seconds, cut to the millisecond."""
        return round(VIRTUAL_EPOCH + self.steady() + self.offset, 3)

    def steady(self) -> float:
        """Seconds since the machine was started."""
        return trio.current_time() + self.suspended

    def jump(self, seconds: float) -> None:
        """Set the wall clock forth or back."""
        self.offset += seconds
        self.jumps.append((trio.current_time(), seconds))

    def suspend(self, seconds: float) -> None:
        """Let time pass that trio's clock doesn't see."""
        self.suspended += seconds


class World:
    """What outlives a crash: the dice, the clock, the trace and all that was promised or seen."""

    def __init__(self, seed: int, *, stops_early: bool = False, is_about_time: bool = False) -> None:
        self.seed = seed
        self.is_about_time = is_about_time
        self.stops_early = stops_early
        self.stop: Callable[[], None] = lambda: None
        self.dice = Random(seed)  # noqa: S311 - the same dice each time are the point
        self.clock = SimulatedClock()
        self.trace: list[str] = []
        self.subjects: dict[str, Subject] = {}
        self.handed_in = 0
        self.named: list[str] = []
        self.submissions: dict[str, Submission] = {}
        self.requests: list[Request] = []
        self.by_hand: set[str] = set()
        self.refusals: Counter[str] = Counter()
        self.violations: list[str] = []
        self.unsaved_since: dict[int, float] = {}  # of each life that was killed
        self.was_full_at = -1e9
        self.full_since: float | None = None
        self.is_healing = False
        self.is_crowded = False  # requests wait for those of other webhooks
        self.catalogue: dict[str, bool | None] = {**dict.fromkeys(TYPES, True), EXTRA_TYPE: False}
        self.life_began_at = 0.0
        self.forgotten_before = [0.0]  # in each life, what came before that wall time
        self.unheard = 0.0  # by how much the clock was set with no server to hear of it, the largest
        self.life = 0
        self.is_dead = False
        self.steps = 0
        self.fuse: int | None = None
        self.explode: Callable[[], None] = lambda: None

    def note(self, what: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{trio.current_time():.4f} {what}")

    def blame(self, what: str) -> None:
        """Note a broken promise."""
        if len(self.violations) < 20:
            self.violations.append(f"at {trio.current_time():.3f} s: {what}")
        if self.stops_early:
            self.is_dead = True
            self.stop()

    def step(self) -> None:
        """Count a step of the disk or the network, at any of which a crash may be due."""
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise SpinningError(f"more than {MOST_STEPS} steps of disk and network")
        if self.fuse is not None and not self.is_dead:
            self.fuse -= 1
            if self.fuse <= 0:
                self.fuse = None
                self.explode()
