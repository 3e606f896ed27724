"""The size of a run: the full load, or a tenth of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """The load of a run; the figures of a quick run are rough."""

    is_quick: bool = False

    @property
    def repeats(self) -> int:
        """The number of repeats of a short measurement."""
        return 1 if self.is_quick else 3

    @property
    def long_repeats(self) -> int:
        """The number of repeats of a long measurement."""
        return 1 if self.is_quick else 2

    def of(self, count: int) -> int:
        """Return `count`, or a tenth of it in a quick run."""
        return count // 10 if self.is_quick else count
