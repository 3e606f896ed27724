"""Stand-ins for Svix and Outpost, as a process: `python -m tests.bench.stand_ins svix|outpost [FAULT]`.

They are neither of the two servers, and their figures mean nothing: they answer the documented calls that the driver
makes, strictly, and post each event at once to its endpoints, on loopback, with the headers of the server that they
stand for. Each prints its port, and at the end of standard input the calls that it has answered, as JSON.

The faults: `drop` posts only every second event; `unnamed` sends no id of the event; `full` takes one endpoint for each
customer; `closing` closes its connections after each answer.
"""

import http.client
import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Set as AbstractSet
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

KEY = "the-key-of-the-stand-in"
Json = dict[str, Any]
Answer = tuple[int, Json | None]
Route = tuple[str, str, str]


class RefusedError(Exception):
    """A call that the real server refuses."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class StandIn:
    """The state of a stand-in: customers, the calls so far, and what is to be posted."""

    routes: tuple[Route, ...]
    id_header: str

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.customers: dict[str, list[str]] = {}  # the URLs of each
        self.calls: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.numbers = count(1)
        self.taken = count(1)
        self.waiting: SimpleQueue[tuple[str, str, bytes]] = SimpleQueue()

    def answer(self, method: str, path: str, authorization: str | None, body: Json) -> Answer:
        """Answer a call, or raise RefusedError."""
        if authorization != f"Bearer {KEY}":
            raise RefusedError(401, "Invalid token")
        for verb, pattern, name in self.routes:
            found = re.fullmatch(pattern, path)
            if verb == method and found:
                with self.lock:
                    self.calls[name] += 1
                    answer: Answer = getattr(self, name)(*found.groups(), body)
                    return answer
        raise RefusedError(404, f"{method} {path}")

    def urls(self, name: str) -> list[str]:
        """Return the URLs of a customer that exists."""
        if name not in self.customers:
            raise RefusedError(404, "not found")
        return self.customers[name]

    def add_url(self, name: str, url: str) -> None:
        """Add an endpoint."""
        urls = self.urls(name)
        if urlsplit(url).hostname != "127.0.0.1":
            raise RefusedError(422, f"{url} is not on loopback")
        if self.fault == "full" and urls:
            raise RefusedError(422, "maximum number of destinations per tenant reached")
        urls.append(url)

    def take(self, name: str, event_id: str, data: Json) -> None:
        """Take an event for a customer's endpoints."""
        expect(data, {"pad"})
        if self.fault == "drop" and next(self.taken) % 2 == 0:
            return
        for url in self.urls(name):
            self.waiting.put((url, event_id, json.dumps(data).encode()))

    def post_waiting(self) -> None:
        """Post what waits, for ever, over one kept connection for each receiver."""
        connections: dict[str, http.client.HTTPConnection] = {}
        while True:
            url, event_id, body = self.waiting.get()
            place = urlsplit(url).netloc
            if place not in connections:
                connections[place] = http.client.HTTPConnection(place)
            headers = {} if self.fault == "unnamed" else {self.id_header: event_id}
            try:
                connections[place].request("POST", "/", body, headers | {"content-type": "application/json"})
                connections[place].getresponse().read()
            except (OSError, http.client.HTTPException):
                del connections[place]  # its receiver has ended


class Svix(StandIn):
    """The calls of server/openapi.json of svix/svix-webhooks at 4fc0cfb8b426."""

    routes = (
        ("POST", r"/api/v1/app", "create_application"),
        ("POST", r"/api/v1/app/([^/]+)/endpoint", "create_endpoint"),
        ("POST", r"/api/v1/app/([^/]+)/msg\?with_content=false", "create_message"),
        ("DELETE", r"/api/v1/app/([^/]+)", "delete_application"),
    )
    id_header = "svix-id"

    def create_application(self, body: Json) -> Answer:
        """v1.application.create."""
        expect(body, {"name"}, {"uid", "metadata", "throttleRate"})
        if body["uid"] in self.customers:
            raise RefusedError(409, "An application with that id or uid already exists")
        self.customers[body["uid"]] = []
        return 201, {"id": "app_1", **body}

    def create_endpoint(self, name: str, body: Json) -> Answer:
        """v1.endpoint.create."""
        expect(body, {"url"}, {"description", "eventTypes", "channels", "uid", "secret"})
        self.add_url(name, body["url"])
        return 201, {"id": "ep_1", **body}

    def create_message(self, name: str, body: Json) -> Answer:
        """v1.message.create."""
        expect(body, {"eventType", "payload"}, {"eventId", "channels"})
        event_id = f"msg_{next(self.numbers)}"
        self.take(name, event_id, body["payload"])
        return 202, {"id": event_id, "eventType": body["eventType"], "payload": {}}

    def delete_application(self, name: str, body: Json) -> Answer:
        """v1.application.delete."""
        self.urls(name)
        del self.customers[name]
        return 204, None


