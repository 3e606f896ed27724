"""Live pages: parts of a page are sent again when they change, as server-sent events.

A page with live parts has a stream, whose `parts` function renders the same HTML as the page. Every few seconds the
parts are rendered again, and those that differ are sent under their names. So a part must not contain text that changes
by itself, such as the time since an event: the macros `when` and `countdown` leave that to the browser. A stream ends
with its session, and when the server drains, which must not wait for browsers.
"""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from http import HTTPStatus

import trio
from quart import Response

from webhookd.admin.auth import Permission
from webhookd.admin.lifecycle import Readiness
from webhookd.base.errors import ReadTimeoutError, Rejected
from webhookd.dashboard.pages import DashboardPage, Visit, page

MEDIA_TYPE = "text/event-stream"
TICK_SECONDS = 1.0
REFRESH_SECONDS = 2.0
SHARE = 0.2  # of the time, for all streams together to render their parts
HEARTBEAT_SECONDS = 15.0
ENDED = "ended"

Parts = Callable[[Visit], Awaitable[Mapping[str, str]]]

_SESSION_ENDED = "Your session has ended. Sign in again."
_LINE_ENDS = re.compile(r"\r\n|\r|\n")


def live(name: str, route: str, permission: Permission, parts: Parts) -> DashboardPage:
    """Return the page of a stream; `parts` returns HTML by the name that the page passes to `live_part`."""

    async def view(visit: Visit) -> Response:
        visit.streams.check(visit.session)
        first = dict(await parts(visit))  # an error is answered before the stream starts
        events = _events(visit, parts, permission, first)
        # Started here, which counts the stream and may refuse it: others may have opened theirs in the meantime.
        first_chunk = await anext(events)
        response = Response(_chain(first_chunk, events), HTTPStatus.OK, content_type=MEDIA_TYPE)
        response.timeout = None
        response.headers["x-accel-buffering"] = "no"  # else nginx buffers events
        return response

    return page(name, route, permission, view)


async def _chain(first_chunk: bytes, events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        yield first_chunk
        async for chunk in events:
            yield chunk


async def _events(
    visit: Visit, parts: Parts, permission: Permission, first: dict[str, str]
) -> AsyncGenerator[bytes, None]:
    with visit.streams.counted(visit.session):
        # When the server drains, the browser reconnects to the next one.
        yield b"retry: 3000\n\n"
        for name, html in first.items():
            yield event(name, html)
        sent = first
        sent_at = trio.current_time()
        render_at = sent_at + REFRESH_SECONDS
        while True:
            await trio.sleep(TICK_SECONDS)
            state, _ = visit.services.lifecycle.readiness()
            if state is Readiness.DRAINING:
                return
            try:
                is_open = await visit.sessions.is_open(visit.session) and visit.may(permission)
            except (ReadTimeoutError, Rejected):
                return  # the database can't be reached from this node: the browser asks again
            if not is_open:
                yield event(ENDED, _SESSION_ENDED)
                return
            now = trio.current_time()
            if now >= render_at:
                try:
                    rendered = dict(await parts(visit))
                except ReadTimeoutError:
                    rendered = sent
                except Rejected:
                    return  # the page's object was deleted
                took_seconds = trio.current_time() - now
                changed = [name for name, html in rendered.items() if sent.get(name) != html]
                for name in changed:
                    yield event(name, rendered[name])
                render_at = now + max(REFRESH_SECONDS, took_seconds * visit.streams.open / SHARE)
                sent = rendered
                sent_at = now if changed else sent_at
            if now >= sent_at + HEARTBEAT_SECONDS:
                yield b": alive\n\n"
                sent_at = now


def event(name: str, text: str) -> bytes:
    """Return a server-sent event (HTML standard, section 9.2)."""
    lines = "".join(f"data: {line}\n" for line in _LINE_ENDS.split(text))
    return f"event: {name}\n{lines}\n".encode()
