"""`webhookd backup`: copies the journal, by the running server or, if none runs, under its lock."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
import trio
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from webhookd.admin.backup import PATH, BackupView, ContentsView, contents_view
from webhookd.base.errors import CommandError, JournalError
from webhookd.cli import offline
from webhookd.cli.control import Control
from webhookd.cli.options import FilePath, prints_json, takes_config
from webhookd.cli.terminal import show_json
from webhookd.config import Config, LogConfig
from webhookd.jobs.backup import CopyStage
from webhookd.observe import logs

_LOOK_SECONDS = 0.2


@click.command("backup")
@click.argument("file", type=FilePath())
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@prints_json
@takes_config
def command(config: Config, file: Path, force: bool, as_json: bool) -> None:
    """Copy the whole journal to FILE (mode 0600) and verify the copy; also while the server runs.

    FILE only appears when it is complete and on disk. A running server writes it, as its own user, who needs write
    access. The master key is not in it: keep a copy of the key elsewhere.
    """
    file = file.absolute()
    offline.check_is_file(config)
    control = Control(config.server.control_socket)
    with _progress(file) as report:
        if control.is_served():
            contents = _through_server(control, file, force=force, report=report)
        else:
            # Only warnings and errors, on standard error: the result is printed below.
            logs.configure(LogConfig(level="warning", format=config.log.format))
            contents = contents_view(trio.run(partial(offline.back_up, config, file, replace=force, report=report)))
    if as_json:
        show_json({"file": str(file), "contents": contents})
        return
    click.echo(f"{file}: {describe(contents)}")
    if contents.key_id is not None:
        click.echo(f"it needs the master key {contents.key_id}, which is not in it")


def describe(contents: ContentsView) -> str:
    """Describe the contents of a backup in one line."""
    last = "" if contents.last_event_at is None else f", the last of {contents.last_event_at}"
    return (
        f"{contents.bytes / 1_048_576:,.1f} MiB, version {contents.version}; {contents.events} events{last}; "
        f"{contents.deliveries} deliveries, {contents.pending} of them pending"
    )


def _through_server(control: Control, file: Path, *, force: bool, report: Callable[[int, int], None]) -> ContentsView:
    seen = control.post(PATH, {"file": str(file), "force": force}, BackupView)
    while seen.stage in {CopyStage.COPYING, CopyStage.VERIFYING}:
        time.sleep(_LOOK_SECONDS)
        seen = control.get(PATH, BackupView)
        report(seen.copied_pages, seen.pages)
    if seen.file != str(file):
        raise CommandError(f"the server has started another backup since, {seen.file}; see its log")
    if seen.contents is None:
        raise (JournalError if seen.is_damaged else CommandError)(
            seen.problem or "the backup failed; see the server's log"
        )
    return seen.contents


@contextmanager
def _progress(file: Path) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar if standard error is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        shown = progress.add_task(f"copying to {file.name}", total=None)

        def report(copied: int, pages: int) -> None:
            words = "verifying" if pages and copied == pages else f"copying to {file.name}"
            progress.update(shown, completed=copied, total=pages or None, description=words)

        yield report
