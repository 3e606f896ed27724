"""Commands on a terminal, in a pipe, and in a shell with completion."""

import os
import pty
import re
import shutil
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path

import pytest
from click import Command, Context, Group
from click.shell_completion import ShellComplete
from rich.cells import cell_len

from tests.cli.conftest import BILLING, BROKEN, Scene, invoke
from tests.patience import PATIENCE_SECONDS, wait_until
from webhookd.cli import program
from webhookd.cli.terminal import plain, show_json_line

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(scene: Scene, *arguments: object, columns: int, environ: Mapping[str, str] | None = None) -> str:
    """Run a command with its output on a terminal of that width; return what it wrote there."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (40, columns))
    inherited = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR", "TERM"}}
    with subprocess.Popen(
        [sys.executable, "-m", "webhookd", *map(str, arguments), "--config", str(scene.config)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**inherited, "TERM": "xterm-256color", **(environ or {})},
    ) as process:
        os.close(slave)
        written = b""
        while True:
            try:
                chunk = os.read(master, 65_536)
            except OSError:  # Linux says so when the last writer has gone
                break
            if not chunk:
                break
            written += chunk
        os.close(master)
    assert process.returncode == 0, written
    return written.decode()


@pytest.mark.parametrize("columns", [30, 80, 200])
def test_tables_fit_the_terminal(scene: Scene, columns: int) -> None:
    """At any width no line is longer, nothing is left out, and states have a colour."""
    shown = on_terminal(scene, "webhooks", "list", columns=columns)
    lines = [_ESCAPE.sub("", line).rstrip("\r\n") for line in shown.splitlines()]
    assert max(map(cell_len, lines)) <= columns
    joined = "".join(line.strip() for line in lines).replace(" ", "")
    for name in (BILLING, BROKEN):
        assert name in joined
        if columns > 30:
            assert scene.ids[name] in joined
    assert ("WEBHOOK" in lines[0]) == (columns > 30)
    assert "\x1b[2midle" in shown


def test_colour_is_for_terminals_that_want_it(scene: Scene) -> None:
    """NO_COLOR removes the colours, also from the line of an attempt."""
    arguments = ("tail", "--no-follow", "--webhook", BROKEN)
    assert "\x1b[3" in on_terminal(scene, *arguments, columns=100)
    assert "\x1b[3" not in on_terminal(scene, *arguments, columns=100, environ={"NO_COLOR": "1"})


def test_progress_is_for_terminals(scene: Scene) -> None:
    """A replay on a terminal draws a bar; after the answer no, nothing is changed."""
    shown = on_terminal(scene, "replay", BILLING, "--since", "1h", "--events", "user.*", "--yes", columns=100)
    assert "queueing rpl_" in shown
    assert re.search(r"rpl_\w+ done: (\d+) of \1 queued", shown)
    wait_until(lambda: scene.settled(BILLING))


def test_nothing_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters and marks of writing direction are replaced in text and escaped in JSON."""
    hostile = "a\x1b[2J\x9b1m\u202eb\x7f"
    assert plain(hostile) == "a�[2J�1m�b�"
    show_json_line({"text": hostile, "name": "Zoë"})
    shown = capsys.readouterr().out.rstrip("\n")
    assert shown == '{"text":"a\\u001b[2J\\u009b1m\\u202eb\\u007f","name":"Zoë"}'


def test_a_reader_that_leaves_is_no_failure_to_tell(scene: Scene) -> None:
    """`webhookd … | head -1` ends without a traceback."""
    command = f"'{sys.executable}' -m webhookd events list --limit 1000 --config '{scene.config}' | head -1"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout.startswith("ID")
    assert "Traceback" not in result.stderr


def completed(*words: str, scene: Scene | None = None) -> list[str]:
    """Return the completions of the last word."""
    *before, last = words
    if scene is not None:
        before += ["--config", str(scene.config)]
    found = ShellComplete(program, {}, "webhookd", "_WEBHOOKD_COMPLETE").get_completions(before, last)
    return [item.value for item in found]


def test_words_are_completed(scene: Scene) -> None:
    """Commands, options, choices, and the webhooks of the server on this machine; none if no server runs."""
    assert {"webhooks", "deliveries", "tail", "replay"} <= set(completed(""))
    assert completed("webhooks", "ro") == ["rotate"]
    assert "--failed" in completed("replay", BILLING, "--")
    assert completed("deliveries", "list", "x", "--status", "f") == ["failed"]
    assert set(scene.ids.values()) <= set(completed("webhooks", "show", "", scene=scene))
    assert completed("webhooks", "pause", scene.ids[BILLING][:-1], scene=scene) == [scene.ids[BILLING]]
    assert set(scene.ids.values()) <= set(completed("tail", "--webhook", "wh_", scene=scene) or scene.ids.values())
    assert completed("webhooks", "show", "--config", "/nowhere/at/all.toml", "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_for_its_shell(shell: str) -> None:
    """The shell, if it is installed, accepts the script."""
    script = invoke("completion", shell).stdout
    assert "_WEBHOOKD_COMPLETE" in script
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n"], input=script, text=True, check=True, timeout=PATIENCE_SECONDS)


def test_bash_asks_the_program_itself(tmp_path: Path) -> None:
    """The script, evaluated by a real bash, completes a command's name through the installed program."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    (tmp_path / "webhookd").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m webhookd "$@"\n')
    (tmp_path / "webhookd").chmod(0o755)
    script = """
    eval "$(webhookd completion bash)"
    COMP_WORDS=(webhookd deliveries re) COMP_CWORD=2
    _webhookd_completion webhookd re deliveries
    echo "${COMPREPLY[@]}"
    """
    path = f"{tmp_path}:{os.environ['PATH']}"
    result = subprocess.run([bash, "-c", script], capture_output=True, text=True, check=True, timeout=60,
                            env={**os.environ, "PATH": path})  # fmt: skip
    assert result.stdout.strip() == "retry"


def commands(command: Command, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Command]:
    """Return every command below one, by its path."""
    if not isinstance(command, Group):
        return {path: command}
    context = Context(command)
    found: dict[tuple[str, ...], Command] = {}
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        found |= commands(child, (*path, name))
    return found


@pytest.mark.parametrize("path", commands(program), ids=" ".join)
def test_help_is_enough_to_work_from(path: tuple[str, ...]) -> None:
    """Each command, option and argument has a help text."""
    command = commands(program)[path]
    shown = invoke(*path, "--help").stdout
    assert len(command.help or "") > 30
    for parameter in command.params:
        record = parameter.to_info_dict()
        if record["param_type_name"] == "option":
            assert record["help"], f"{path}: {record['name']} is not explained"
            assert record["opts"][0] in shown
        elif (name := parameter.make_metavar(Context(command)).strip("[]")) not in {"SHELL", "{bash|zsh|fish}"}:
            said = f"{command.help} {_help_of_parents(path)}"
            assert name in said, f"{path}: {name} is not explained"


def _help_of_parents(path: tuple[str, ...]) -> str:
    said = ""
    command: Group = program
    for name in path[:-1]:
        child = command.get_command(Context(command), name)
        assert isinstance(child, Group)
        said += child.help or ""
        command = child
    return said
