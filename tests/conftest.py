"""What every test gets: a log that shows warnings alone, and as much time for each example as a busy machine takes."""

import pytest

from webhookd import logs
from webhookd.config import LogConfig


def pytest_configure(config: pytest.Config) -> None:
    """Let no example fail for the time it took: by default 200 ms, which tells only that the machine has paused."""
    if config.pluginmanager.hasplugin("hypothesispytest"):  # a few tests also run with pytest-trio alone
        from hypothesis import settings  # noqa: PLC0415 - where it is installed

        settings.register_profile("without deadlines", deadline=None)
        settings.load_profile("without deadlines")


@pytest.fixture(autouse=True)
def quiet_log() -> None:
    logs.configure(LogConfig(level="warning", format="json"))
