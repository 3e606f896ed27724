"""What a check works with: one directory with a server, its receivers and its journal."""

import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import standardwebhooks
import stripe
import trio

from tests.crashpoints.launcher import program
from tests.crashpoints.planted import PLANTED
from tests.e2e.harness import CONFIG, Server
from tests.forked import run_soon
from tests.journal.old import ask
from tests.patience import PATIENCE_SECONDS
from tests.receiver import Receiver, Request, Script
from webhookd.base.errors import Rejected, WebhookdError
from webhookd.client import Client, Event
from webhookd.journal.sqlite.inspection import inspect

_FAULT_SECONDS = 5.0
_JOURNAL = "webhookd.db"


class BrokenError(Exception):
    """What was found isn't what the point expects."""


def expect(claim: bool, otherwise: str) -> None:
    """Raise BrokenError with what is the case, unless the claim holds."""
    if not claim:
        raise BrokenError(otherwise)


class Site(Server):
    """A server in `directory`, which dies at the end of the path `stages` where it is doomed.

    Its death is waited for as long as `limit_seconds`; `planted` is a fault that each process here has.
    """

    def __init__(
        self,
        directory: Path,
        nursery: trio.Nursery,
        *,
        stages: Sequence[str],
        planted: str | None,
        limit_seconds: float,
    ) -> None:
        super().__init__(directory, CONFIG)
        self.journal = directory / _JOURNAL
        self._nursery = nursery
        self._stages = stages
        self._planted = planted
        self._limit_seconds = limit_seconds
        self._armed = directory / "armed"
        waits_in_vain = planted is not None and PLANTED[planted].keeps_waiting
        self._patience_seconds = _FAULT_SECONDS if waits_in_vain else PATIENCE_SECONDS

    @contextmanager
    def patience(self, otherwise: str) -> Iterator[None]:
        """Wait within the block, but not for ever: BrokenError then."""
        try:
            with trio.fail_after(self._patience_seconds):
                yield
        except trio.TooSlowError as error:
            raise BrokenError(otherwise) from error

    def _program(self, *, is_doomed: bool) -> tuple[str, ...]:
        return program(die_at=self._stages if is_doomed else (), armed=self._armed, plant=self._planted)

    async def serve(self, *, is_doomed: bool = False) -> None:
        """Start the server and return once it is ready; one that `is_doomed` dies at the point once that is armed."""
        try:
            await self.start(self._program(is_doomed=is_doomed))
        except AssertionError as error:  # it ended before it was ready
            raise BrokenError(f"the server didn't start: {self.log().splitlines()[-1:]}") from error

    def arm(self) -> None:
        """From now on the stages count."""
        self._armed.touch()

    async def death(self) -> None:
        """Return once the server has died at its point, and its journal is found whole."""
        status = None
        with trio.move_on_after(self._limit_seconds):
            status = await self.ended()
        self._check_death(status)

    async def die(self, *arguments: object) -> str:
        """Run a command with the point armed until it has died; return what it printed."""
        self.arm()
        done = await self._run(*arguments, is_doomed=True)
        self._check_death(done.returncode)
        return done.stdout

    def _check_death(self, status: int | None) -> None:
        expect(status == -signal.SIGKILL, f"{', '.join(self._stages)} was never reached (status {status})")
        self.check_journal()

    async def call(self, *arguments: object) -> int:
        """Run another command to its end; return its status."""
        return (await self._run(*arguments, is_doomed=False)).returncode

    async def _run(self, *arguments: object, is_doomed: bool) -> subprocess.CompletedProcess[str]:
        command = [*self._program(is_doomed=is_doomed), *map(str, arguments), "--config", str(self.config_file)]
        return await run_soon(command)

    async def receiver(self, script: Script | None = None) -> Receiver:
        """Start a receiver."""
        receiver: Receiver = await self._nursery.start(Receiver(script).run)
        return receiver

    async def change(self, method: str, target: str, body: object = None) -> dict[str, Any]:
        """Change something over the control socket."""
        answer: dict[str, Any] = await trio.to_thread.run_sync(
            lambda: self.control._ask(method, target, body, dict[str, Any])
        )
        return answer

    async def ask_and_die(self, method: str, target: str, body: object = None) -> bool:
        """Arm the point, ask for a change that leads to it, wait for the death, and return whether it was answered."""
        self.arm()
        try:
            await self.change(method, target, body)
            is_answered = True
        except WebhookdError:
            is_answered = False  # it has died
        await self.death()
        return is_answered

    async def submit(self, *ids: str, text: str = "") -> list[bool]:
        """Submit events and wait for each to be acknowledged; return whether each was a duplicate."""

        def send() -> list[bool]:
            with Client(self.socket, timeout=PATIENCE_SECONDS) as client:
                results = list(client.send_many(event(name, text) for name in ids))
            refused = [result for result in results if isinstance(result, Rejected)]
            expect(not refused, f"refused: {refused}")
            return [result.duplicate for result in results if not isinstance(result, Rejected)]

        return await trio.to_thread.run_sync(send)

    async def submit_and_die(self, *ids: str) -> list[str]:
        """Arm the point, submit events in one go, and return once the process is dead: which were acknowledged."""
        stream = await trio.open_unix_socket(self.socket)
        self.arm()
        answers = b""
        async with stream:
            await stream.send_all(b"".join(msgspec.json.encode(_line(name)) + b"\n" for name in ids))
            try:
                with trio.move_on_after(self._limit_seconds):
                    async for chunk in stream:
                        answers += chunk
            except trio.BrokenResourceError:
                pass  # it has died
        await self.death()
        return [name for name in ids if f'"id":"{name}"'.encode() in answers]

    async def quiet(self, webhook: dict[str, Any]) -> None:
        """Return once a webhook has nothing left to be sent."""
        with self.patience("deliveries were left over"):
            await self.settled(webhook["id"], seconds=2 * PATIENCE_SECONDS)

    def look(self, sql: str) -> list[tuple[object, ...]]:
        """Query the journal as it is on disk, without changing it."""
        with TemporaryDirectory() as place:
            return ask(self._copied(Path(place)), sql)

    def check_journal(self) -> None:
        """Expect the journal on disk to be whole: its pages, its references, its audit log."""
        with TemporaryDirectory() as place, inspect(self._copied(Path(place))) as found:
            expect(not found.bad_pages(), f"damaged: {found.bad_pages()}")
            expect(not found.dangling(), f"dangling: {found.dangling()}")
            if found.has_audit_log():
                expect(not found.missing_triggers(), f"unguarded: {found.missing_triggers()}")
                expect(found.audit_chain().broken is None, f"the audit log: {found.audit_chain().broken}")

    def _copied(self, place: Path) -> Path:
        expect(self.journal.exists(), "the journal is gone")
        for path in (self.journal, self.journal.with_name(_JOURNAL + "-wal")):
            if path.exists():
                shutil.copy(path, place)
        return place / _JOURNAL


