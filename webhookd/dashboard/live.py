"""Live pages: parts of a page that are sent again when they have changed, as server-sent events.

The one mechanism for all of them. A page with live parts has a stream beside it, whose `parts` makes the same HTML as
the page did; every few seconds they are made again, and those that differ go out under their names. So they must not
say what changes by itself, such as how long ago something was: `when` and `countdown` of the macros leave that to the
browser. A stream ends with its session and when the server drains, which is not to wait for a browser.
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
SHARE = 0.2  # of the time, which all streams together may take to make their parts
HEARTBEAT_SECONDS = 15.0
ENDED = "ended"

Parts = Callable[[Visit], Awaitable[Mapping[str, str]]]

_PARTING = "This page is no longer live: your session has ended."
_LINE_ENDS = re.compile(r"\r\n|\r|\n")


def live(name: str, route: str, permission: Permission, parts: Parts) -> DashboardPage:
    """State the stream beside a page: `parts` returns HTML by the name that the page gave to `live_part`."""

    async def view(visit: Visit) -> Response:
        visit.streams.check(visit.session)
        first = dict(await parts(visit))  # what can't be had is refused before anything is streamed
        events = _events(visit, parts, permission, first)
        # Begun here, which counts it and may refuse it: others may have opened theirs meanwhile.
        begun = await anext(events)
        response = Response(_from(begun, events), HTTPStatus.OK, content_type=MEDIA_TYPE)
        response.timeout = None
        response.headers["x-accel-buffering"] = "no"  # nginx would keep events back
        return response

    return page(name, route, permission, view)


async def _from(begun: bytes, events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        yield begun
        async for chunk in events:
            yield chunk


async def _events(
    visit: Visit, parts: Parts, permission: Permission, first: dict[str, str]
) -> AsyncGenerator[bytes, None]:
    with visit.streams.counted(visit.session):
        # Where the server drains, the browser comes again and finds the next one.
        yield b"retry: 3000\n\n"
        for name, html in first.items():
            yield event(name, html)
        sent = first
        said_at = trio.current_time()
        make_at = said_at + REFRESH_SECONDS
        while True:
            await trio.sleep(TICK_SECONDS)
            state, _ = visit.services.lifecycle.readiness()
            if state is Readiness.DRAINING:
                return
            if not await visit.sessions.is_open(visit.session) or not visit.may(permission):
                yield event(ENDED, _PARTING)
                return
            now = trio.current_time()
            if now >= make_at:
                try:
                    made = dict(await parts(visit))
                except ReadTimeoutError:
                    made = sent
                except Rejected:
                    return  # what the page is about has gone
                took_seconds = trio.current_time() - now
                changed = [name for name, html in made.items() if sent.get(name) != html]
                for name in changed:
                    yield event(name, made[name])
                make_at = now + max(REFRESH_SECONDS, took_seconds * visit.streams.open / SHARE)
                sent = made
                said_at = now if changed else said_at
            if now >= said_at + HEARTBEAT_SECONDS:
                yield b": alive\n\n"
                said_at = now


def event(name: str, text: str) -> bytes:
    """Return an event as the HTML standard writes it (section 9.2)."""
    lines = "".join(f"data: {line}\n" for line in _LINE_ENDS.split(text))
    return f"event: {name}\n{lines}\n".encode()
