"""`/metrics` of a real server after events were taken, refused, delivered and failed."""

import socket
import time
from pathlib import Path

import httpx
import psutil
import pytest
import trio

from tests.admin.test_metrics import Exposition
from tests.e2e.harness import Server, running
from tests.patience import PATIENCE_SECONDS
from tests.receiver import Receiver, steps
from webhookd.client import Client

EVENTS = 20


async def scrape(server: Server) -> Exposition:
    """Return an exposition in which what was done before this call is counted, the backlog too."""
    asked_at = time.time()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        with trio.fail_after(PATIENCE_SECONDS):
            while True:
                answer = await client.get("/metrics")
                assert answer.status_code == 200
                said = Exposition(answer.text)
                if said.value("webhookd_backlog_counted_timestamp_seconds") >= asked_at:
                    return said
                await trio.sleep(0.1)


def send(path: Path, number: int) -> None:
    with Client(path) as producer:
        for nth in range(number):
            producer.send("user.created", {}, id=f"e{nth}")


def refused(path: Path) -> None:
    """Submit lines of which none is taken, and one that is known."""
    with socket.socket(socket.AF_UNIX) as producer:
        producer.connect(str(path))
        lines = (b"no json", b'{"type":"no.such","data":{}}', b'{"type":"user.created","data":{},"id":"e0"}')
        producer.sendall(b"\n".join(lines) + b"\n")
        answers = producer.makefile("rb")
        for _ in lines:
            answers.readline()


async def test_the_numbers_are_those_of_the_run(tmp_path: Path) -> None:
    """What was published, delivered, failed, refused and left waiting is what `/metrics` says, without a key."""
    async with running(tmp_path) as server, trio.open_nursery() as nursery:
        well = await nursery.start(Receiver(steps("500,200")).run)
        ill = await nursery.start(Receiver(steps("503;retry-after=3600")).run)
        webhook = await server.webhook(well.url)
        throttled = await server.webhook(ill.url)
        await trio.to_thread.run_sync(send, server.socket, EVENTS)
        await trio.to_thread.run_sync(refused, server.socket)
        await server.settled(webhook["id"])
        assert server.process is not None
        with trio.fail_after(PATIENCE_SECONDS):
            while (await server.deliveries(throttled["id"]))[0]["attempts"] == 0:
                await trio.sleep(0.05)
        said = await scrape(server)
        assert said.value("webhookd_events_accepted_total") == EVENTS
        assert said.value("webhookd_events_duplicate_total") == 1
        assert said.value("webhookd_events_refused_total", code="MALFORMED_JSON") == 1
        assert said.value("webhookd_events_refused_total", code="UNKNOWN_EVENT_TYPE") == 1
        assert said.value("webhookd_attempts_total", outcome="success") == EVENTS
        assert said.value("webhookd_attempts_total", outcome="http_5xx") == 1
        assert said.value("webhookd_attempts_total", outcome="throttled") == 1
        assert said.value("webhookd_attempt_duration_seconds_count") == EVENTS + 2
        assert said.value("webhookd_delivery_lag_seconds_count") == EVENTS + 1
        assert said.value("webhookd_backlog_deliveries", status="pending") == EVENTS
        assert 0 < said.value("webhookd_oldest_pending_age_seconds") < 120
        assert said.value("webhookd_webhooks", state="active") == 2
        used = [said.value("webhookd_connections_used_total", connection=each) for each in ("new", "reused")]
        assert sum(used) == EVENTS + 2
        assert used[0] == well.connections + ill.connections
        assert said.value("webhookd_requests_in_flight") == 0
        assert 0 < said.value("webhookd_commit_duration_seconds_count") <= said.value("webhookd_commit_batch_size_sum")
        assert said.value("webhookd_journal_bytes") == (tmp_path / "webhookd.db").stat().st_size
        assert said.value("webhookd_wal_bytes") > 0
        assert [said.value(f"webhookd_{name}") for name in ("ready", "degraded", "journal_full")] == [1, 0, 0]
        assert said.value("webhookd_sweeps_found_work_total") == 0
        process = psutil.Process(server.process.pid)
        with process.oneshot():
            assert said.value("process_resident_memory_bytes") == pytest.approx(process.memory_info().rss, rel=0.2)
            assert said.value("process_start_time_seconds") == pytest.approx(process.create_time(), abs=10)
            spent = process.cpu_times()
        assert said.value("process_cpu_seconds_total") == pytest.approx(spent.user + spent.system, abs=0.5)
        local = await trio.to_thread.run_sync(over_the_control_socket, tmp_path / "control.sock")
        assert Exposition(local).value("webhookd_events_accepted_total") == EVENTS
        nursery.cancel_scope.cancel()


def over_the_control_socket(path: Path) -> str:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as client:
        return client.get("/metrics").text
