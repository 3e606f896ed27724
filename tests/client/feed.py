"""The events of a server, read from its API."""

from typing import Any

from tests.e2e.harness import Server


async def feed(server: Server) -> list[dict[str, Any]]:
    """Return all events in the order of their commits."""
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = await server.get(f"/api/events?limit=100{cursor}")
        found += page["data"]
        if page["nextCursor"] is None:
            return found
        cursor = f"&cursor={page['nextCursor']}"
