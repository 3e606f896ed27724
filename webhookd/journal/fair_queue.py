"""The queue of operations for the writer, and their order. Pure bookkeeping, without a clock or I/O.

An event waits in the flow of its producer, which keeps its order. Flows take turns by start-time fair queueing (Goyal,
Vin and Cheng, 1996), measured by what operations cost: an operation's start is where its flow's previous operation
ended, or, if that is past, where the queue is now; the lowest start is next. So a flow with little to write is served
at once, however much waits in another one, and flows with much to write get equal shares.

Changes and attempts come first, in their order, and an event never overtakes one that was submitted before it. An
attempt with notices may be as large as these: it waits in a flow of its endpoint, and so do the endpoint's next
attempts until that flow is empty. Nothing overtakes a barrier: all later operations wait behind it. A batch is in the
order of submission, but between two changes its attempts precede its events: the next requests leave first, and their
answers arrive while the events' results are passed on. Each operation takes time logarithmic in the number of flows.
"""

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heappushpop
from operator import attrgetter

from webhookd.journal.operations import Publish, Record, Submission, can_wait, cost_of, is_barrier, is_change, size_of

MOST_FLOWS = 4096  # that are remembered although nothing waits in them
_AT_ONCE = -1  # less than every start


class _Waiting:
    __slots__ = ("cost", "number", "operation", "size")

    def __init__(self, number: int, operation: Submission) -> None:
        self.number = number
        self.operation = operation
        self.cost = cost_of(operation)
        self.size = size_of(operation)


@dataclass(slots=True, eq=False)
class _Flow:
    waiting: deque[_Waiting] = field(default_factory=deque)
    start: int = 0  # of the first operation, or of the next one if none waits
    cost: int = 0  # of all that wait
    size: int = 0


_Entry = tuple[int, int, _Flow]  # a flow's start, the number of its first operation, which is unique, and the flow


class FairQueue:
    """The operations that wait to be written; every method is one synchronous step."""

    def __init__(self) -> None:
        self.size = 0  # roughly, in bytes of the write-ahead log
        self._length = 0
        self._number = 0
        self._now = 0  # the start of the flow that was served last
        self._again: list[Submission] = []  # taken once, and put back
        self._first: deque[_Waiting] = deque()  # changes and attempts
        self._flows: dict[Hashable, _Flow] = {}
        self._drop_flows_at = MOST_FLOWS
        self._heap: list[_Entry] = []  # the flows in which something waits
        self._behind: deque[_Waiting] = deque()  # a barrier, what was submitted after it, the next barrier, …

    def __len__(self) -> int:
        return self._length

    @property
    def holds_barrier(self) -> bool:
        """Whether a barrier waits."""
        return bool(self._behind)

    def waiting_in(self, flow: Hashable) -> tuple[int, int]:
        """Return the cost of what waits in a flow, and its size in bytes."""
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
        """Put back operations that were taken and are not written: they are taken next, in the same order."""
        self._again[:0] = operations
        self._length += len(operations)
        self.size += sum(map(size_of, operations))

    def take(self, cost: int, size: int, *, events: bool = True) -> list[Submission]:
        """Take the next operations, up to a cost and a size in bytes, or a single larger one.

        Changes and attempts leave half of the cost to events. With attempts, events get no more than this half, so that
        the next attempts don't wait long. An operation that costs more than half is taken alone, so that short ones
        don't wait for it. Without `events`, those that can wait stay in the queue.
        """
        taken, self._again = self._again, []
        if taken:
            self.size -= sum(map(size_of, taken))
        else:
            chosen: list[_Waiting] = []
            left, half = self._take_first(chosen, cost), cost // 2
            has_attempts = any(isinstance(waiting.operation, Record) for waiting in chosen)
            share = half if has_attempts else max(left, half)
            self._take_turns(chosen, share, size, most_together=half, events=events)
            if self._behind and not (self._first or self._heap):
                chosen.append(self._behind.popleft())
                while self._behind and not is_barrier(self._behind[0].operation):
                    self._place(self._behind.popleft())
            taken = _arranged(chosen)
            self.size -= sum([waiting.size for waiting in chosen])
        self._length -= len(taken)
        if not self._length:
            self._flows.clear()
            self._now = 0
        return taken

    def drop_events(self, *, behind: bool) -> list[Submission]:
        """Remove the events that can wait and return them; those behind a barrier only if `behind` is true."""
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
        """Yield all operations in the order of submission, those that were put back first."""
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
        if len(self._flows) >= self._drop_flows_at:
            # A flow that is dropped loses its place, which costs the others a turn at most.
            self._flows = {name: flow for name, flow in self._flows.items() if flow.waiting}
            self._drop_flows_at = max(MOST_FLOWS, 2 * len(self._flows))
        flow = self._flows[name] = _Flow()
        return flow

    def _take_first(self, chosen: list[_Waiting], cost: int) -> int:
        """Take as many changes and attempts as fit, at least one; return the rest of the cost."""
        while self._first and cost > 0:
            waiting = self._first.popleft()
            chosen.append(waiting)
            cost -= waiting.cost
        return cost

    def _take_turns(self, chosen: list[_Waiting], cost: int, size: int, *, most_together: int, events: bool) -> None:
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
            if served and (waiting.cost > min(cost, most_together) or waiting.size > size):
                # Later operations must not overtake a flow that had no turn, or it might never fit.
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
    """Return the operations that must stay; the events that can wait are added to `dropped`."""
    kept: deque[_Waiting] = deque()
    for each in waiting:
        (dropped if can_wait(each.operation) else kept).append(each)
    return kept


def _arranged(chosen: list[_Waiting]) -> list[Submission]:
    """Return operations in the order of submission, but between two changes the attempts before the events."""
    arranged: list[Submission] = []
    events: list[Submission] = []
    for waiting in sorted(chosen, key=_number_of):
        operation = waiting.operation
        if isinstance(operation, Publish):
            events.append(operation)
            continue
        if events and is_change(operation):
            arranged += events
            events = []
        arranged.append(operation)
    return arranged + events


_number_of = attrgetter("number")
