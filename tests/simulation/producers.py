"""Producers at the ingest socket: real connections over streams in memory, which break in every way.

A line is sent in pieces, a connection is closed in the middle of a line or before its answer has been read, a client
stops reading. A producer that missed an answer may submit the event again with the same id.
"""

from dataclasses import dataclass

import msgspec
import trio

from tests.simulation.life import Life
from tests.simulation.model import EXTRA_TYPE, TYPES, Subject, Submission, World

MOST_EVENTS = 150
MOST_PATIENCE_SECONDS = 45


@dataclass(slots=True)
class Sent:
    """What was known when an event was sent.

    `before` are the endpoints that matched it, `could_be_known` whether its type was in the catalogue (None: unknown).
    """

    event_id: str | None
    submission: Submission
    at: float
    before: set[str]
    was_acked: bool
    could_be_known: bool | None


class Producer:
    """One producer, which has at most one connection at a time."""

    def __init__(self, world: World, life: Life) -> None:
        self._world = world
        self._life = life
        self._dice = world.dice
        self._stream: trio.abc.Stream | None = None
        self._unread = b""

    async def run(self) -> None:
        """Submit events in bursts, some with ids, some of those again."""
        while True:
            await trio.sleep(self._dice.choice((0.0, 0.01, 0.5, 3.0, 45.0)))
            events = [self._event() for _ in range(self._dice.choice((1, 1, 3, 12)))]
            try:
                await self._submit(events)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._world.note("the server hung up")
                await self._hang_up()

    def _event(self) -> tuple[Sent, bytes]:
        world, dice = self._world, self._dice
        named = world.named
        event_id: str | None
        if named and (dice.random() < 0.15 or world.submitted > MOST_EVENTS):
            event_id = dice.choice(named)
            submission = world.submissions[event_id]
        else:
            number = world.submitted = world.submitted + 1
            data = f'{{"n": {number},  "x":"{dice.getrandbits(32):x}"}}'.encode()
            event_type = EXTRA_TYPE if dice.random() < 0.05 else dice.choice(TYPES)
            key = dice.choice((None, "k1", "k2", "k3"))
            submission = Submission(data, event_type, key, world.clock.steady(), world.clock.now())
            event_id = f"e-{number}" if dice.random() < 0.6 else None
            if event_id is not None:
                world.submissions[event_id] = submission
                named.append(event_id)
        document: dict[str, object] = {"type": submission.type, "data": msgspec.Raw(submission.data)}
        if event_id is not None:
            document["id"] = event_id
        if submission.key is not None:
            document["orderingKey"] = submission.key
        sent = Sent(
            event_id,
            submission,
            trio.current_time(),
            self._matching(submission.type),
            submission.acked is not None,
            world.catalogue[submission.type],
        )
        return sent, msgspec.json.encode(document) + b"\n"

    async def _submit(self, events: list[tuple[Sent, bytes]]) -> None:
        dice, world = self._dice, self._world
        reads = dice.random() >= 0.06
        if self._stream is None or not reads:
            await self._hang_up()
            self._stream = self._life.connect(in_lockstep=not reads)
        for sent, _ in events:
            sent.before, sent.at = self._matching(sent.submission.type), trio.current_time()
            sent.could_be_known = world.catalogue[sent.submission.type]
            sent.submission.wall_at = min(sent.submission.wall_at, world.clock.now())
        lines = b"".join(line for _, line in events)
        roll = dice.random()
        if not reads:
            await self._read_nothing(lines)
        elif roll < 0.03:
            await self._send_in_pieces(lines[: dice.randrange(1, len(lines))])
            world.note("cut in the middle")
            await self._hang_up()
        elif roll < 0.1:
            await self._send_in_pieces(lines)
            await trio.sleep(dice.choice((0.0, 0.001, 0.01)))
            world.note("left without an answer")
            await self._hang_up()
        else:
            await self._send_in_pieces(lines)
            for sent, _ in events:
                self._answered(sent, await self._read_line())

    async def _send_in_pieces(self, data: bytes) -> None:
        assert self._stream is not None
        while data:
            size = self._dice.choice((1, 17, 100, 10_000))
            piece, data = data[:size], data[size:]
            await self._stream.send_all(piece)
            if size < 100 and self._dice.random() < 0.5:
                await trio.sleep(0.001)

    async def _read_nothing(self, lines: bytes) -> None:
        """Send without reading any answer, until the server closes the connection."""
        assert self._stream is not None
        began_at = trio.current_time()
        with trio.move_on_after(MOST_PATIENCE_SECONDS) as patience:
            try:
                while True:
                    await self._stream.send_all(lines)
                    lines = b"\n"
                    await trio.sleep(1)
            except trio.BrokenResourceError:
                self._world.note("given up")
        # On a full disk the server reads slowly, and waits for the journal and not for the client.
        was_full = self._world.was_full_at > began_at - MOST_PATIENCE_SECONDS
        if patience.cancelled_caught and not was_full and not self._world.is_dead:
            self._world.report(f"a client that reads nothing has been kept since {began_at:.3f} s")
        await self._hang_up()

    async def _read_line(self) -> bytes:
        assert self._stream is not None
        while b"\n" not in self._unread:
            chunk = await self._stream.receive_some(self._dice.choice((1, 50, 4096)))
            if not chunk:
                raise trio.BrokenResourceError
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    async def _hang_up(self) -> None:
        self._unread = b""
        if self._stream is not None:
            await self._stream.aclose()
            self._stream = None

    def _answered(self, sent: Sent, line: bytes) -> None:
        world, submission = self._world, sent.submission
        if world.is_dead:
            return
        answer = msgspec.json.decode(line)
        world.note(f"answer {answer}")
        is_known = world.catalogue[submission.type]
        if not answer["ok"]:
            code = answer["error"]["code"]
            if code == "UNKNOWN_EVENT_TYPE" and is_known and sent.could_be_known:
                world.report(f"{submission.type} is in the catalogue and was refused")
            elif code not in {"UNKNOWN_EVENT_TYPE", "JOURNAL_FULL", "SHUTTING_DOWN"}:
                world.report(f"{sent.event_id} was refused: {answer}")
            return
        if is_known is False and sent.could_be_known is False:
            world.report(f"{submission.type} is not in the catalogue and was accepted")
        if sent.event_id not in {None, answer["id"]}:
            world.report(f"{sent.event_id} was answered with {answer['id']}")
        event_id, count, is_duplicate = answer["id"], answer["deliveries"], answer["duplicate"]
        if not submission.may_be_deleted:
            if sent.was_acked and not is_duplicate:
                world.report(f"{event_id} was acknowledged before and is not answered as a duplicate")
            if submission.acked is not None and submission.acked != count:
                world.report(f"{event_id} had {submission.acked} deliveries and has {count}")
        if not is_duplicate:
            submission.wanted = {
                name for name in sent.before & self._matching(submission.type) if self._holds(name, sent.at)
            }
        submission.acked = count
        world.submissions[event_id] = submission

    def _matching(self, event_type: str) -> set[str]:
        """Return the endpoints that must get an event of this type: they exist and are not being deleted."""
        return {
            subject.id
            for subject in self._world.subjects.values()
            if subject.created
            and not subject.deleting
            and subject.deleted_at is None
            and any(name in {"*", event_type, event_type.partition(".")[0] + ".*"} for name in subject.events)
        }

    def _holds(self, endpoint_id: str, since: float) -> bool:
        """Whether an endpoint keeps an event sent at `since`: it holds events, or has been enabled since before."""
        subject: Subject = self._world.subjects[endpoint_id]
        return not (subject.drops or subject.has_dropped) or (
            subject.enabled_since is not None and subject.enabled_since < since
        )