def event(name: str, text: str = "") -> Event:
    """Return an event with an id of its own."""
    return Event(type="user.created", data=_data(name, text), id=name)


def _line(name: str) -> dict[str, object]:
    return {"type": "user.created", "id": name, "data": _data(name, "")}


def _data(name: str, text: str) -> dict[str, object]:
    return {"named": name, "text": text}


def verify(requests: list[Request], *secrets: str) -> None:
    """Expect each request to be what its event is, and signed with each of the secrets, as receivers check it."""
    for request in requests:
        name = request.headers["webhook-id"]
        body = msgspec.json.decode(request.body)
        expect((body["id"], body["data"]["named"]) == (name, name), f"{name} came as {request.body!r}")
        for secret in secrets:
            try:
                standardwebhooks.Webhook(secret).verify(request.body, request.headers)
                stripe.WebhookSignature.verify_header(
                    request.body.decode(), request.headers["x-webhook-signature"], secret, tolerance=3600
                )
            except (standardwebhooks.WebhookVerificationError, stripe.SignatureVerificationError) as error:
                raise BrokenError(f"the signature of {name} doesn't verify: {error}") from error


def attempts_of(name: str, requests: list[Request]) -> tuple[int, ...]:
    """Return the attempts of an event's delivery that a receiver saw, in their order."""
    return tuple(int(one.headers["x-webhook-attempt"]) for one in requests if one.headers["webhook-id"] == name)
