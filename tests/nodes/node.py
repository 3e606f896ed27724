"""A node of a play: a server process that can be killed, stopped where it is, and stopped at a stage."""

import signal
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.harness import Server
from tests.nodes.receivers import Life
from tests.patience import until


class Node(Server):
    """A server process that shares the database, and its present process."""

    def __init__(self, directory: Path, config: str, command: Sequence[str], stops: Path) -> None:
        super().__init__(directory, config)
        self.life: Life | None = None
        self.is_stopped = False
        self._command = command
        self._stops = stops

    @property
    def control_socket(self) -> str:
        """The path of the control socket."""
        return str(self.directory / "control.sock")

    @property
    def process_id(self) -> str:
        """Webhookd's name of the present process."""
        assert self.life is not None
        return self.life.process

    async def begin(self) -> None:
        """Start, and return once it is ready."""
        await self.start(self._command)
        assert self.process is not None
        own: list[str] = []
        while not own:  # on a busy machine it may just have come too late with a beat
            own = [each["id"] for each in (await self.get("/api/nodes"))["nodes"] if each["own"]]
        self.life = Life(self.process.pid, own[0].partition(".")[0])

    async def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        await super().kill()
        self.life, self.is_stopped = None, False

    async def leave(self) -> int:
        """Send SIGTERM, wait for the end, and return the status."""
        status = await self.stop()
        self.life = None
        return status

    async def stop_at(self, stage: str) -> None:
        """Have the process stop itself at a stage, and return once it has."""
        self._stops.with_suffix(".new").write_text(stage)
        self._stops.with_suffix(".new").rename(self._stops)
        await until(lambda: self._state() == "T")
        self.is_stopped = True

    async def stop_nowhere(self) -> None:
        """Take back `stop_at`; if the process has come to the stage meanwhile, it goes on."""
        self._stops.unlink(missing_ok=True)
        self.go_on()
        await until(lambda: self._state() != "T")

    async def suspend(self) -> None:
        """Stop the process where it is."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        await until(lambda: self._state() == "T")
        self.is_stopped = True

    def go_on(self) -> None:
        """Let a stopped process go on."""
        assert self.process is not None
        self._stops.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGCONT)
        self.is_stopped = False

    def times_logged(self, event: str) -> int:
        """Return how often the log has an event."""
        return self.log().count(event)

    def _state(self) -> str:
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
