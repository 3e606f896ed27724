"""What every test gets: a log that shows warnings alone, so that a failure's output can be read."""

import pytest

from webhookd import logs
from webhookd.config import LogConfig


@pytest.fixture(autouse=True)
def quiet_log() -> None:
    logs.configure(LogConfig(level="warning", format="json"))
