"""A server, its receivers and its files, as a check sees them: started, armed, found dead, looked at, started again."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import standardwebhooks
import stripe
import trio

from tests.crashpoints.arming import ARMED, REACHED, SETTLED, Place
from tests.crashpoints.launched import Child, Launcher
from tests.crashpoints.planted import PLANTED
from tests.e2e.harness import CONFIG, Server
from tests.journal.old import ask
from tests.patience import PATIENCE_SECONDS
from tests.receiver import Receiver, Request, Script
from webhookd.base.errors import Rejected, WebhookdError
from webhookd.client import Client, Event
from webhookd.journal.sqlite.inspection import inspect

_LOOK_SECONDS = 0.005
_FAULT_SECONDS = 5.0
_JOURNAL = "webhookd.db"


class BrokenError(Exception):
    """What was found isn't what the point expects."""


def expect(claim: bool, otherwise: str) -> None:
    """Raise BrokenError with what is the case, unless the claim holds."""
    if not claim:
        raise BrokenError(otherwise)


class Site(Server):
    """One directory with a configuration, and what runs in it: a server, or another command.

    `place` is where a process dies that is doomed, which is waited for as long as `limit_seconds`; `planted` is a fault
    that every one has.
    """

    def __init__(
        self,
        directory: Path,
        launcher: Launcher,
        nursery: trio.Nursery,
        *,
        place: Place,
        planted: str | None,
        limit_seconds: float,
    ) -> None:
        super().__init__(directory, CONFIG)
        self.limit_seconds = limit_seconds
        self.journal = directory / _JOURNAL
        self._launcher = launcher
        self._nursery = nursery
        self._place = place
        self._planted = planted
        waits_in_vain = planted is not None and PLANTED[planted].keeps_waiting
        self._patience_seconds = _FAULT_SECONDS if waits_in_vain else PATIENCE_SECONDS
        self._server: Child | None = None
        self._doomed: Child | None = None

    @contextmanager
    def patience(self, otherwise: str, *, seconds: float | None = None) -> Iterator[None]:
        """Wait within the block, but not for ever: BrokenError then."""
        try:
            with trio.fail_after(self._patience_seconds if seconds is None else seconds):
                yield
        except trio.TooSlowError as error:
            raise BrokenError(otherwise) from error

    async def serve(self, *, is_doomed: bool = False) -> None:
        """Start the server and return once it is ready; one that `is_doomed` has the point.

        Unless that is armed already, it has then written all that it writes by itself, which would count there.
        """
        child = self._server = await self._start("serve", is_doomed=is_doomed)
        with self.patience("the server was not ready", seconds=PATIENCE_SECONDS):
            while " ready: " not in self.said() and not child.ended.is_set():
                await trio.sleep(_LOOK_SECONDS)
            while is_doomed and not (self._has(ARMED) or self._has(SETTLED) or child.ended.is_set()):
                await trio.sleep(_LOOK_SECONDS)
        said = self.said()
        if " ready: " in said:
            self.url = said.split("API ")[1].split(",")[0]
            self.first_key = said.split("once): ")[1].split()[0] if "once): " in said else self.first_key
        else:
            expect(is_doomed and self._has(REACHED), f"the server didn't start: {self.log().splitlines()[-1:]}")

    async def call(self, *arguments: object, is_doomed: bool = False) -> int:
        """Run another command to its end; return its status."""
        child = await self._start(*map(str, arguments), is_doomed=is_doomed)
        with self.patience(f"{arguments[0]} didn't end", seconds=PATIENCE_SECONDS):
            await child.ended.wait()
        assert child.status is not None
        return child.status

    async def _start(self, *arguments: str, is_doomed: bool) -> Child:
        for name in (REACHED, SETTLED, "out"):
            (self.directory / name).unlink(missing_ok=True)
        child = await self._launcher.start(
            self.directory,
            [*arguments, "--config", str(self.config_file)],
            place=self._place if is_doomed else None,
            planted=self._planted,
        )
        if is_doomed:
            self._doomed = child
        return child

    def said(self) -> str:
        """Return what it has said on standard output."""
        out = self.directory / "out"
        return out.read_text() if out.exists() else ""

    def _has(self, name: str) -> bool:
        return (self.directory / name).exists()

    def arm(self) -> None:
        """From now on calls at the point count."""
        (self.directory / ARMED).touch()

    async def death(self) -> None:
        """Return once the process has died at its point."""
        assert self._doomed is not None
        with trio.move_on_after(self.limit_seconds):
            await self._doomed.ended.wait()
        status = self._doomed.status
        expect(self._has(REACHED), f"the point was never reached (status {status})")
        expect(status == -signal.SIGKILL, f"it ended with status {status} instead of being killed")

    async def kill(self) -> None:
        """Kill the server where it stands."""
        self.signal(signal.SIGKILL)
        await self._ended()

    async def stop(self, *, times: int = 1) -> int:
        """Ask the server to stop; return its status."""
        for _ in range(times):
            self.signal(signal.SIGTERM)
        return await self._ended()

    def signal(self, number: int) -> None:
        """Send the process a signal."""
        assert self._server is not None
        if not self._server.ended.is_set():
            os.kill(self._server.pid, number)

    async def _ended(self) -> int:
        assert self._server is not None
        with self.patience("the server didn't end", seconds=PATIENCE_SECONDS):
            await self._server.ended.wait()
        assert self._server.status is not None
        return self._server.status

    async def remove(self) -> None:
        """Kill what still runs."""
        if self._server is not None:
            await self.kill()

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

    async def ask_and_die(self, method: str, target: str, body: object = None) -> str | None:
        """Arm the point, ask for a change that leads to it, and return once the process is dead.

        Returns what was answered before, None where nothing was.
        """
        self.arm()
        try:
            answer = msgspec.json.encode(await self.change(method, target, body)).decode()
        except WebhookdError:
            answer = None
        await self.death()
        return answer

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
                with trio.move_on_after(self.limit_seconds):
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

    def sound(self) -> None:
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
