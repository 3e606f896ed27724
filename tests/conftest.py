"""What every test gets: a log that shows warnings alone, and as much time for each example as a busy machine takes."""

import pytest
from hypothesis import settings

from webhookd import logs
from webhookd.config import LogConfig

# By default an example fails after 200 ms, which says nothing of the code where the machine has paused.
settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")


@pytest.fixture(autouse=True)
def quiet_log() -> None:
    logs.configure(LogConfig(level="warning", format="json"))
