"""How much a run does: the whole of it, or a tenth to see that everything works."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """The load of a run; figures of a quick one are rough."""

    is_quick: bool = False

    @property
    def repeats(self) -> int:
        """How often what is short is measured."""
        return 1 if self.is_quick else 3

    @property
    def long_repeats(self) -> int:
        """How often what takes long is measured."""
        return 1 if self.is_quick else 2

    def of(self, count: int) -> int:
        """Return how many of `count` are done in this run."""
        return count // 10 if self.is_quick else count
