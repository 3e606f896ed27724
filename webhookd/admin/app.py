"""The admin API as a Quart application: routes, credentials, request ids, and one shape for every error.

Nothing here parses forms, redirects or keeps a session. The caller is authenticated before the answer says whether a
path exists.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus

import msgspec
from quart import Request, Response, g, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from webhookd.admin import (
    actions,
    attempts,
    audit,
    backup,
    deliveries,
    event_types,
    events,
    keys,
    master_key,
    statistics,
    system,
    webhooks,
)
from webhookd.admin.auth import NOBODY, Caller, Permission, authenticate, local_administrator
from webhookd.admin.bodies import JSON, check_path, current_request, with_bodies
from webhookd.admin.guard import LOCAL_ADMIN
from webhookd.admin.idempotency import Idempotency
from webhookd.admin.limits import Quota, RateLimits
from webhookd.admin.operations import Answer, Operation
from webhookd.admin.problems import (
    AUTHENTICATE,
    MEDIA_TYPE,
    REQUEST_ID_HEADER,
    Problem,
    problem_of,
    problem_of_status,
    words_of,
)
from webhookd.admin.services import Services
from webhookd.base.errors import ErrorCode, ReadTimeoutError, Rejected, RouteError
from webhookd.base.ids import Prefix
from webhookd.observe.logs import get_logger

_NEEDS_A_KEY = "/api/"

_log = get_logger("admin")
_encoder = msgspec.json.Encoder()


def all_operations() -> tuple[Operation, ...]:
    """Return every operation of the API."""
    return (
        *webhooks.OPERATIONS,
        *actions.OPERATIONS,
        *deliveries.OPERATIONS,
        *attempts.OPERATIONS,
        *statistics.OPERATIONS,
        *events.OPERATIONS,
        *event_types.OPERATIONS,
        *keys.OPERATIONS,
        *audit.OPERATIONS,
        *master_key.OPERATIONS,
        *backup.OPERATIONS,
        *system.operations(all_operations),
    )


def create_app(services: Services, operations: Sequence[Operation] | None = None) -> QuartTrio:
    """Build the application of all operations, or of the given ones; its only state is `services`.

    Raises RouteError for a route that declares no permission.
    """
    served = all_operations() if operations is None else operations
    app = QuartTrio("webhookd", static_folder=None, template_folder=None)
    app.asgi_app = with_bodies(app.asgi_app)  # type: ignore[assignment,method-assign]  # Quart documents it
    app.config.update(
        MAX_CONTENT_LENGTH=None,  # each operation has its own limit
        BODY_TIMEOUT=None,  # and its own deadline
        RESPONSE_TIMEOUT=None,  # each write has a deadline in the guard
        PROVIDE_AUTOMATIC_OPTIONS=False,
        PROPAGATE_EXCEPTIONS=False,
    )
    app.url_map.merge_slashes = False
    kept_answers = Idempotency(services)
    limits = RateLimits(services.config.server.rate_limit_per_second, services.config.server.rate_limit_burst)
    unlimited = frozenset(each.name for each in served if each.permission is Permission.PUBLISH)
    for operation in served:
        rule = operation.path.replace("{", "<").replace("}", ">")
        app.add_url_rule(
            rule,
            operation.name,
            _view(services, operation, kept_answers),
            methods=[operation.method],
            provide_automatic_options=False,
        )

    # Both are async although they don't wait: Quart runs a plain function in a worker thread. That would cost each
    # request two switches and let these steps run in parallel to the event loop, which owns the keys.
    @app.before_request
    async def identify() -> None:
        # The id comes first, so that every later error can name it.
        g.request_id = services.ids.new(Prefix.REQUEST)
        check_path(request.scope["raw_path"] or b"/")
        if request.path.startswith(_NEEDS_A_KEY):
            caller = g.caller = _caller(services, request)
            if caller.role is not None and request.endpoint not in unlimited and _local_uid(request) is None:
                quota = g.quota = limits.take(caller.place)
                if quota is not None:
                    quota.check()

    @app.after_request
    async def mark(response: Response) -> Response:
        response.headers[REQUEST_ID_HEADER] = _request_id(services)
        response.headers.setdefault("cache-control", "no-store")
        response.headers["x-content-type-options"] = "nosniff"
        quota: Quota | None = g.get("quota")
        if quota is not None:
            response.headers.update(quota.headers())
        return response

    _answer_errors(app, services)
    check_routes(app, {operation.name: operation.permission for operation in served})
    return app


def check_routes(app: QuartTrio, declared: Mapping[str, object]) -> None:
    """Raise RouteError for a route without a permission in `declared` (by endpoint).

    Below /api/ every route needs a role.
    """
    for rule in app.url_map.iter_rules():
        permission = declared.get(rule.endpoint)
        if not isinstance(permission, Permission):
            raise RouteError(f"the route {rule.rule} ({rule.endpoint}) declares no permission")
        if permission is Permission.NOTHING and rule.rule.startswith(_NEEDS_A_KEY):
            raise RouteError(f"the route {rule.rule} ({rule.endpoint}) would let in callers without a role")


def _view(services: Services, operation: Operation, kept_answers: Idempotency) -> Callable[..., Awaitable[Response]]:
    async def view(**variables: str) -> Response:
        caller: Caller = NOBODY
        if operation.permission is not Permission.NOTHING:
            caller = g.get("caller") or _caller(services, request)
            caller.require(operation.permission)
        request_id = _request_id(services)
        current = current_request()

        async def run() -> Response:
            try:
                answer = await operation.run(services, caller, current, request_id, variables)
            except Rejected as refused:
                return _refusal(refused, services)
            return answer if isinstance(answer, Response) else _encode(answer)

        return await kept_answers.answer(caller, current, run)

    return view


def _refusal(refused: Rejected, services: Services) -> Response:
    response = _problem_response(problem_of(refused, _request_id(services)))
    if refused.code is ErrorCode.UNAUTHORIZED:
        response.headers["www-authenticate"] = AUTHENTICATE
    retry_after_seconds = refused.retry_after_seconds
    if retry_after_seconds is None and refused.code.status is HTTPStatus.SERVICE_UNAVAILABLE:
        retry_after_seconds = 1
    if retry_after_seconds is not None:
        response.headers["retry-after"] = str(retry_after_seconds)
    return response


def _caller(services: Services, request: Request) -> Caller:
    authorization = request.headers.getlist("Authorization")
    uid = _local_uid(request)
    if not authorization and uid is not None:
        return local_administrator(uid)
    return authenticate(authorization, services.keys, services.tokens, services.clock.now())


def _local_uid(request: Request) -> int | None:
    """Return the uid of a client of the control socket, as the kernel reports it; None for a request over TCP."""
    uid: int | None = request.scope.get("state", {}).get(LOCAL_ADMIN)
    return uid


def _encode(answer: Answer[object]) -> Response:
    return Response(_encoder.encode(answer.value), answer.status, dict(answer.headers), content_type=JSON)


def _request_id(services: Services) -> str:
    request_id: str = g.get("request_id") or services.ids.new(Prefix.REQUEST)
    return request_id


def _problem_response(problem: Problem) -> Response:
    return Response(_encoder.encode(problem), problem.status, content_type=MEDIA_TYPE)


def _answer_errors(app: QuartTrio, services: Services) -> None:
    @app.errorhandler(Rejected)
    async def refuse(refused: Rejected) -> Response:
        return _refusal(refused, services)

    @app.errorhandler(HTTPException)
    async def answer_status(error: HTTPException) -> Response:
        status, detail = words_of(error)
        response = _problem_response(problem_of_status(status, detail, _request_id(services)))
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["allow"] = ", ".join(sorted(error.valid_methods))
        return response

    @app.errorhandler(ReadTimeoutError)
    async def give_up(_: ReadTimeoutError) -> Response:
        detail = "the query took too long; narrow its filters or ask for less"
        return _refusal(Rejected(ErrorCode.GATEWAY_TIMEOUT, detail), services)

    @app.errorhandler(Exception)
    async def fail(error: Exception) -> Response:
        request_id = _request_id(services)
        _log.error(
            "http.request_failed", request_id=request_id, method=request.method, path=request.path, exc_info=error
        )
        detail = "the request failed inside webhookd; its log has more under this request id"
        return _problem_response(problem_of_status(HTTPStatus.INTERNAL_SERVER_ERROR, detail, request_id))
