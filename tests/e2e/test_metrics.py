"""`/metrics` of a real server after events were accepted, refused, delivered and failed."""

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
    """Return an exposition that counts everything before this call, the backlog too."""
    called_at = time.time()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        with trio.fail_after(PATIENCE_SECONDS):
            while True:
                answer = await client.get("/metrics")
                assert answer.status_code == 200
                exposition = Exposition(answer.text)
                if exposition.value("webhookd_backlog_counted_timestamp_seconds") >= called_at:
                    return exposition
                await trio.sleep(0.1)


def send(path: Path, number: int) -> None:
    with Client(path) as producer:
        for nth in range(number):
            producer.send("user.created", {}, id=f"e{nth}")


def send_refused_lines(path: Path) -> None:
    """Submit two lines that are refused, and one duplicate."""
    with socket.socket(socket.AF_UNIX) as producer:
        producer.connect(str(path))
        lines = (b"no json", b'{"type":"no.such","data":{}}', b'{"type":"user.created","data":{},"id":"e0"}')
        producer.sendall(b"\n".join(lines) + b"\n")
        answers = producer.makefile("rb")
        for _ in lines:
            answers.readline()


async def test_the_numbers_are_those_of_the_run(tmp_path: Path) -> None:
    """`/metrics` counts what was accepted, delivered, failed, refused and left pending, and needs no key."""
    async with running(tmp_path) as server, trio.open_nursery() as nursery:
        healthy = await nursery.start(Receiver(steps("500,200")).run)
        busy = await nursery.start(Receiver(steps("503;retry-after=3600")).run)
        webhook = await server.webhook(healthy.url)
        throttled = await server.webhook(busy.url)
        await trio.to_thread.run_sync(send, server.socket, EVENTS)
        await trio.to_thread.run_sync(send_refused_lines, server.socket)
        await server.settled(webhook["id"])
        assert server.process is not None
        with trio.fail_after(PATIENCE_SECONDS):
            while (await server.deliveries(throttled["id"]))[0]["attempts"] == 0:
                await trio.sleep(0.05)
        metrics = await scrape(server)
        assert metrics.value("webhookd_events_accepted_total") == EVENTS
        assert metrics.value("webhookd_events_duplicate_total") == 1
        assert metrics.value("webhookd_events_refused_total", code="MALFORMED_JSON") == 1
        assert metrics.value("webhookd_events_refused_total", code="UNKNOWN_EVENT_TYPE") == 1
        assert metrics.value("webhookd_attempts_total", outcome="success") == EVENTS
        assert metrics.value("webhookd_attempts_total", outcome="http_5xx") == 1
        assert metrics.value("webhookd_attempts_total", outcome="throttled") == 1
        assert metrics.value("webhookd_attempt_duration_seconds_count") == EVENTS + 2
        assert metrics.value("webhookd_delivery_lag_seconds_count") == EVENTS + 1
        assert metrics.value("webhookd_backlog_deliveries", status="pending") == EVENTS
        assert 0 < metrics.value("webhookd_oldest_pending_age_seconds") < 120
        assert metrics.value("webhookd_webhooks", state="active") == 2
        used = [metrics.value("webhookd_connections_used_total", connection=each) for each in ("new", "reused")]
        assert sum(used) == EVENTS + 2
        assert used[0] == healthy.connections + busy.connections
        assert metrics.value("webhookd_requests_in_flight") == 0
        assert (
            0
            < metrics.value("webhookd_commit_duration_seconds_count")
            <= metrics.value("webhookd_commit_batch_size_sum")
        )
        assert metrics.value("webhookd_journal_bytes") == (tmp_path / "webhookd.db").stat().st_size
        assert metrics.value("webhookd_wal_bytes") > 0
        assert [metrics.value(f"webhookd_{name}") for name in ("ready", "degraded", "journal_full")] == [1, 0, 0]
        assert metrics.value("webhookd_sweeps_found_work_total") == 0
        process = psutil.Process(server.process.pid)
        with process.oneshot():
            assert metrics.value("process_resident_memory_bytes") == pytest.approx(process.memory_info().rss, rel=0.2)
            assert metrics.value("process_start_time_seconds") == pytest.approx(process.create_time(), abs=10)
            spent = process.cpu_times()
        assert metrics.value("process_cpu_seconds_total") == pytest.approx(spent.user + spent.system, abs=0.5)
        local = await trio.to_thread.run_sync(over_the_control_socket, tmp_path / "control.sock")
        assert Exposition(local).value("webhookd_events_accepted_total") == EVENTS
        nursery.cancel_scope.cancel()


def over_the_control_socket(path: Path) -> str:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as client:
        return client.get("/metrics").text
