"""Screenshots of every page, with a full day of data: `python -m tests.dashboard --screenshots DIR`."""

import argparse
import tempfile
from pathlib import Path

from tests.dashboard.browser import DESKTOP, PHONE, SCHEMES, Tab, browsing
from tests.dashboard.day import served_day


def main() -> None:
    """Take them."""
    parser = argparse.ArgumentParser(prog="python -m tests.dashboard", description=__doc__)
    parser.add_argument("--screenshots", type=Path, required=True, metavar="DIR", help="where to put them")
    parser.add_argument("--only", default="", metavar="TEXT", help="pages whose names contain this")
    asked = parser.parse_args()
    asked.screenshots.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, served_day(Path(place)) as day, browsing(day.url) as browser:
        for name, path in {"sign-in": "/sign-in", **day.paths()}.items():
            if asked.only in name:

                def take(tab: Tab, name: str = name, path: str = path) -> None:
                    tab.open(path)
                    for scheme in SCHEMES:
                        for size in (DESKTOP, PHONE):
                            tab.look(size, scheme)
                            file = asked.screenshots / f"{name}-{size[0]}-{scheme}.png"
                            tab.page.screenshot(path=file, full_page=True)
                            print(file, flush=True)

                browser.run(take, None if name == "sign-in" else day.keys["admin"])


if __name__ == "__main__":
    main()
