"""Play points, several at once, each in its own directory."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from tests.crashpoints.points import Point
from tests.crashpoints.site import BrokenError, Site
from tests.patience import PATIENCE_SECONDS

AT_ONCE = 4
LIMIT_SECONDS = PATIENCE_SECONDS

Show = Callable[[Point, str | None], None]


async def play(point: Point, *, planted: str | None = None, limit_seconds: float = LIMIT_SECONDS) -> str | None:
    """Play one point, with a fault planted or not; return what broke, None where all is as expected."""
    with TemporaryDirectory() as directory:
        try:
            async with trio.open_nursery() as nursery:
                site = Site(
                    Path(directory),
                    nursery,
                    stages=point.stages,
                    planted=planted,
                    limit_seconds=limit_seconds,
                )
                try:
                    await point.check(site)
                finally:
                    with trio.CancelScope(shield=True):
                        if site.process is not None:
                            await site.kill()
                nursery.cancel_scope.cancel()
        except Exception as group:  # noqa: BLE001 - the table shows each error
            error = _first(group)
            return str(error) if isinstance(error, BrokenError) else f"{type(error).__name__}: {error}"
    return None


async def play_all(
    points: Iterable[Point],
    *,
    planted: Mapping[str, str] | None = None,
    at_once: int = AT_ONCE,
    limit_seconds: float = LIMIT_SECONDS,
    show: Show | None = None,
) -> dict[str, str | None]:
    """Play points, `at_once` of them at a time; return what broke of each, None where all is as expected.

    `planted` has the faults of points by their names; `show` is called for each point as soon as it is played.
    """
    found: dict[str, str | None] = {}
    faults = planted or {}
    slots = trio.CapacityLimiter(at_once)

    async def one(point: Point) -> None:
        async with slots:
            broken = await play(point, planted=faults.get(point.name), limit_seconds=limit_seconds)
        found[point.name] = broken
        if show is not None:
            show(point, broken)

    async with trio.open_nursery() as nursery:
        for point in points:
            nursery.start_soon(one, point)
    return found


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
