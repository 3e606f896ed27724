"""Idempotency-Key: a POST that is sent again gets the answer of its first time.

Kept is what was done: the 2xx answers, for a day, for one caller, method and path, sealed like a secret since they may
show one. What was refused changed nothing (`Rejected` promises that), so its key is free again, and so is that of a
request which failed, or whose client left, before it asked for any change. A request under way holds its key in memory:
a second one beside it is refused, and so is the same key with another body.

That a request is begun stands in the journal no later than what it changes. Where the server died, or a request failed
or its client left once it had asked for a change, nobody knows what became of it: sent again it is refused, and never
done twice.
"""

import hashlib
from collections.abc import Awaitable, Callable

import msgspec
import trio
from quart import Request, Response

from webhookd.admin.auth import Caller
from webhookd.admin.bodies import MAX_JSON_BYTES, NDJSON, body_of, media_type, read_body
from webhookd.admin.services import Services
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.stages import reached
from webhookd.journal import BEGUN, KeptAnswer, Ticket, unseal_answer

HEADER = "Idempotency-Key"
REPLAYED = "idempotency-replayed"
MOST_CHARACTERS = 255

_KEPT_HEADERS = ("content-type", "location", "etag")
_SETTLE_SECONDS = 1.0


class _Answer(msgspec.Struct, array_like=True):
    headers: dict[str, str]
    body: bytes


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(_Answer)


class Idempotency:
    """The keys of requests under way; one for the application."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._running: set[tuple[str, str, str]] = set()

    async def answer(self, caller: Caller, request: Request, run: Callable[[], Awaitable[Response]]) -> Response:
        """Return what `run` answers, or what it answered the first time.

        Raises Rejected: VALIDATION_ERROR for a key that is none, IDEMPOTENCY_KEY_REUSED with another body, CONFLICT
        while the first request is under way.
        """
        key = _key(request)
        if key is None:
            return await run()
        services = self._services
        timeout_seconds = services.config.server.request_timeout_seconds
        body = await read_body(request, max_bytes=MAX_JSON_BYTES, timeout_seconds=timeout_seconds)
        place = (caller.place, f"{request.method} {request.path}", key)
        if place in self._running:
            raise Rejected(ErrorCode.CONFLICT, "a request with this Idempotency-Key is under way; wait for its answer")
        self._running.add(place)
        try:
            digest = hashlib.sha256(body).digest()
            kept = await services.store.kept_answers.find(*place, services.clock.now())
            if kept is not None:
                return self._again(kept, digest)
            begun = KeptAnswer(
                caller=place[0],
                route=place[1],
                key=place[2],
                body_hash=digest,
                status=BEGUN,
                sealed=b"",
                created_at=services.clock.now(),
            )
            # Not waited for: it is in the queue ahead of whatever the request writes.
            services.store.kept_answers.begin(begun)
            is_settled = False
            try:
                response = await run()
                is_settled = True
                if 200 <= response.status_code < 300:
                    await self._settle(self._keep(begun, response, bytes(await response.get_data(as_text=False))))
                    reached("answer.kept")
                else:
                    await self._settle(services.store.kept_answers.forget(*place))
                return response
            finally:
                if not is_settled and not body_of(request).may_have_changed:
                    services.store.kept_answers.forget(*place)
        finally:
            self._running.discard(place)

    def _again(self, kept: KeptAnswer, digest: bytes) -> Response:
        if kept.body_hash != digest:
            raise Rejected(
                ErrorCode.IDEMPOTENCY_KEY_REUSED,
                "this Idempotency-Key came with another body before; take a new one for another request",
            )
        if kept.status == BEGUN:
            raise Rejected(
                ErrorCode.CONFLICT,
                "the first request with this Idempotency-Key was cut off, and what became of it isn't known: look "
                "whether it was done, and take a new key where it was not",
            )
        answer = _decoder.decode(unseal_answer(self._services.vault, kept))
        response = Response(answer.body, kept.status, answer.headers)
        response.headers[REPLAYED] = "true"
        return response

    def _keep(self, begun: KeptAnswer, response: Response, body: bytes) -> Ticket[None]:
        services = self._services
        headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
        kept = msgspec.structs.replace(begun, status=response.status_code, created_at=services.clock.now())
        return services.store.kept_answers.keep(services.vault, kept, _encode(_Answer(headers, body)))

    async def _settle(self, ticket: Ticket[None]) -> None:
        # On a full disk it waits for room. The caller shall not: what it asked for is done, or refused.
        with trio.move_on_after(_SETTLE_SECONDS):
            await ticket.settled()


def _key(request: Request) -> str | None:
    """Return the request's key, quoted or bare; None where none is asked for."""
    values = request.headers.getlist(HEADER)
    if request.method != "POST" or not values or media_type(request) == NDJSON:
        return None
    text = values[0].strip()
    if len(text) >= 2 and text.startswith('"') and text.endswith('"'):
        text = text[1:-1]
    if len(values) > 1 or not 1 <= len(text) <= MOST_CHARACTERS or not (text.isascii() and text.isprintable()):
        raise Rejected(
            ErrorCode.VALIDATION_ERROR,
            f"the header Idempotency-Key takes one key of 1 to {MOST_CHARACTERS} printable ASCII characters",
        )
    return text
