"""What an exchange, one request and its response, is given and raises, whichever way out it takes."""

import os
import random
import ssl
from collections.abc import Iterable
from dataclasses import dataclass

from webhookd.base.models import DeliveryError

IDLE_SECONDS = 30.0
# Connections that were opened together, as at a start, are not all replaced at the same time.
LEAST_SHARE_OF_AGE = 0.8

HeaderList = Iterable[tuple[str, str]]


class TransportError(Exception):
    """An exchange without a response; `code` is recorded with the attempt, `detail` says what went wrong."""

    def __init__(self, code: DeliveryError, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class TooLateError(Exception):
    """An exchange was not done by its deadline."""


@dataclass(slots=True)
class RequestProgress:
    """The deadline of an exchange (trio's clock) and how far it has come, which can be read after it was cut off."""

    deadline: float
    doing: str = "resolving the name"
    remote_address: str | None = None
    is_reused: bool | None = None


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
