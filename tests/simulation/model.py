"""What the checkers know of events, endpoints and requests, independently of the server."""

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
    """The server repeats the same work without time passing."""


@dataclass(slots=True, eq=False)
class Request:
    """One request that a receiver saw; `outcome` is the server's view, `is_accepted` whether the receiver accepted it.

    `at` and `ended_at` are times of trio's clock, `steady_at` of the steady clock.
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
    is_accepted: bool = False

    @property
    def is_delivered(self) -> bool:
        """Whether the server got an answer that says that the event was accepted."""
        if self.outcome is None or self.outcome.status is None:
            return False
        return 200 <= self.outcome.status < 300 and ("webhook-delivery", "abort") not in self.outcome.headers


@dataclass(slots=True)
class Subject:
    """An endpoint with its requested settings, and what its answers so far forbid.

    Times are of trio's clock, but `open_until`, `paused_until`, `recovered_at` and those of secrets are of the steady
    clock.
    `paused_at` stays until there is a good answer after the pause. `untried_since` is the time of a change after which
    one of the `waiting` deliveries must be sent at once. While it `is_settling`, either of two policies may apply.
    """

    id: str
    url: str
    events: tuple[str, ...]
    overrides: PolicyOverrides
    ordering: Ordering
    created: bool = False
    deleting: bool = False
    deleted_at: float | None = None
    disabled_at: float | None = None
    enabled_since: float | None = None
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
    in_flight: list[Request] = field(default_factory=list)
    last_sequences: dict[str | None, int] = field(default_factory=dict)
    heads: dict[str | None, Request] = field(default_factory=dict)
    touched_at: float = 0.0
    request_times: dict[tuple[int, int], list[float]] = field(default_factory=dict)

    def reset_failures(self) -> None:
        """Reset the failures after a good answer."""
        self.faults = self.doubtful_faults = 0
        self.opened_at = None

    def begin_change(self, *, is_move: bool = False) -> None:
        """Note the beginning of a change that resets the failure state, at an unknown time before `end_change`."""
        self._reset()
        self.change_began_at, self.change_ended_at, self.is_moving = trio.current_time(), float("inf"), is_move

    def end_change(self) -> None:
        """Note that the change is on disk, or was refused."""
        self._reset()
        self.change_ended_at, self.is_moving = trio.current_time(), False

    def _reset(self) -> None:
        self.reset_failures()
        self.paused_at = None
        self.recovered_at = None  # the next ramp begins with the next success

    def is_outdated(self, request: Request) -> bool | None:
        """Whether a request was made before the last change of the webhook took effect; None if that is unknown."""
        if request.at > self.change_ended_at + GRACE_SECONDS:
            return False
        return True if request.at < self.change_began_at and self.change_ended_at <= trio.current_time() else None

    def expect_request(self, waiting: set[str]) -> None:
        """Expect that one of the `waiting` deliveries is sent at once, because the webhook was changed."""
        self.waiting = waiting
        self.untried_since = trio.current_time() if waiting else None

    def expect_nothing(self) -> None:
        """Expect no request: something other than the back-off may hold the webhook up."""
        self.untried_since = None

    @property
    def drops(self) -> bool:
        """Whether events that arrive while it is disabled are dropped."""
        return self.overrides.when_inactive is WhenInactive.DROP

    def order(self, ordering: Ordering) -> None:
        """Change the ordering, and forget the order of earlier requests."""
        self.ordering = ordering
        self.heads.clear()
        self.last_sequences.clear()


@dataclass(slots=True)
class Signing:
    """A secret and the time in which it signs; `until` is set by the next rotation."""

    secret: str
    since: float
    until: float | None = None


@dataclass(slots=True)
class Submission:
    """A submitted event: `acked` is the acknowledged number of deliveries, `wanted` the endpoints that must get it."""

    data: bytes
    type: str
    key: str | None
    at: float
    wall_at: float
    acked: int | None = None
    may_be_deleted: bool = False
    wanted: set[str] = field(default_factory=set)


YEAR, DAY = 31_536_000.0, 86_400.0
UNOBSERVED_SECONDS = 65.0
SMALL_STEPS_SECONDS = 3.0  # the sum of small clock changes that the server ignores, which take effect at its next start


class SimulatedClock:
    """A machine's clocks: they follow trio's clock until the wall clock is set or the machine is suspended."""

    def __init__(self) -> None:
        self.offset = 0.0
        self.suspended = 0.0
        self.is_set = False
        self.jumps: list[tuple[float, float]] = []

    def now(self) -> float:
        """Return epoch seconds, rounded to the millisecond."""
        return round(VIRTUAL_EPOCH + self.steady() + self.offset, 3)

    def steady(self) -> float:
        """Return the seconds since the machine was started."""
        return trio.current_time() + self.suspended

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back."""
        self.offset += seconds
        self.jumps.append((trio.current_time(), seconds))

    def suspend(self, seconds: float) -> None:
        """Let time pass that trio's clock does not count."""
        self.suspended += seconds


class World:
    """What outlives a crash: the dice, the clock, the trace, and all promises and requests."""

    def __init__(self, seed: int, *, stops_early: bool = False, is_about_time: bool = False) -> None:
        self.seed = seed
        self.is_about_time = is_about_time
        self.stops_early = stops_early
        self.stop: Callable[[], None] = lambda: None
        self.dice = Random(seed)  # noqa: S311 - it must be repeatable
        self.clock = SimulatedClock()
        self.trace: list[str] = []
        self.subjects: dict[str, Subject] = {}
        self.submitted = 0
        self.named: list[str] = []
        self.submissions: dict[str, Submission] = {}
        self.requests: list[Request] = []
        self.by_hand: set[str] = set()
        self.refusals: Counter[str] = Counter()
        self.violations: list[str] = []
        self.unsaved_since: dict[int, float] = {}  # for each killed life, from when attempts may not be recorded
        self.was_full_at = -1e9
        self.full_since: float | None = None
        self.is_healing = False
        self.is_crowded = False  # few slots: requests wait for those of other webhooks
        self.catalogue: dict[str, bool | None] = {**dict.fromkeys(TYPES, True), EXTRA_TYPE: False}
        self.life_began_at = 0.0
        self.deletes_before = [0.0]  # for each life, the wall time before which events may be deleted by age
        self.unobserved = 0.0  # the largest change of the clock, in seconds, that no server noticed
        self.life = 0
        self.is_dead = False
        self.steps = 0
        self.fuse: int | None = None
        self.explode: Callable[[], None] = lambda: None

    def note(self, what: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{trio.current_time():.4f} {what}")

    def report(self, what: str) -> None:
        """Record a broken promise."""
        if len(self.violations) < 20:
            self.violations.append(f"at {trio.current_time():.3f} s: {what}")
        if self.stops_early:
            self.is_dead = True
            self.stop()

    def step(self) -> None:
        """Count a step of the disk or the network, and crash if one is due at this step."""
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise SpinningError(f"more than {MOST_STEPS} steps of disk and network")
        if self.fuse is not None and not self.is_dead:
            self.fuse -= 1
            if self.fuse <= 0:
                self.fuse = None
                self.explode()
