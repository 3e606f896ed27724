"""What `serve` prints when it is ready."""

from pathlib import Path

import pytest

from webhookd.base.secret import Secret
from webhookd.cli.serve import _announce
from webhookd.server import Ready


def test_the_ready_line_names_every_address(capsys: pytest.CaptureFixture[str]) -> None:
    """Each URL of the API and both sockets are on one line, after the first admin key if one was created."""
    urls = ("http://127.0.0.1:8080", "http://[::1]:8080")
    for key, first in ((None, []), (Secret("whd_1"), ["admin key (shown once): whd_1"])):
        _announce(Ready(urls=urls, ingest_socket=Path("i.sock"), control_socket=Path("c.sock"), first_admin_key=key))
        *before, last = capsys.readouterr().out.splitlines()
        assert before == first
        assert last.endswith(f" ready: API {urls[0]} and {urls[1]}, events on i.sock, control c.sock")
