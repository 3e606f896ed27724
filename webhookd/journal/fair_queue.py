"""What waits to be written, and whose turn it is. Pure bookkeeping, without a clock or I/O.

An event waits in the flow of its producer; a flow keeps its order. Among flows it is start-time fair queueing (Goyal,
Vin and Cheng, 1996), counted in what operations cost: a flow starts where its last one ended or, if that is past, where
the queue is, and what starts first is next. So a flow with little to write is served at once, however much waits in
another one, and flows with much get equal shares.

Changes and attempts come first, in their order, and an event never passes one that was submitted before it. An attempt
that has events told of it may be as large as those are: it waits in a flow of its endpoint, and so does what the same
endpoint's next attempts write, until that flow is empty. A barrier is passed by nothing: all that comes after it
waits behind it. What is taken together is in the order of its submission. An operation costs the logarithm of the
number of flows.
"""

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush, heappushpop

from webhookd.journal.operations import Publish, Record, Submission, can_wait, cost_of, is_barrier, size_of

MOST_LANES = 4096  # that are remembered although nothing waits in them
_AT_ONCE = -1  # before every start


class _Waiting:
    __slots__ = ("cost", "number", "operation", "size")

    def __init__(self, number: int, operation: Submission) -> None:
        self.number = number
        self.operation = operation
        self.cost = cost_of(operation)
        self.size = size_of(operation)


class _Flow:
    __slots__ = ("cost", "size", "start", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Waiting] = deque()
        self.start = 0  # of the first that waits, or of the next one that comes
        self.cost = 0  # of all that waits
        self.size = 0


_Entry = tuple[int, int, _Flow]  # where it starts, the number of its first, which no other flow has, and the flow


