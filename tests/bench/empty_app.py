"""The application of yardstick N: Quart behind the guard with an empty handler, as a process that prints its port."""

import time
from functools import partial

import trio
from quart import Response
from quart_trio import QuartTrio

from webhookd.admin.guard import Guard
from webhookd.base.ids import IdFactory, Prefix
from webhookd.sockets.tcp import bind_tcp


async def main() -> None:
    """Serve until killed."""
    app = QuartTrio("empty", static_folder=None, template_folder=None)

    @app.post("/api/events")
    async def accept() -> Response:
        return Response(b"{}", 202, content_type="application/json")

    listeners = bind_tcp("127.0.0.1", 0)
    print(listeners[0].getsockname()[1], flush=True)
    ids = IdFactory(time.time)
    await Guard(
        app,
        tcp=listeners,
        control=(),
        max_connections=1000,
        max_connections_per_address=1000,
        new_request_id=partial(ids.new, Prefix.REQUEST),
    ).run()


if __name__ == "__main__":
    trio.run(main)
