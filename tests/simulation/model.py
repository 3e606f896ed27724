"""What the simulation knows by itself of events, endpoints and requests, apart from what the server says."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import trio

from webhookd.clock import VIRTUAL_EPOCH
from webhookd.models import Ordering, Outcome, PolicyOverrides

MOST_STEPS = 60_000
PARK_AFTER = 2


class SpinningError(Exception):
    """Somebody does the same again and again, without time passing."""


@dataclass(slots=True, eq=False)
class Request:
    """One request that a receiver saw; times are the steady clock's, `outcome` what the server got to know."""

    life: int
    endpoint_id: str
    delivery: str
    event: str
    attempt: int
    sequence: int
    at: float
    body: bytes
    ended_at: float | None = None
    outcome: Outcome | None = None


@dataclass(slots=True)
class Subject:
    """An endpoint as it was asked for, and what its answers so far forbid; times are the steady clock's."""

    id: str
    url: str
    events: tuple[str, ...]
    overrides: PolicyOverrides
    ordering: Ordering
    created: bool = False
    deleting: bool = False
    deleted_at: float | None = None
    inactive_at: float | None = None
    version: int = 0
    faults: int = 0
    opened_at: float | None = None
    open_until: float = 0.0
    paused_at: float | None = None
    paused_until: float = 0.0
    flying: list[Request] = field(default_factory=list)
    last_of_line: dict[str | None, int] = field(default_factory=dict)
    heads: dict[str | None, Request] = field(default_factory=dict)
    paces: dict[tuple[int, int], list[float]] = field(default_factory=dict)

    def forgive(self) -> None:
        """Forget the past: somebody switched it on or changed its URL."""
        self.faults = 0
        self.opened_at = self.paused_at = None


@dataclass(slots=True)
class Submission:
    """An event that was handed in: `acked` is how many deliveries the server promised."""

    data: bytes
    type: str
    key: str | None
    acked: int | None = None
    wanted: set[str] = field(default_factory=set)


class SimulatedClock:
    """A machine's clocks: they follow trio's, until somebody sets the wall clock or suspends the machine."""

    def __init__(self) -> None:
        self.offset = 0.0
        self.suspended = 0.0

    def now(self) -> float:
        """Epoch seconds, cut to the millisecond."""
        return round(VIRTUAL_EPOCH + self.steady() + self.offset, 3)

    def steady(self) -> float:
        """Seconds since the machine was started."""
        return trio.current_time() + self.suspended

    def jump(self, seconds: float) -> None:
        """Set the wall clock forth or back."""
        self.offset += seconds

    def suspend(self, seconds: float) -> None:
        """Let time pass that trio's clock doesn't see."""
        self.suspended += seconds


class World:
    """What outlives a crash: the dice, the clock, the trace and all that was promised or seen."""

    def __init__(self, seed: int, *, stops_early: bool = False) -> None:
        self.seed = seed
        self.stops_early = stops_early
        self.stop: Callable[[], None] = lambda: None
        self.dice = Random(seed)  # noqa: S311 - the same dice each time are the point
        self.clock = SimulatedClock()
        self.trace: list[str] = []
        self.subjects: dict[str, Subject] = {}
        self.submissions: dict[str, Submission] = {}
        self.requests: list[Request] = []
        self.by_hand: set[str] = set()
        self.refusals: Counter[str] = Counter()
        self.violations: list[str] = []
        self.unsaved_since: dict[int, float] = {}  # of each life that was killed
        self.full_since: float | None = None
        self.is_healing = False
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
