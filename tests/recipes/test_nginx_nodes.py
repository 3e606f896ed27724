"""nginx-nodes.conf in front of nodes that fail: what it sends again to another one, and what it never does."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from tests.ports import held_port
from tests.recipes.pages import DOCS
from tests.recipes.test_nginx import NGINX, nginx

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 8\r\nretry-after: 1\r\nconnection: close\r\n\r\ndraining"
GONE = b""
DONE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"


class Upstream:
    """A node that reads each request and answers all of them alike.

    Without an answer it closes the connection instead; one that is GONE has closed its port.
    """

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        self.methods: list[str] = []
        self.address = ""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        host, port = listeners[0].socket.getsockname()
        self.address = f"{host}:{port}"
        if self.answer is GONE:
            await listeners[0].aclose()
        task_status.started()
        if self.answer is not GONE:
            await trio.serve_listeners(self._answer, listeners)

    async def _answer(self, stream: trio.SocketStream) -> None:
        async with stream:
            read = b""
            while not read.endswith(b"\r\n\r\n"):
                chunk = await stream.receive_some()
                if not chunk:
                    return
                read += chunk
            self.methods.append(read.split(b" ", 1)[0].decode())
            if self.answer is not None:
                await stream.send_all(self.answer)


@asynccontextmanager
async def balanced(directory: Path, *answers: bytes | None) -> AsyncIterator[tuple[httpx.AsyncClient, list[Upstream]]]:
    """Run nginx in front of nodes with these answers; the first one gets the first request."""
    upstreams = [Upstream(answer) for answer in answers]
    async with trio.open_nursery() as nursery:
        for each in upstreams:
            await nursery.start(each.run)
        with held_port() as port:
            places = [each.address for each in upstreams]
            async with (
                nginx(directory, "nginx-nodes.conf", port=port, upstream=places, authority=None),
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
            ):
                yield client, upstreams
        nursery.cancel_scope.cancel()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "nginx").mkdir()
    return tmp_path / "nginx"


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize(("answer", "status"), [(None, 502), (BUSY, 503)])
async def test_what_may_have_been_done_is_not_sent_again(
    place: Path, method: str, answer: bytes | None, status: int
) -> None:
    """A POST or PATCH that was sent reaches one node, also with an Idempotency-Key: its client decides."""
    async with balanced(place, answer, DONE, DONE) as (client, upstreams):
        said = await client.request(method, "/api/events", headers={"idempotency-key": "k"})
        assert said.status_code == status
        assert [each.methods for each in upstreams] == [[method], [], []]
        if answer is BUSY:
            assert (said.text, said.headers["retry-after"]) == ("draining", "1")  # the node's own words


@pytest.mark.parametrize("answer", [None, BUSY])
async def test_what_is_safe_is_sent_to_another_node(place: Path, answer: bytes | None) -> None:
    """A GET is answered by the next node, and the one that failed gets no requests for a while."""
    async with balanced(place, answer, DONE, DONE) as (client, upstreams):
        for _ in range(6):
            assert (await client.get("/api/webhooks")).text == "ok"
        assert upstreams[0].methods == ["GET"]
        assert len(upstreams[1].methods) + len(upstreams[2].methods) == 6


async def test_what_could_not_be_sent_goes_to_another_node(place: Path) -> None:
    """A POST for which no connection could be made has not been seen by any node."""
    async with balanced(place, GONE, DONE, DONE) as (client, upstreams):
        assert (await client.post("/api/events")).text == "ok"
        assert [each.methods for each in upstreams] == [[], ["POST"], []]


async def test_metrics_are_not_those_of_any_node(place: Path) -> None:
    """They are each node's own, so that nginx answers 404; whether any node takes work is answered by one."""
    async with balanced(place, DONE, DONE, DONE) as (client, _):
        assert [(await client.get(f"/{path}")).status_code for path in ("metrics", "healthz", "readyz")] == [
            404,
            404,
            200,
        ]


def test_the_two_configurations_differ_in_what_nodes_need() -> None:
    """What holds in front of one server holds in front of several, too."""
    one, several = ((DOCS / "deploy" / name).read_text() for name in ("nginx.conf", "nginx-nodes.conf"))
    for line in re.findall(
        r"^    (?:limit|client|ssl|add_header|proxy_(?:set|http|buffering|read)).*;", one, re.MULTILINE
    ):
        assert line in several
