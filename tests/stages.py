"""Do something in this process at the moment in which the product reaches a stage."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from webhookd.base.stages import AUDIT_EVENT, Stage

_ACTS: dict[str, Callable[[], object]] = {}
_HOOKS: list[Callable[..., None]] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == AUDIT_EVENT and (act := _ACTS.pop(arguments[0], None)) is not None:
        act()


@contextmanager
def at_stage(stage: Stage, act: Callable[[], object]) -> Iterator[None]:
    """Call `act` the first time that the stage is reached in this block, which must reach it."""
    if not _HOOKS:
        _HOOKS.append(_hear)
        sys.addaudithook(_hear)  # for good: the interpreter has no way to remove it
    _ACTS[stage] = act
    try:
        yield
        assert stage not in _ACTS, f"{stage} was not reached"
    finally:
        _ACTS.pop(stage, None)
