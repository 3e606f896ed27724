"""Logging with structlog to standard error, as JSON lines or for a console.

Whatever looks like a secret is removed from the finished line. Writing a line never raises, and never waits in the
server (see `output`): a log without a reader must not stop a delivery.
"""

import io
import json
import logging
import re
import sys
from functools import partialmethod
from typing import Protocol, TextIO

import msgspec

from webhookd.base.clock import SystemClock, iso
from webhookd.base.imports import leaving_out
from webhookd.base.models import DeliveryStatus
from webhookd.config import LogConfig
from webhookd.observe import journald
from webhookd.observe.attempt_feed import AttemptFacts
from webhookd.observe.output import BufferedOutput

with leaving_out("rich"):  # 3 MiB for tracebacks that show local variables, which hold secrets
    import structlog
    from structlog.typing import EventDict, WrappedLogger

# API keys, endpoint secrets and private keys. The prefix is kept, so that a reader sees what was removed; all start
# with the same letters, so that the search is quick.
_SECRET = re.compile(r"(wh(?:sec|sk|d)_)[A-Za-z0-9+/=_-]+")

_SECRET_BYTES = re.compile(_SECRET.pattern.encode())

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING}

_encode = msgspec.json.Encoder(enc_hook=repr).encode
# Escaped to ASCII: neither a lone surrogate in a field nor the stream's encoding can make the write fail.
_encode_to_ascii = json.JSONEncoder(default=repr, separators=(",", ":")).encode


_encoded: "_LineLogger | None" = None
"""Takes the lines that are encoded at once; None while the log is written for a console."""


class Log(Protocol):
    """A component's logger: each call gives the name of what happened, and its fields as keywords."""

    def debug(self, event: str, **facts: object) -> None:
        """For finding bugs; off by default."""

    def info(self, event: str, **facts: object) -> None:
        """For normal operation."""

    def warning(self, event: str, **facts: object) -> None:
        """For what an operator should know, but need not act on at once."""

    def error(self, event: str, **facts: object) -> None:
        """For what an operator must act on."""

    def exception(self, event: str, **facts: object) -> None:
        """For a bug, with the traceback of the current exception."""


def get_logger(name: str) -> Log:
    """Return the logger of a component; it may be created before `configure` is called."""
    log: Log = structlog.get_logger(component=name)
    return log


def configure(config: LogConfig, target: TextIO | BufferedOutput | None = None) -> None:
    """Configure the process's logging to `target` (default: standard error), also for the standard library's loggers.

    The last call counts. Format `auto` means `console` if the target is a terminal, else JSON lines. If systemd's
    journal reads the target, each line starts with its priority.
    """
    out = _Stream(sys.stderr if target is None else target) if not isinstance(target, BufferedOutput) else target
    level = logging.getLevelNamesMapping()[config.level.upper()]
    is_console = config.format == "console" or (config.format == "auto" and out.is_terminal)
    logger = _LineLogger(out, is_for_journal=journald.reads(out.descriptor))
    global _encoded  # noqa: PLW0603 - there is one configuration in a process
    _encoded = None if is_console else logger
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        processors=[
            structlog.processors.add_log_level,
            _add_time,
            structlog.processors.StackInfoRenderer(),
            *(_console(colors=out.is_terminal) if is_console else _json()),
        ],
        logger_factory=lambda *_args: logger,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers = [_ToStructlog()]
    root.setLevel(level)
    # Their own handlers would write each line a second time.
    for name in ("hypercorn.error", "hypercorn.access", "quart.app", "quart.serving"):
        library = logging.getLogger(name)
        library.handlers = []
        library.propagate = True


class AttemptLine(msgspec.Struct, frozen=True, gc=False):
    """The log line of an attempt: its fields, in their order."""

    component: str
    endpoint: str
    organization: str | None
    delivery: str
    sequence: int
    event_id: str
    event_type: str
    trace_id: str | None
    attempt: str
    number: int
    trigger: str
    started_at: str
    duration_ms: float
    waited_ms: int
    bytes: int
    remote_address: str | None
    reused: bool | None
    response_status: int | None
    error: str | None
    detail: str | None
    retry_after_seconds: float | None
    status: str
    refusals: int
    next_attempt_at: str | None
    breaker: str
    consecutive_faults: int
    event: str
    level: str
    timestamp: str


