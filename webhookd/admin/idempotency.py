"""Idempotency-Key: a POST that is sent again gets its first answer.

The journal keeps 2xx answers for a day, for one caller, method and path, encrypted since they may show a secret. A
refused request has changed nothing (`Rejected` promises that), so its key is free again. So is the key of a request
that failed, or whose client left, before it submitted any change. A running request holds its key in memory: a second
request with the same key is refused until the first one is answered. The same key with another body is always refused.

The journal records the start of a request no later than its changes. If the server dies, the request fails or its
client leaves after it submitted a change, its result is unknown: sent again, it is refused and never done twice. Of
several nodes, the one that recorded the start first works on the request; the others refuse it for as long as that one
lives.
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
    """Answers requests with an Idempotency-Key; one for the application."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._running: set[tuple[str, str, str]] = set()

    async def answer(self, caller: Caller, request: Request, run: Callable[[], Awaitable[Response]]) -> Response:
        """Return the answer of `run`, or the kept answer of the first request with the same key.

        Raises Rejected VALIDATION_ERROR for an invalid key, IDEMPOTENCY_KEY_REUSED for another body, CONFLICT while the
        first request is running or if its result is unknown.
        """
        key = _key(request)
        if key is None:
            return await run()
        services = self._services
        timeout_seconds = services.config.server.request_timeout_seconds
        body = await read_body(request, max_bytes=MAX_JSON_BYTES, timeout_seconds=timeout_seconds)
        place = (caller.place, f"{request.method} {request.path}", key)
        if place in self._running:
            raise _is_running()
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
            if (kept := await services.store.kept_answers.begin(begun)) is not None:
                return self._again(kept, digest)
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
                if not is_settled:
                    if body_of(request).may_have_changed:
                        services.store.kept_answers.give_up(*place)
                    else:
                        services.store.kept_answers.forget(*place)
        finally:
            self._running.discard(place)

    def _again(self, kept: KeptAnswer, digest: bytes) -> Response:
        if kept.body_hash != digest:
            raise Rejected(
                ErrorCode.IDEMPOTENCY_KEY_REUSED,
                "this Idempotency-Key was used with another body; use a new key",
            )
        if kept.is_running:
            raise _is_running()
        if kept.status == BEGUN:
            raise Rejected(
                ErrorCode.CONFLICT,
                "the first request with this Idempotency-Key was cut off and its result is unknown: check whether it "
                "was done, and if not, send it with a new key",
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
        # On a full disk this would wait for space. The caller needn't: its request is done or refused.
        with trio.move_on_after(_SETTLE_SECONDS):
            await ticket.settled()


def _is_running() -> Rejected:
    return Rejected(ErrorCode.CONFLICT, "a request with this Idempotency-Key is running; wait for its answer")


def _key(request: Request) -> str | None:
    """Return the key of a request, quoted or bare; None if it has none or isn't a POST with one answer."""
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
