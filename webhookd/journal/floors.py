"""Floors of a queue: from where on it has to be read, so that what has ended before them costs nothing.

Until PostgreSQL vacuums them, deliveries that have ended stay in the indexes of the queue, and as long as an old
transaction is open nothing is vacuumed. A read that walked all of them would cost more with each delivery.
"""

from math import inf

from msgspec import Struct
from msgspec.structs import replace


class Floors(Struct, frozen=True, kw_only=True, gc=False):
    """Bounds below which nothing in a queue is unfinished; the defaults bound nothing.

    - `edition`: they hold while the queue has this edition, except for what the owner itself records.
    - `fresh`, `backing_off`: the lowest sequence of the pending deliveries of each part (see `queries.schema`).
    - `due_at`: the earliest `next_attempt_at` of what is read by time: what is parked or was retried by hand, and
      without order what backs off. `later_at`: the same for what wasn't due yet.
    """

    edition: int = -1
    fresh: int = 0
    backing_off: int = 0
    due_at: float = 0.0
    later_at: float = 0.0

    def at(self, edition: int) -> "Floors":
        """Return the floors of a queue that has this edition now."""
        return self if edition == self.edition else NO_FLOORS

    def and_below(self, other: "Floors") -> "Floors":
        """Return the lower one of each two bounds."""
        return replace(
            self,
            fresh=min(self.fresh, other.fresh),
            backing_off=min(self.backing_off, other.backing_off),
            due_at=min(self.due_at, other.due_at),
            later_at=min(self.later_at, other.later_at),
        )

    def covering(self, sequence: int, next_attempt_at: float) -> "Floors":
        """Return floors for a queue in which a delivery is unfinished that may have been in another part of it."""
        return replace(
            self,
            fresh=min(self.fresh, sequence),
            backing_off=min(self.backing_off, sequence),
            due_at=min(self.due_at, next_attempt_at),
            later_at=min(self.later_at, next_attempt_at),
        )


NO_FLOORS = Floors()
NOTHING_UNFINISHED = Floors(fresh=2**63 - 1, backing_off=2**63 - 1, due_at=inf, later_at=inf)