def delivery_attempted(attempt: AttemptFacts) -> None:
    """Log an attempt as one line with all its fields."""
    level = "info" if attempt.status is DeliveryStatus.SUCCEEDED else "warning"
    # The root logger has the same level, and checking it is ten times as fast as structlog.
    if not logging.getLogger().isEnabledFor(_LEVELS[level]):
        return
    line = AttemptLine(
        "router",
        attempt.endpoint_id,
        attempt.organization_id,
        attempt.delivery_id,
        attempt.sequence,
        attempt.event_id,
        attempt.event_type,
        None if attempt.traceparent is None else attempt.traceparent.split("-")[1],
        attempt.id,
        attempt.number,
        attempt.trigger.value,
        iso(attempt.started_at),
        round(attempt.duration_seconds * 1000, 1),
        round(attempt.waited_seconds * 1000),
        attempt.body_bytes,
        attempt.remote_address,
        attempt.is_reused,
        attempt.response_status,
        None if attempt.error is None else attempt.error.value,
        attempt.detail or None,
        attempt.retry_after_seconds,
        attempt.status.value,
        attempt.refusals,
        None if attempt.next_attempt_at is None else iso(attempt.next_attempt_at),
        attempt.breaker.value,
        attempt.consecutive_faults,
        "delivery.attempted",
        level,
        iso(SystemClock().now()),
    )
    # There is one such line for each request. Encoded at once, it costs a tenth of what structlog takes for it.
    if _encoded is None or not _encoded.write_json(level, line):
        facts = msgspec.structs.asdict(line)
        log = get_logger(facts.pop("component"))
        say = log.info if facts.pop("level") == "info" else log.warning
        say(facts.pop("event"), **{name: value for name, value in facts.items() if name != "timestamp"})


def dropped_line(lines: int) -> bytes:
    """Return the log line that replaces dropped lines, or an empty one if the log level hides it."""
    held = io.BytesIO()
    in_force = structlog.get_config()["logger_factory"]()
    is_for_journal = isinstance(in_force, _LineLogger) and in_force.is_for_journal
    log = structlog.wrap_logger(_LineLogger(held, is_for_journal=is_for_journal), component="log")
    log.warning("log.dropped", lines=lines)
    return held.getvalue()


def redact(line: str) -> str:
    """Remove secrets, private keys and API keys from a finished line."""
    return _SECRET.sub(r"\1[redacted]", line)


def _add_time(_logger: WrappedLogger, _method: str, facts: EventDict) -> EventDict:
    facts["timestamp"] = iso(SystemClock().now())
    return facts


def _json() -> tuple[structlog.typing.Processor, ...]:
    return (structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_to_json))


def _console(*, colors: bool) -> tuple[structlog.typing.Processor, ...]:
    # The default traceback shows local variables, which hold secrets. Strings are shown as Python literals: a
    # receiver's answer must not move the terminal's cursor or forge a line.
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors, repr_native_str=True, exception_formatter=structlog.dev.plain_traceback, sort_keys=False
    )
    return (renderer,)


def _to_json(facts: EventDict, **_options: object) -> str:
    try:
        line = _encode(facts)
    except (UnicodeEncodeError, TypeError, ValueError):
        return _encode_to_ascii(facts)
    return line.decode() if line.isascii() else _encode_to_ascii(facts)


class _Stream:
    """Writes lines to a text stream at once; a stream that is gone is ignored."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.is_terminal = stream.isatty()
        try:
            self.descriptor = stream.fileno()
        except OSError:  # it is in memory
            self.descriptor = -1

    def write(self, line: bytes) -> None:
        try:
            self._stream.write(line.decode())
            self._stream.flush()
        except (OSError, ValueError):
            # The reader of the log is gone (EPIPE, a closed file): the error can't be reported.
            return


class _LineLogger:
    """Redacts finished lines and passes them on; for systemd's journal each starts with its priority."""

    def __init__(self, target: "BufferedOutput | _Stream | io.BytesIO", *, is_for_journal: bool) -> None:
        self._target = target
        self.is_for_journal = is_for_journal

    def write_json(self, level: str, facts: msgspec.Struct) -> bool:
        """Write a line that is encoded at once; return False instead if it has to be escaped or redacted."""
        try:
            line = _encode(facts)
        except UnicodeEncodeError:  # a lone surrogate
            return False
        if not line.isascii() or _SECRET_BYTES.search(line) is not None:
            return False
        mark = journald.priority(level).encode() if self.is_for_journal else b""
        self._target.write(b"%b%b\n" % (mark, line))
        return True

    def _write(self, level: str, line: str) -> None:
        line = redact(line)
        if self.is_for_journal:
            mark = journald.priority(level)
            line = mark + line.replace("\n", f"\n{mark}")
        self._target.write((line + "\n").encode(errors="backslashreplace"))

    debug = partialmethod(_write, "debug")
    info = partialmethod(_write, "info")
    warning = partialmethod(_write, "warning")
    error = partialmethod(_write, "error")


class _ToStructlog(logging.Handler):
    """Passes records of the standard library's loggers (Hypercorn, Quart, trio) to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            log = structlog.get_logger(component=record.name)
            say = log.error if record.levelno >= logging.ERROR else log.warning
            if record.levelno < logging.WARNING:
                say = log.info if record.levelno >= logging.INFO else log.debug
            say(record.getMessage(), **({"exc_info": record.exc_info} if record.exc_info else {}))
        except Exception:  # noqa: BLE001 - as the standard library's handlers do for a record that can't be formatted
            self.handleError(record)
