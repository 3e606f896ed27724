"""Which endpoints this process drives. One with a file of its own drives all; of several nodes each drives some.

Every endpoint is in one of 256 slots, by its row number, and a slot is one node's at a time. How nodes take slots from
each other is in `postgres.leases`.
"""

from typing import NamedTuple, Protocol

SLOTS = 256
LEADING = 0
"""A row number that no endpoint has. The node that has its slot does what only one may do at a time."""


class Fence(NamedTuple):
    """A slot, and the generation in which this process has it: a record of an older one is refused.

    `incarnation` counts the databases that this process has had: one that was restored gives generations out again.
    """

    slot: int
    generation: int
    incarnation: int = 1


class Ownership(Protocol):
    """What this process drives at present; read on the event loop."""

    @property
    def is_leader(self) -> bool:
        """Whether this process does what only one may do at a time, such as retention."""
        ...

    @property
    def asked_back(self) -> frozenset[int]:
        """The slots that other nodes should have, until they are given back."""
        ...

    def owns(self, endpoint_pk: int) -> bool:
        """Whether this process sends to an endpoint."""
        ...

    def may_send(self) -> bool:
        """Whether a request may begin now: a node that has not reached the database for too long sends nothing."""
        ...

    def fence(self, endpoint_pk: int) -> Fence | None:
        """Return what the records of an endpoint must name; None if no other process can drive it."""
        ...


class Everything:
    """The ownership of a process that has the journal for itself."""

    is_leader = True
    asked_back: frozenset[int] = frozenset()

    def owns(self, endpoint_pk: int) -> bool:  # noqa: ARG002 - of every endpoint
        """Return True."""
        return True

    def may_send(self) -> bool:
        """Return True."""
        return True

    def fence(self, endpoint_pk: int) -> Fence | None:  # noqa: ARG002 - of every endpoint
        """Return None."""
        return None


def slot_of(endpoint_pk: int) -> int:
    """Return the slot of an endpoint."""
    return endpoint_pk % SLOTS
