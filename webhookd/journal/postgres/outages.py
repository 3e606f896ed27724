"""What the log says of an outage of the database: when it begins, once a minute, and when it ends.

All parts of a node find out by themselves, several times a second, each with its own connection.
"""

import threading
import time

from webhookd.observe.logs import get_logger

SAID_EVERY_SECONDS = 60.0

_log = get_logger("journal")


class OutageLog:
    """Writes the lines of all parts of one process that use the database; threads may call it."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._failing: set[str] = set()
        self._began_at = self._said_at = 0.0

    def failed(self, part: str, error: Exception) -> None:
        """Note that a part could not use the database; it tries again, until `succeeded` or `ended`."""
        with self._lock:
            now, is_first = time.monotonic(), not self._failing
            self._failing.add(part)
            if is_first:
                self._began_at = self._said_at = now
                _log.warning("journal.connection_lost", server=self._server, part=part, error=str(error))
            elif now - self._said_at >= SAID_EVERY_SECONDS:
                self._said_at = now
                seconds = round(now - self._began_at, 1)
                _log.warning(
                    "journal.still_unreachable", server=self._server, part=part, seconds=seconds, error=str(error)
                )

    def succeeded(self, part: str) -> None:
        """Note that a part has used the database, or that it doesn't try any more."""
        if part not in self._failing:
            return
        with self._lock:
            self._failing.discard(part)
            if not self._failing:
                seconds = round(time.monotonic() - self._began_at, 1)
                _log.warning("journal.connected_again", server=self._server, seconds=seconds)
