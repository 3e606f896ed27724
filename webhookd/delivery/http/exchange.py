"""An exchange: one request and its response, how far they have come, and their one outcome, whichever way out is taken.

An exchange is started and then moved on by whatever happens to it: a connection, bytes, an error, its deadline. Each of
these is one step, and the last one calls `done`. No task waits for an exchange.
"""

import os
import random
import ssl
from collections.abc import Callable

import trio

from webhookd.base.models import DeliveryError, Outcome
from webhookd.delivery.http.wire import ResponseReader
from webhookd.delivery.request import Done, Request

IDLE_SECONDS = 30.0
# Connections that were opened together, as at a start, are not all replaced at the same time.
LEAST_SHARE_OF_AGE = 0.8


class TransportError(Exception):
    """An exchange without a response; `code` is recorded with the attempt, `detail` says what went wrong."""

    def __init__(self, code: DeliveryError, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class TooLateError(Exception):
    """An exchange was not done by its deadline."""


class Exchange:
    """A request that has been started; its first result is passed to `done`, and none after `cancel`.

    `started_at` and `deadline` are trio's time. `doing` says what is being done, for a timeout's text; `remote_address`
    and `is_reused` are those of the connection in use.
    """

    __slots__ = (
        "_abandon",
        "_done",
        "deadline",
        "doing",
        "is_over",
        "is_reused",
        "remote_address",
        "request",
        "started_at",
    )

    def __init__(self, request: Request, done: Done, abandon: Callable[["Exchange"], None]) -> None:
        self.request = request
        self.started_at = trio.current_time()
        self.deadline = self.started_at + request.timeout_seconds
        self.doing = "resolving the name"
        self.remote_address: str | None = None
        self.is_reused: bool | None = None
        self.is_over = False
        self._done = done
        self._abandon = abandon

    def succeed(self, answer: ResponseReader, now: float) -> None:
        """End with a complete response, at `now` (trio's time)."""
        self._end(
            Outcome(
                duration_seconds=now - self.started_at,
                remote_address=self.remote_address,
                is_reused=self.is_reused,
                status=answer.status,
                headers=tuple(answer.headers),
                body=bytes(answer.body),
                truncated=answer.is_truncated,
            )
        )

    def fail(self, code: DeliveryError, detail: str) -> None:
        """End without a response."""
        self._end(
            Outcome(
                duration_seconds=trio.current_time() - self.started_at,
                remote_address=self.remote_address,
                is_reused=self.is_reused,
                error=code,
                detail=detail,
            )
        )

    def fail_late(self) -> None:
        """End at the deadline."""
        self.fail(DeliveryError.TIMEOUT, f"{self.doing} was not done after {self.request.timeout_seconds:g} s")

    def interrupt(self) -> None:
        """End because the sender stops."""
        self.fail(DeliveryError.INTERRUPTED, "the sender stopped")

    def crash(self, error: Exception) -> None:
        """End with an exception, which is a bug."""
        self._end(error)

    def cancel(self) -> None:
        """Cut the exchange off; `done` is not called any more."""
        if not self.is_over:
            self.is_over = True
            self._abandon(self)

    def _end(self, result: Outcome | Exception) -> None:
        if not self.is_over:
            self.is_over = True
            self._done(result)


def expiry(opened_at: float, max_age_seconds: float) -> float:
    """Return the time from which on a connection may carry no further request: after 80 to 100 % of the maximum age."""
    return opened_at + max_age_seconds * random.uniform(LEAST_SHARE_OF_AGE, 1.0)  # noqa: S311 - no secret


def deepest(error: BaseException) -> BaseException:
    """Return the first cause of an error, within the groups in which trio dials too."""
    while (cause := error.exceptions[-1] if isinstance(error, BaseExceptionGroup) else error.__cause__) is not None:
        error = cause
    return error


def reason_of(error: BaseException) -> str:
    """Return the reason that OpenSSL or the kernel gives: httpcore's texts are empty, and trio's repeat the address."""
    match error := deepest(error):
        case ssl.SSLCertVerificationError():
            return error.verify_message
        case ssl.SSLError():
            return error.reason or str(error)
        case OSError() if error.errno:
            return os.strerror(error.errno)
        case _:
            return str(error) or type(error).__name__
