"""Signals that do not stop a server, SIGQUIT, which drains it, and a log with the priorities of systemd's journal."""

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import trio

from tests.e2e.harness import CONFIG, Server
from tests.receiver import Receiver
from webhookd.client import Client

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3}


def lines(server: Server) -> list[dict[str, object]]:
    """Return the lines of the log, and check that each begins with the priority of its level."""
    found = []
    for line in server.log().splitlines():
        marked = re.fullmatch(r"<([3-7])>(\{.*\})", line)
        assert marked is not None, line
        found.append(json.loads(marked[2]))
        assert PRIORITIES[str(found[-1]["level"])] == int(marked[1])
    return found


async def wait_for_line(server: Server, matches: Callable[[dict[str, object]], bool]) -> dict[str, object]:
    """Wait until the log has a line that matches; return the first one."""
    with trio.fail_after(60):
        while True:
            for line in lines(server):
                if matches(line):
                    return line
            await trio.sleep(0.05)


async def test_only_stop_signals_stop_it(tmp_path: Path) -> None:
    """SIGHUP logs what a restart would change or what is wrong, SIGUSR1 and SIGUSR2 do nothing, SIGQUIT drains.

    JOURNAL_STREAM names the stream of the log, so each line begins with its priority.
    """
    server = Server(tmp_path)
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    identity = os.fstat(log)
    async with trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver().run)
        await server.start(stderr=log, environ={"JOURNAL_STREAM": f"{identity.st_dev}:{identity.st_ino}"})
        assert server.process is not None
        process = server.process

        process.send_signal(signal.SIGHUP)
        same = await wait_for_line(server, lambda line: line["event"] == "config.checked")
        assert same["restart_changes"] == []

        changed = CONFIG.replace("drain_seconds = 10", "drain_seconds = 11").replace("port = 0", "port = 1")
        server.config_file.write_text(changed)
        process.send_signal(signal.SIGHUP)
        line = await wait_for_line(server, lambda line: bool(line.get("restart_changes")))
        assert line["restart_changes"] == ["server.port", "delivery.drain_seconds"]

        server.config_file.write_text(f"{CONFIG}[log]\nlevel = 'loud'\n")
        process.send_signal(signal.SIGHUP)
        number = CONFIG.count("\n") + 2
        broken = await wait_for_line(server, lambda line: line["event"] == "config.unusable")
        assert f"{server.config_file}:{number}: log.level takes" in str(broken["error"])
        server.config_file.unlink()
        process.send_signal(signal.SIGHUP)
        await wait_for_line(server, lambda line: "can't read the configuration" in str(line.get("error")))

        for name in ("SIGUSR1", "SIGUSR2"):
            process.send_signal(signal.Signals[name])
            await wait_for_line(server, lambda line, name=name: line.get("signal") == name)  # type: ignore[misc]  # bound now

        webhook = await server.webhook(receiver.url)
        with Client(server.socket) as producer:
            await trio.to_thread.run_sync(producer.send, "user.created", {})
        await server.settled(webhook["id"])
        assert len(receiver.requests) == 1

        process.send_signal(signal.SIGQUIT)
        with trio.fail_after(60):
            assert await server.ended() == 0
        nursery.cancel_scope.cancel()
    names = [line["event"] for line in lines(server)]
    assert names.index("server.draining") < names.index("server.stopped")
    os.close(log)
