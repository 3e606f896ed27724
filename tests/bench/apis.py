"""The APIs of webhookd, Svix and Outpost, as far as a measurement needs them: endpoints, and events in.

Svix: server/openapi.json of svix/svix-webhooks at 4fc0cfb8b426. Outpost: docs/apis/openapi.yaml of hookdeck/outpost at
f67ae011b287. All three answer an event with a JSON object whose `id` is in a header of its requests.
"""

import http.client
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from secrets import token_hex
from typing import Protocol
from urllib.parse import urlsplit

from tests.bench.generator import DATA, EVENT_TYPE, event_line
from tests.bench.posting import Address
from tests.bench.server import BrokenCaseError, Server
from tests.bench.yardsticks import posted_request

CALL_SECONDS = 30.0
SHOWN_BYTES = 300


class Api(Protocol):
    """A server that takes events over HTTP."""

    name: str
    address: Address

    def add(self, url: str, count: int, *, together: bool) -> None:
        """Create endpoints that get every event of one customer, or one endpoint for each of as many customers."""
        ...

    def request(self, number: int) -> bytes:
        """Return the request that posts an event with 1,024 bytes of data, for each customer in turn."""
        ...


class Peer(Api, Protocol):
    """A server that the operator runs, from which what was added is removed again."""

    def remove(self) -> None:
        """Remove all that was added."""
        ...


class Webhookd:
    """The API of a measured webhookd, whose journal goes away with it."""

    name = "webhookd"

    def __init__(self, server: Server) -> None:
        self.address: Address = ("127.0.0.1", server.api_port)
        self._server = server
        self._customers: tuple[str | None, ...] = ()
        self._headers = {"authorization": f"Bearer {server.admin_key}", "content-type": "application/json"}

    def add(self, url: str, count: int, *, together: bool) -> None:
        """Create webhooks: of one organization each, or of none."""
        self._server.add_webhooks(url, count, in_organizations=not together)
        self._customers = (None,) if together else tuple(f"o{number}" for number in range(count))

    def request(self, number: int) -> bytes:
        """Return the request that posts an event."""
        organization = self._customers[number % len(self._customers)]
        return posted_request("/api/events", self._headers, event_line(organization=organization).rstrip())


class _Remote(ABC):
    """A peer with a base URL, a bearer token and JSON."""

    name: str

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.address: Address = (parts.hostname, parts.port or 80)
        self._base = parts.path.rstrip("/")
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self._customers: list[str] = []

    def add(self, url: str, count: int, *, together: bool) -> None:
        """Create a customer with all endpoints, or one for each."""
        run = token_hex(4)
        for number in range(1 if together else count):
            customer = f"webhookd-bench-{run}-{number}"
            self._create(customer)
            self._customers.append(customer)
            for _ in range(count if together else 1):
                self._add_endpoint(customer, url)

    def request(self, number: int) -> bytes:
        """Return the request that posts an event."""
        path, body = self._event(self._customers[number % len(self._customers)])
        return posted_request(self._base + path, self._headers, body.encode())

    def remove(self) -> None:
        """Delete the customers, and with them their endpoints."""
        while self._customers:
            self._delete(self._customers.pop())

    @abstractmethod
    def _create(self, customer: str) -> None: ...

    @abstractmethod
    def _add_endpoint(self, customer: str, url: str) -> None: ...

    @abstractmethod
    def _event(self, customer: str) -> tuple[str, str]:
        """Return path and body of the request that posts an event."""

    @abstractmethod
    def _delete(self, customer: str) -> None: ...

    def _call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> None:
        connection = http.client.HTTPConnection(*self.address, timeout=CALL_SECONDS)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, self._base + path, content, self._headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise BrokenCaseError(f"{self.name}: {method} {path}: {error}") from error
        finally:
            connection.close()
        if response.status // 100 != 2:
            text = answer[:SHOWN_BYTES].decode(errors="replace")
            raise BrokenCaseError(f"{self.name}: {method} {path} was answered with {response.status}: {text}")


class Svix(_Remote):
    """The API of a Svix server, where a customer is an application."""

    name = "Svix"

    def _create(self, customer: str) -> None:
        self._call("POST", "/api/v1/app", {"name": customer, "uid": customer})

    def _add_endpoint(self, customer: str, url: str) -> None:
        self._call("POST", f"/api/v1/app/{customer}/endpoint", {"url": url})

    def _event(self, customer: str) -> tuple[str, str]:
        # Without the payload the answer costs the server less.
        path = f"/api/v1/app/{customer}/msg?with_content=false"
        return path, f'{{"eventType":"{EVENT_TYPE}","payload":{DATA}}}'

    def _delete(self, customer: str) -> None:
        self._call("DELETE", f"/api/v1/app/{customer}")


class Outpost(_Remote):
    """The API of an Outpost server, where a customer is a tenant and an endpoint a destination."""

    name = "Outpost"

    def _create(self, customer: str) -> None:
        self._call("PUT", f"/tenants/{customer}", {})

    def _add_endpoint(self, customer: str, url: str) -> None:
        body = {"type": "webhook", "topics": ["*"], "config": {"url": url}}
        self._call("POST", f"/tenants/{customer}/destinations", body)

    def _event(self, customer: str) -> tuple[str, str]:
        return "/publish", f'{{"tenant_id":"{customer}","topic":"{EVENT_TYPE}","data":{DATA}}}'

    def _delete(self, customer: str) -> None:
        self._call("DELETE", f"/tenants/{customer}")


PEERS: dict[str, type[Svix] | type[Outpost]] = {"svix": Svix, "outpost": Outpost}
