"""Fixtures: the dashboard in process, and server processes for real browsers."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.admin.conftest import Api, serving
from tests.dashboard.browser import Browser, browsing
from tests.dashboard.browsing import Site, site_in_process
from tests.dashboard.day import Day, served_day
from tests.e2e.harness import CONFIG
from tests.long import is_long_run


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """The application; a test that waits must request `autojump_clock` itself, as pytest-trio requires."""
    async with site_in_process(tmp_path) as site:
        yield site


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A server process: `served.url` has the dashboard, `served.first_key` signs in, `served.admin` asks the API."""
    with serving(tmp_path_factory.mktemp("served"), CONFIG) as api:
        yield api


@pytest.fixture(scope="session")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    """A server process with the data of a full day."""
    with served_day(tmp_path_factory.mktemp("day")) as day:
        yield day


@pytest.fixture(scope="session")
def browser(day: Day, request: pytest.FixtureRequest) -> Iterator[Browser]:
    """A real browser for that server's dashboard."""
    with browsing(day.url, is_thorough=is_long_run(request.config)) as browser:
        yield browser