class FairQueue:
    """The operations that wait; every method is one synchronous step."""

    def __init__(self) -> None:
        self.size = 0  # roughly the bytes that it adds to the log
        self._length = 0
        self._number = 0
        self._now = 0  # where the flow started that was served last
        self._again: list[Submission] = []  # taken once, and there was no room
        self._first: deque[_Waiting] = deque()  # changes and attempts
        self._flows: dict[Hashable, _Flow] = {}
        self._forget_flows_at = MOST_LANES
        self._heap: list[_Entry] = []  # the flows in which something waits
        self._behind: deque[_Waiting] = deque()  # a barrier, what came after it, the next barrier, …

    def __len__(self) -> int:
        return self._length

    @property
    def holds_barrier(self) -> bool:
        """Whether something waits that nothing may pass."""
        return bool(self._behind)

    def waiting_in(self, flow: Hashable) -> tuple[int, int]:
        """Return what it costs to write what waits in a flow, and its size in bytes."""
        found = self._flows.get(flow)
        return (0, 0) if found is None else (found.cost, found.size)

    def put(self, operation: Submission) -> None:
        """Add an operation."""
        self._number += 1
        waiting = _Waiting(self._number, operation)
        self._length += 1
        self.size += waiting.size
        if self._behind or is_barrier(operation):
            self._behind.append(waiting)
        else:
            self._place(waiting)

    def put_back(self, operations: Sequence[Submission]) -> None:
        """Put back what was taken last and isn't written: it is the next to be taken, in the same order."""
        self._again[:0] = operations
        self._length += len(operations)
        self.size += sum(map(size_of, operations))

    def take(self, cost: int, size: int, *, events: bool = True) -> list[Submission]:
        """Take what is next, up to so much cost and so many bytes, or one operation that has more.

        Changes and attempts leave half of the cost to others. An operation that takes more than half goes alone: what
        is short doesn't wait for it as well. Without `events` those that can wait stay.
        """
        taken, self._again = self._again, []
        if not taken:
            chosen: list[_Waiting] = []
            left = self._take_first(chosen, cost)
            self._take_turns(chosen, max(left, cost // 2), size, most_beside=cost // 2, events=events)
            chosen.sort(key=_number_of)
            if self._behind and not (self._first or self._heap):
                chosen.append(self._behind.popleft())
                while self._behind and not is_barrier(self._behind[0].operation):
                    self._place(self._behind.popleft())
            taken = [waiting.operation for waiting in chosen]
        self._length -= len(taken)
        self.size -= sum(map(size_of, taken))
        if not self._length:
            self._flows.clear()
            self._now = 0
        return taken

    def drop_events(self, *, behind: bool) -> list[Submission]:
        """Forget the events that can wait, and return them: of those behind a barrier only where that is asked."""
        dropped: list[_Waiting] = []
        for flow in self._flows.values():
            before = len(dropped)
            flow.waiting = _less(flow.waiting, dropped)
            flow.cost -= sum(waiting.cost for waiting in dropped[before:])
            flow.size -= sum(waiting.size for waiting in dropped[before:])
        self._heap = [(flow.start, flow.waiting[0].number, flow) for flow in self._flows.values() if flow.waiting]
        heapify(self._heap)
        if behind:
            self._behind = _less(self._behind, dropped)
        self._length -= len(dropped)
        self.size -= sum(waiting.size for waiting in dropped)
        return [waiting.operation for waiting in sorted(dropped, key=_number_of)]

    def in_order(self) -> Iterator[Submission]:
        """Yield everything as it was submitted, what was put back first."""
        yield from self._again
        waiting = [*self._first, *(each for flow in self._flows.values() for each in flow.waiting)]
        for each in (*sorted(waiting, key=_number_of), *self._behind):
            yield each.operation

    def _place(self, waiting: _Waiting) -> None:
        operation = waiting.operation
        if isinstance(operation, Publish) or (
            isinstance(operation, Record) and (operation.notices or self._has_waiting(operation.flow))
        ):
            self._place_in(self._flows.get(operation.flow) or self._new_flow(operation.flow), waiting)
        else:
            self._first.append(waiting)

    def _has_waiting(self, name: Hashable) -> bool:
        flow = self._flows.get(name)
        return flow is not None and bool(flow.waiting)

    def _place_in(self, flow: _Flow, waiting: _Waiting) -> None:
        if not flow.waiting:
            flow.start = max(flow.start, self._now)
            heappush(self._heap, (flow.start, waiting.number, flow))
        flow.waiting.append(waiting)
        flow.cost += waiting.cost
        flow.size += waiting.size

    def _new_flow(self, name: Hashable) -> _Flow:
        if len(self._flows) >= self._forget_flows_at:
            # What such a flow has had lately is forgotten with it, which costs the others a turn at most.
            self._flows = {name: flow for name, flow in self._flows.items() if flow.waiting}
            self._forget_flows_at = max(MOST_LANES, 2 * len(self._flows))
        flow = self._flows[name] = _Flow()
        return flow

    def _take_first(self, chosen: list[_Waiting], cost: int) -> int:
        """Take as many changes and attempts as fit, at least one; return what is left of the cost."""
        while self._first and cost > 0:
            waiting = self._first.popleft()
            chosen.append(waiting)
            cost -= waiting.cost
        return cost

    def _take_turns(self, chosen: list[_Waiting], cost: int, size: int, *, most_beside: int, events: bool) -> None:
        """Take from flow after flow until cost or size is used up, at least one operation."""
        heap = self._heap
        passed: list[_Entry] = []
        first_left = self._first[0].number if self._first else None
        served: set[_Flow] = set()
        entry = heappop(heap) if heap else None
        while entry is not None:
            flow = entry[2]
            waiting = flow.waiting[0]
            is_held = not events or (first_left is not None and waiting.number > first_left)
            if is_held and can_wait(waiting.operation):
                passed.append(entry)
                entry = heappop(heap) if heap else None
                continue
            if served and (waiting.cost > min(cost, most_beside) or waiting.size > size):
                # What comes meanwhile doesn't pass a flow that had no turn, or it might never fit.
                heappush(heap, entry if flow in served else (_AT_ONCE, waiting.number, flow))
                break
            served.add(flow)
            chosen.append(waiting)
            cost -= waiting.cost
            size -= waiting.size
            self._now = max(self._now, flow.start)
            flow.waiting.popleft()
            flow.start += waiting.cost
            flow.cost -= waiting.cost
            flow.size -= waiting.size
            is_full = cost <= 0 or size <= 0
            if flow.waiting:
                following = (flow.start, flow.waiting[0].number, flow)
                if is_full:
                    heappush(heap, following)
                    break
                entry = heappushpop(heap, following)
            else:
                entry = heappop(heap) if heap and not is_full else None
        for entry in passed:
            heappush(heap, entry)


def _less(waiting: Iterable[_Waiting], dropped: list[_Waiting]) -> deque[_Waiting]:
    """Return what must not wait; the events that can are added to `dropped`."""
    kept: deque[_Waiting] = deque()
    for each in waiting:
        (dropped if can_wait(each.operation) else kept).append(each)
    return kept


def _number_of(waiting: _Waiting) -> int:
    return waiting.number
