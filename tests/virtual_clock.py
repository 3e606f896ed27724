"""A clock for tests that follows trio's: with an autojump clock, hours of schedule take milliseconds."""

import trio

VIRTUAL_EPOCH = 1_735_689_600.0  # 2025-01-01T00:00:00Z


class VirtualClock:
    """Wall time and steady time from trio's clock; needs a running trio loop."""

    def now(self) -> float:
        return round(VIRTUAL_EPOCH + trio.current_time(), 3)

    def steady(self) -> float:
        return trio.current_time()