class Outpost(StandIn):
    """The calls of docs/apis/openapi.yaml of hookdeck/outpost at f67ae011b287."""

    routes = (
        ("PUT", r"/api/v1/tenants/([^/]+)", "upsert_tenant"),
        ("POST", r"/api/v1/tenants/([^/]+)/destinations", "create_destination"),
        ("POST", r"/api/v1/publish", "publish"),
        ("DELETE", r"/api/v1/tenants/([^/]+)", "delete_tenant"),
    )
    id_header = "X-Outpost-Event-Id"  # as Go writes it

    def upsert_tenant(self, name: str, body: Json) -> Answer:
        """upsertTenant."""
        expect(body, set(), {"metadata"})
        self.customers.setdefault(name, [])
        return 201, {"id": name, "destinations_count": 0}

    def create_destination(self, name: str, body: Json) -> Answer:
        """createTenantDestination."""
        expect(body, {"type", "topics", "config"}, {"id", "credentials", "filter", "metadata"})
        if body["type"] != "webhook" or body["topics"] != ["*"]:
            raise RefusedError(422, "validation error")
        expect(body["config"], {"url"}, {"custom_headers"})
        self.add_url(name, body["config"]["url"])
        return 201, {"id": "des_1", "type": "webhook"}

    def publish(self, body: Json) -> Answer:
        """publishEvent."""
        expect(body, {"tenant_id", "topic", "data"}, {"id", "time", "metadata", "eligible_for_retry"})
        event_id = f"evt_{next(self.numbers)}"
        self.take(body["tenant_id"], event_id, body["data"])
        return 202, {"id": event_id, "duplicate": False, "destination_ids": ["des_1"]}

    def delete_tenant(self, name: str, body: Json) -> Answer:
        """deleteTenant."""
        self.urls(name)
        del self.customers[name]
        return 200, {"success": True}


def expect(body: Json, required: AbstractSet[str], optional: AbstractSet[str] = frozenset()) -> None:
    """Refuse a body without what is required, or with what the API doesn't know."""
    if not required <= body.keys() <= required | optional:
        raise RefusedError(422, f"validation error: {sorted(body)}")


class Handler(BaseHTTPRequestHandler):
    """A connection that answers calls with JSON."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    stand_in: StandIn

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Log nothing."""

    def answer(self) -> None:
        """Answer one call."""
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            status, answer = self.stand_in.answer(
                self.command, self.path, self.headers.get("authorization"), json.loads(content or b"{}")
            )
        except RefusedError as error:
            status, answer = error.status, {"detail": str(error)}
        text = b"" if answer is None else json.dumps(answer).encode()
        self.close_connection = self.stand_in.fault == "closing"
        ends = "connection: close\r\n" if self.close_connection else ""
        head = f"HTTP/1.1 {status} answered\r\ncontent-length: {len(text)}\r\n{ends}\r\n"
        self.wfile.write(head.encode() + text)

    do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - the base class calls them


class Listener(ThreadingHTTPServer):
    """The listening socket."""

    request_queue_size = 1024
    daemon_threads = True


def main(name: str, fault: str = "") -> None:
    """Serve until standard input ends."""
    stand_in = {"svix": Svix, "outpost": Outpost}[name](fault)
    server = Listener(("127.0.0.1", 0), type("Bound", (Handler,), {"stand_in": stand_in}))
    for run in (server.serve_forever, stand_in.post_waiting):
        threading.Thread(target=run, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()
    print(json.dumps({"calls": stand_in.calls, "left": sorted(stand_in.customers)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
