"""Playing points: each in a directory of its own, a few side by side."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from tests.crashpoints.arming import DISK, find
from tests.crashpoints.launched import Launcher, launching
from tests.crashpoints.point import Point
from tests.crashpoints.site import BrokenError, Site
from tests.patience import PATIENCE_SECONDS

AT_ONCE = 4
LIMIT_SECONDS = PATIENCE_SECONDS

Tell = Callable[[Point, str | None], None]


async def play(
    point: Point, launcher: Launcher, *, planted: str | None = None, limit_seconds: float = LIMIT_SECONDS
) -> str | None:
    """Play one point, with a fault planted or not; return what broke, None where all is as expected."""
    with TemporaryDirectory() as directory:
        try:
            if not point.place.at.startswith(DISK):
                find(point.place.at)
            async with trio.open_nursery() as nursery:
                site = Site(
                    Path(directory),
                    launcher,
                    nursery,
                    place=point.place,
                    planted=planted,
                    limit_seconds=limit_seconds,
                )
                try:
                    await point.check(site)
                finally:
                    with trio.CancelScope(shield=True):
                        await site.remove()
                nursery.cancel_scope.cancel()
        except Exception as group:  # noqa: BLE001 - whatever goes wrong is for the table to tell
            error = _first(group)
            return str(error) if isinstance(error, BrokenError) else f"{type(error).__name__}: {error}"
    return None


async def play_all(
    points: Iterable[Point],
    *,
    planted: Mapping[str, str] | None = None,
    at_once: int = AT_ONCE,
    limit_seconds: float = LIMIT_SECONDS,
    tell: Tell | None = None,
) -> dict[str, str | None]:
    """Play points, so many at once; return what broke of each.

    `planted` names the faults that points are played with; `tell` hears of each point as soon as it is played.
    """
    found: dict[str, str | None] = {}
    faults = planted or {}
    slots = trio.CapacityLimiter(at_once)

    async def one(point: Point, launcher: Launcher) -> None:
        async with slots:
            broken = await play(point, launcher, planted=faults.get(point.name), limit_seconds=limit_seconds)
        found[point.name] = broken
        if tell is not None:
            tell(point, broken)

    async with launching() as launcher, trio.open_nursery() as nursery:
        for point in points:
            nursery.start_soon(one, point, launcher)
    return found


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
