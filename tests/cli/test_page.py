"""docs/cli.md against the commands: it has every command and option and no others, and its examples work."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.cli.conftest import BILLING, BROKEN, Scene
from tests.cli.test_terminals import commands
from tests.patience import wait_until
from webhookd.base.errors import WebhookdError
from webhookd.cli import program

PAGE = (Path(__file__).parents[2] / "docs/cli.md").read_text()
SECTIONS = {
    tuple(words.split()[1:]): text
    for words, text in re.findall(
        r"^### `([^`\[A-Z{]+?) ?(?:[A-Z\[{][^`]*)?`\n(.*?)(?=^### |\Z)", PAGE, re.MULTILINE | re.DOTALL
    )
}
EVERYWHERE = {"--help", "--config", "--json"}
ELSEWHERE = {"--url", "--key"}
# They go on until somebody ends them, take a minute, or would look at what isn't there: what they are given is checked.
UNENDING = {("serve",), ("listen",), ("demo",), ("tail",), ("verify",), ("build-binary",), ("migrate",)}
STATUSES: dict[tuple[str, ...], set[int]] = {("doctor",): {0, 1}}


def options(command: click.Command) -> set[str]:
    return {
        name
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


@pytest.mark.parametrize("path", commands(program), ids=" ".join)
def test_every_command_is_on_the_page(path: tuple[str, ...]) -> None:
    """Each command has a section with an example, its arguments, its own options, and its JSON."""
    command, text = commands(program)[path], SECTIONS[path]
    listed = [
        name for names in re.findall(r"^- `(-.*?)`: ", text, re.MULTILINE) for name in re.findall(r"--[\w-]+", names)
    ]
    known = options(command)
    assert sorted(listed) == sorted(known - EVERYWHERE - ELSEWHERE)
    assert ("\n`--json`: " in text) == ("--json" in known)
    assert f"```sh\nwebhookd {' '.join(path)}" in text
    assert "--config" in known or path in {("completion",), ("build-binary",)}
    heading = re.search(rf"^### `webhookd {' '.join(path)}(.*)`$", PAGE, re.MULTILINE)
    assert heading is not None
    arguments = [each for each in command.params if isinstance(each, click.Argument)]
    assert heading[1].split() == [each.make_metavar(click.Context(command)) for each in arguments]
    assert (known >= ELSEWHERE) == (path[0] in {"webhooks", "deliveries", "events", "tail", "replay", "keys"})


def test_no_other_command_is_on_the_page() -> None:
    """A command that does not exist has no section."""
    assert set(SECTIONS) == set(commands(program))


def examples() -> Iterator[list[str]]:
    """Yield the arguments of the page's examples, without redirections and pipes of the shell."""
    for block in re.findall(r"^```sh\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("webhookd "):
                words = shlex.split(line)[1:]
                ends = [words.index(mark) for mark in ("|", ">") if mark in words]
                yield words[: min(ends, default=len(words))]


def test_the_examples_work(scene: Scene, tmp_path: Path) -> None:
    """Each example, in order, works with a running server; those that don't end are only parsed."""
    failed = scene.json("deliveries", "list", BROKEN, "--status", "failed")["data"][-1]["id"]
    spare = scene.json("keys", "create", "--role", "viewer")
    stands_for = {
        "https://webhooks.example.com": scene.url,
        "whd_viewer_01JHMVZ3X5N7Q9S1T3V5W7Y9A1_secret": spare["key"],
        "https://shop.example.com": scene.receiver,
        "dlv_01JHMVZ3X5N7Q9S1T3V5W7Y9A1": failed,
        "evt_01JHMVZ3X5N7Q9S1T3V5W7Y9A1": "seed-0",
        "key_01JHMVZ3X5N7Q9S1T3V5W7Y9A1": spare["id"],
        "/etc/webhookd": str(tmp_path / "etc"),
        "/backup": str(tmp_path),
        "request.json": str(scene.config),
    }
    environ = {
        "WEBHOOKD_SERVER__CONTROL_SOCKET": str(scene.config.parent / "control.sock"),
        "WEBHOOKD_INGEST__SOCKET": str(scene.config.parent / "ingest.sock"),
        "WEBHOOKD_JOURNAL__PATH": str(scene.config.parent / "webhookd.db"),
    }
    known = commands(program)
    seen: set[tuple[str, ...]] = set()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/config.toml").touch()
    for words in examples():
        for text, real in stands_for.items():
            words = [word.replace(text, real) for word in words]  # noqa: PLW2901 - the same example, made real
        path = next(path for path in known if tuple(words[: len(path)]) == path)
        seen.add(path)
        if path in UNENDING:
            with known[path].make_context(path[-1], words[len(path) :]):
                continue
        own = {} if path == ("init",) else environ  # which makes a place of its own
        if path == ("restore",):
            # The other command that wants no server: beside the scene's, with its master key.
            own = {name: f"{value}.restored" for name, value in environ.items()}
            own["WEBHOOKD_SECRETS__MASTER_KEY_FILE"] = str(scene.config.parent / "master.key")
        result = CliRunner().invoke(program, words, env=own)
        error = result.exception
        status = error.exit_status if isinstance(error, WebhookdError) else result.exit_code
        assert status in STATUSES.get(path, {0}), (words, result.output, error)
        assert result.output
    assert seen == set(known)
    wait_until(lambda: scene.settled(BILLING) and scene.settled(BROKEN))
