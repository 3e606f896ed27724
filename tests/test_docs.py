"""The documentation against the project: keys, names, links."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.lock import DEVELOPMENT, POSTGRESQL, PRODUCT
from webhookd.base.errors import ErrorCode
from webhookd.base.event_types import STARTING_EVENT_TYPES
from webhookd.base.models import DeliveryError
from webhookd.config import KEYS, Config, reference
from webhookd.config.meanings import MEANINGS, SECTIONS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def read(name: str) -> str:
    return (ROOT / name).read_text()


def test_the_two_commands_are_the_first_two() -> None:
    """The README's first command runs the demo, its second the tests, as the checks of each change do."""
    commands = re.findall(r"```sh\n(.*?)\n```", read("README.md"), re.DOTALL)
    # uv does in a tenth of pip's time what the checks of each change wait for.
    pip, uv = ".venv/bin/pip install -q", ".venv/bin/uv pip install -q -p .venv"
    assert commands[0].split(" && ") == [
        "python3 -m venv .venv",
        f"{pip} --require-hashes -r {PRODUCT}",
        f"{pip} --no-deps --no-build-isolation .",
        ".venv/bin/webhookd demo",
    ]
    assert commands[1].split(" && ") == [
        "python3 -m venv .venv",
        f"{pip} uv",
        f"{uv} --require-hashes -r {DEVELOPMENT}",
        f"{uv} --no-deps --no-build-isolation -e .",
        ".venv/bin/python -m tests",
    ]
    assert commands[1] in read(".ci/run").splitlines()
    assert commands[0] in read("docs/index.md")


def test_what_is_installed_is_what_was_tested() -> None:
    """Every page installs from a lock file, with the machine's own Python, and says so first."""
    installing = [
        line
        for page in PAGES
        for block in re.findall(r"```sh\n(.*?)\n```", page.read_text(), re.DOTALL)
        for line in block.splitlines()
        if "pip install" in line and re.search(r"webhookd|-r | \.(\s|$)", line)
    ]
    assert len(installing) >= 8
    for line in installing:
        assert not re.search(r"python3\.\d", line)
        for words in re.findall(r"pip install ([^&]*)", line):
            is_locked = "--require-hashes -r " in words or "--no-deps --no-build-isolation" in words
            assert is_locked or words.strip() == "-q uv"


def test_every_key_is_documented() -> None:
    """`config.toml` and the page on configuration name each key in its section, and no others."""
    page = read("docs/configuration.md")
    sections = dict(re.findall(r"## `\[(\w+)\]`\n(.*?)(?=\n## |\Z)", page, re.DOTALL))
    assert {name: set(re.findall(r"^- `(\w+)` \(", text, re.MULTILINE)) for name, text in sections.items()} == {
        name: set(keys) for name, keys in KEYS.items()
    }
    shipped = read("config.toml")
    for section, keys in KEYS.items():
        text = shipped.split(f"[{section}]\n")[1].split("\n[")[0]
        assert set(re.findall(r"^(?:# )?(\w+) = ", text, re.MULTILINE)) == set(keys)


def test_the_page_on_configuration_is_the_trees() -> None:
    """docs/configuration.md is generated from the tree and the meanings, which cover every section and key."""
    assert read("docs/configuration.md") == reference()
    assert {section: set(words) for section, words in MEANINGS.items()} == {
        section: set(keys) for section, keys in KEYS.items()
    }
    assert SECTIONS.keys() <= KEYS.keys()


def test_every_default_is_the_one_documented() -> None:
    """The page's defaults are the program's."""
    page = read("docs/configuration.md")
    defaults = Config()
    for section, keys in KEYS.items():
        text = page.split(f"## `[{section}]`")[1].split("\n## ")[0]
        for key in keys:
            found = re.search(rf"^- `{key}` \((not set|`.*?`)[;)]", text, re.MULTILINE)
            assert found is not None
            default = getattr(getattr(defaults, section), key)
            if default is None:
                assert found[1] == "not set"
            else:
                stated = tomllib.loads(f"value = {found[1].strip('`')}")["value"]
                known = str(default) if isinstance(default, Path) else default
                assert (tuple(stated) if isinstance(stated, list) else stated) == known


def test_codes_and_names_are_documented() -> None:
    """The contract lists each delivery error, each starting event type, and each error code."""
    contract = read("docs/contract.md")
    for name in (*STARTING_EVENT_TYPES, *(error.value for error in DeliveryError)):
        assert name in contract
    for code in ErrorCode:
        assert code.value in contract


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link of a page is a file of the project."""
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_named_tests_exist() -> None:
    """Each test file that a page names exists; a name without a folder is in that of the name before it."""
    for page in PAGES:
        for line in page.read_text().splitlines():
            folder = Path("tests")
            for name in re.findall(r"`((?:tests/[\w/]*)?test_\w+\.py)`", line):
                folder = Path(name).parent if "/" in name else folder
                assert (ROOT / folder / Path(name).name).exists(), f"{page.name}: {name}"


def test_examples_of_python_compile() -> None:
    """The Python code in the pages compiles."""
    blocks = [block for page in PAGES for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]
    assert len(blocks) >= 5
    for block in blocks:
        compile(block, "example", "exec")


@pytest.mark.skipif(find_spec("material") is None, reason="mkdocs-material is not installed")
def test_the_site_builds(tmp_path: Path) -> None:
    """mkdocs builds every page in strict mode: each link and anchor exists, and each page is in the menu."""
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", "docs/site/mkdocs.yml", "-d", str(site)]
    environ = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    menu = (ROOT / "docs/site/mkdocs.yml").read_text().split("nav:")[1]
    assert pages == set(re.findall(r"- ([\w/-]+\.md)", menu))
    assert len(pages) == len([path for path in site.rglob("*.html") if path.name != "404.html"])
    for page in site.rglob("*.html"):
        # What a page loads: nothing that another host would learn of.
        loaded = re.findall(r"<(?:script|img|link)[^>]+(?:src|href)=\"?(https?:[^\" >]+)", page.read_text())
        assert [target for target in loaded if "canonical" not in target] == []


def test_the_dockerfile_copies_what_is_there() -> None:
    """The files that it copies exist, and its port, user and health check are the documented ones."""
    text = read("docs/deploy/Dockerfile")
    [lock] = re.findall(r"^ARG LOCK=(\S+)$", text, re.MULTILINE)
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", text.replace("${LOCK}", lock), re.MULTILINE)
    copied = [word for line in lines for word in line.split()]
    assert PRODUCT in copied
    assert all((ROOT / word).exists() for word in copied)
    # The build argument that deploy.md names.
    assert f"--build-arg LOCK={Path(POSTGRESQL).name}`" in read("docs/deploy.md")
    assert Path(POSTGRESQL).parent == Path(PRODUCT).parent
    assert text.count("\nFROM ${BASE}") == 2
    assert f"EXPOSE {Config().server.port}\n" in text
    assert "groupadd --gid 10001 webhookd" in text
    assert "USER 10001:10001\n" in text
    assert "10001" in read("docs/deploy.md")
    assert 'CMD ["webhookd", "health"]\n' in text
    # As the image's own user, and before what could hide that it can't start.
    assert text.index("\nUSER ") < text.index("\nRUN webhookd demo\n") < text.index("\nVOLUME ")
