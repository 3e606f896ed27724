"""The server's own state (health, readiness, metrics, event loop) and the description of this API."""

from collections.abc import Callable, Sequence
from http import HTTPStatus

import msgspec
import trio
from msgspec import Raw
from quart import Response

from webhookd.admin.auth import Permission
from webhookd.admin.lifecycle import Readiness
from webhookd.admin.openapi import describe
from webhookd.admin.operations import Answer, Call, NoBody, Operation, operation
from webhookd.admin.schemas import Health, LoopView, NodesView, NodeView, NoQuery, ReadinessView, StallView
from webhookd.admin.views import iso_or_none, shown
from webhookd.journal import EventTypeRow

_NOT_READY = frozenset({Readiness.STARTING, Readiness.DRAINING, Readiness.UNREACHABLE})


async def get_health(_: Call[NoQuery, NoBody]) -> Answer[Health]:
    """Check that the process is alive."""
    return Answer(value=Health())


async def get_readiness(call: Call[NoQuery, NoBody]) -> Answer[ReadinessView]:
    """Check whether the server accepts work."""
    state, reasons = call.services.lifecycle.readiness()
    status = HTTPStatus.SERVICE_UNAVAILABLE if state in _NOT_READY else HTTPStatus.OK
    headers = {"Retry-After": "1"} if state in _NOT_READY else {}
    return Answer(value=ReadinessView(status=state.value, reasons=reasons), status=status, headers=headers)


async def get_metrics(call: Call[NoQuery, NoBody]) -> Response:
    """Read the metrics in the text format of Prometheus."""
    metrics = call.services.metrics
    return Response(await metrics.expose(), HTTPStatus.OK, content_type=metrics.media_type)


async def get_loop(call: Call[NoQuery, NoBody]) -> Answer[LoopView]:
    """Read the longest stall of the event loop in the last hour; control socket only."""
    longest = call.services.stalls.longest()
    if longest is None:
        return Answer(value=LoopView(longest_stall=None))
    seconds, cpu_seconds = round(longest.seconds, 3), round(longest.cpu_seconds, 3)
    return Answer(value=LoopView(longest_stall=shown(StallView, longest, seconds=seconds, cpu_seconds=cpu_seconds)))


async def get_nodes(call: Call[NoQuery, NoBody]) -> Answer[NodesView]:
    """List the nodes that share the journal on PostgreSQL; control socket only."""
    found = await call.services.store.read_nodes()
    if found is None:
        return Answer(value=NodesView(nodes=(), free_slots=0))
    nodes = tuple(
        shown(
            NodeView,
            node,
            lease_seconds=node.seconds_left,
            last_beat_at=iso_or_none(node.beat_at),
            beat_age_seconds=round(node.beat_age_seconds, 1),
            own=node.id == found.own,
        )
        for node in found.nodes
    )
    return Answer(value=NodesView(nodes=nodes, free_slots=found.free_slots))


def operations(all_operations: Callable[[], tuple[Operation, ...]]) -> tuple[Operation, ...]:
    """Return the operations of this module; the description covers `all_operations`, these included."""

    described: list[tuple[object, Raw]] = []  # the last description, with the catalogue it was made from

    def encoded(catalogue: Sequence[EventTypeRow]) -> Raw:
        return Raw(msgspec.json.encode(describe(all_operations(), catalogue)))

    async def get_openapi(call: Call[NoQuery, NoBody]) -> Answer[Raw]:
        """Read this OpenAPI document."""
        catalogue = await call.services.store.event_types.all()
        if not described or described[0][0] != catalogue:
            # Describing a full catalogue would block the event loop for too long.
            described[:] = [(catalogue, await trio.to_thread.run_sync(encoded, catalogue))]
        return Answer(value=described[0][1])

    return (
        operation(get_openapi, "GET /api/openapi.json", Permission.READ, answers={HTTPStatus.OK: dict[str, object]}),
        operation(get_health, "GET /healthz", Permission.NOTHING),
        operation(
            get_readiness,
            "GET /readyz",
            Permission.NOTHING,
            answers={HTTPStatus.OK: ReadinessView, HTTPStatus.SERVICE_UNAVAILABLE: ReadinessView},
        ),
        operation(get_metrics, "GET /metrics", Permission.NOTHING, streams={HTTPStatus.OK: {"text/plain": str}}),
        operation(get_loop, "GET /api/loop", Permission.ADMINISTER_HERE),
        operation(get_nodes, "GET /api/nodes", Permission.ADMINISTER_HERE),
    )
