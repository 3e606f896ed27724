"""Logging: formats, levels, redaction, the standard library's records, and the line of an attempt."""

import io
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import structlog

from tests.samples import attempt_record, endpoint, message
from webhookd.base.models import DeliveryError, DeliveryStatus
from webhookd.config import LogConfig
from webhookd.observe import logs
from webhookd.observe.attempt_feed import facts_of
from webhookd.observe.output import BufferedOutput

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    structlog.reset_defaults()
    logs._encoded = None
    root.handlers, root.level = handlers, level


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_line_has_name_level_time_and_facts() -> None:
    """A JSON line has the event, the component, the time and the level."""
    out = io.StringIO()
    logs.configure(LogConfig(format="json"), out)
    logs.get_logger("router").info("event.accepted", deliveries=3)
    (line,) = lines(out)
    assert line["event"] == "event.accepted"
    assert line["component"] == "router"
    assert line["level"] == "info"
    assert line["deliveries"] == 3
    assert str(line["timestamp"]).endswith("Z")


def test_a_logger_made_before_configuring_follows_it() -> None:
    """A component may get its logger before the configuration is loaded."""
    log = logs.get_logger("early")
    out = io.StringIO()
    logs.configure(LogConfig(format="json", level="warning"), out)
    log.info("hidden")
    log.warning("shown")
    assert [line["event"] for line in lines(out)] == ["shown"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_are_cut_out_wherever_they_stand(form: str) -> None:
    """A secret in a value, a nested value, bytes, a name or a traceback is never written."""
    out = io.StringIO()
    logs.configure(LogConfig(format="json" if form == "json" else "console"), out)
    log = logs.get_logger("x")
    named = f"got {SECRET}"
    log.info(named, value=SECRET, nested={"a": [f"key whd_{'k' * 40}!"]}, raw=b"whsk_AAAA+/==")
    try:
        b"x".decode(SECRET)
    except LookupError:
        log.exception("failed")
    logging.getLogger("lib").warning("their %s", SECRET)
    text = out.getvalue()
    assert "MfKQ9r8" not in text
    assert "kkkk" not in text
    assert "AAAA" not in text
    assert text.count("whsec_[redacted]") >= 4
    assert "Traceback" in text


def test_a_hint_of_a_secret_stays_readable() -> None:
    """The API's hint of a secret is not redacted."""
    assert logs.redact("whsec_…LaSw and wh_01ABC") == "whsec_…LaSw and wh_01ABC"


def test_a_value_cannot_forge_a_line_on_a_console() -> None:
    """A line break or terminal escape in a receiver's answer is shown as text."""
    out = io.StringIO()
    logs.configure(LogConfig(format="console"), out)
    logs.get_logger("x").info("answered", body="a\n2025 [error] forged\x1b[2J")
    assert out.getvalue().count("\n") == 1
    assert "\x1b[2J" not in out.getvalue()


def test_json_takes_any_fact() -> None:
    """A field that JSON can't represent, or a lone surrogate, doesn't lose the line."""
    out = io.StringIO()
    logs.configure(LogConfig(format="json"), out)
    logs.get_logger("x").info("odd", thing=object, surrogate="\ud800", number=1 << 80)
    (line,) = lines(out)
    assert "object" in str(line["thing"])


def test_a_closed_stream_does_not_raise() -> None:
    """Work continues when the log can no longer be written."""
    out = io.StringIO()
    logs.configure(LogConfig(format="json"), out)
    out.close()
    logs.get_logger("x").error("unheard")


def test_dropped_lines_are_said_in_the_form_of_the_log() -> None:
    """The line for dropped lines has the form of the log, and follows its level."""
    logs.configure(LogConfig(format="json"), io.StringIO())
    line = json.loads(logs.dropped_line(7))
    assert (line["event"], line["level"], line["component"], line["lines"]) == ("log.dropped", "warning", "log", 7)
    logs.configure(LogConfig(format="json", level="error"), io.StringIO())
    assert logs.dropped_line(7) == b""


def test_an_output_gets_each_line_as_bytes() -> None:
    """The server's log goes through an output, also console lines in UTF-8."""
    reading, writing = os.pipe()
    output = BufferedOutput(writing)
    logs.configure(LogConfig(format="console"), output)
    logs.get_logger("x").info("größe", value="\ud800")
    assert output.flush(30)
    said = os.read(reading, 65_536)
    assert said.endswith(b"\n")
    assert "größe".encode() in said
    for descriptor in (reading, writing):
        os.close(descriptor)


def test_standard_library_records_come_through_with_their_traceback() -> None:
    """Log records of Hypercorn, Quart and trio have the same form and follow the same level."""
    out = io.StringIO()
    logs.configure(LogConfig(format="json", level="info"), out)
    library = logging.getLogger("hypercorn.error")
    library.debug("hidden")
    try:
        Path("/nowhere/at/all").read_bytes()
    except OSError:
        library.exception("failed %d times", 2)
    (line,) = lines(out)
    assert (line["event"], line["component"], line["level"]) == ("failed 2 times", "hypercorn.error", "error")
    assert "FileNotFoundError" in str(line["exception"])


def test_auto_is_json_where_nobody_watches() -> None:
    """Format `auto` writes JSON lines unless the target is a terminal."""
    out = io.StringIO()
    logs.configure(LogConfig(), out)
    logs.get_logger("x").info("hello")
    assert lines(out)[0]["event"] == "hello"


@pytest.mark.parametrize("detail", ["a plain reason", "ünicode", "a lone \ud800", "with whsec_abcdefgh123 in it"])
def test_attempt_line_is_the_same_however_it_is_encoded(detail: str) -> None:
    """The line that is encoded at once is the one that structlog writes; secrets and other letters never pass."""
    facts = msgspec.structs.replace(facts_of(endpoint(), message(), attempt_record()), detail=detail)
    texts = []
    for is_encoded_at_once in (True, False):
        out = io.StringIO()
        logs.configure(LogConfig(format="json"), out)
        if not is_encoded_at_once:
            logs._encoded = None
        logs.delivery_attempted(facts)
        texts.append(re.sub(r'"timestamp":"[^"]*"', "", out.getvalue()))
        assert out.getvalue().isascii()
        assert "abcdefgh123" not in out.getvalue()
    assert texts[0] == texts[1]


def test_attempt_line_is_wide_and_graded() -> None:
    """One line has all fields of an attempt: at level info for a success, warning for anything else."""
    out = io.StringIO()
    logs.configure(LogConfig(format="json"), out)
    logs.delivery_attempted(facts_of(endpoint(), message(), attempt_record()))
    failed = attempt_record(status=DeliveryStatus.PENDING, error=DeliveryError.HTTP_5XX, next_attempt_at=1736937005.0)
    logs.delivery_attempted(facts_of(endpoint(), message(), failed))
    good, bad = lines(out)
    assert (good["event"], good["level"], good["status"]) == ("delivery.attempted", "info", "succeeded")
    assert good["endpoint"] == endpoint().id
    assert (bad["level"], bad["error"], bad["next_attempt_at"]) == ("warning", "http_5xx", "2025-01-15T10:30:05.000Z")
