"""What every test gets: a log that shows warnings alone, and as much time for each example as a busy machine takes."""

import signal

import pytest

from webhookd.config import LogConfig
from webhookd.observe import logs


def pytest_configure(config: pytest.Config) -> None:
    """Make the tests independent of how fast the machine is, and of how they were started.

    By default an example fails after 200 ms, which tells only that the machine has paused. What a shell starts in the
    background ignores Ctrl-C, and so would each command that a test sends one to.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.pluginmanager.hasplugin("hypothesispytest"):  # a few tests also run with pytest-trio alone
        from hypothesis import settings  # noqa: PLC0415 - where it is installed

        settings.register_profile("without deadlines", deadline=None)
        settings.load_profile("without deadlines")


@pytest.fixture(autouse=True)
def quiet_log() -> None:
    logs.configure(LogConfig(level="warning", format="json"))
