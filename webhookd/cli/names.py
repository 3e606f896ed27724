"""Arguments of commands: a webhook by id, description or URL, a time, a pattern; and their completion."""

import re
import time
from collections.abc import Callable
from typing import TypeVar

import click
import msgspec
from click.shell_completion import CompletionItem

from webhookd.admin.schemas import EventPattern, Page
from webhookd.admin.webhook_schemas import Webhook
from webhookd.base.clock import TimeError, iso, parse_iso
from webhookd.base.errors import CommandError, WebhookdError
from webhookd.base.ids import Prefix, is_id
from webhookd.cli.control import Control
from webhookd.cli.options import load
from webhookd.cli.sources import ApiSource, Source

T = TypeVar("T")

MOST_ON_A_PAGE = 100
_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_FEWEST_OF_AN_ID = len("wh_") + 1
_MOST_NAMED = 5
_COMPLETION_SECONDS = 1.0  # nobody waits longer for the Tab key


def find_webhook(source: Source, name: str) -> Webhook:
    """Return the webhook with that id, or the only one with that start of its id, that description or that URL."""
    if is_id(Prefix.WEBHOOK, name):
        return source.webhook(name)
    found = [webhook for webhook in gathered(source.webhooks, None).data if _matches(webhook, name)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise CommandError(f"no webhook has the id, description or URL {name!r}: `webhookd webhooks list` shows them")
    names = ", ".join(f"{webhook.id} ({webhook.description or webhook.url})" for webhook in found[:_MOST_NAMED])
    more = "" if len(found) <= _MOST_NAMED else f" and {len(found) - _MOST_NAMED} more"
    raise CommandError(f"{len(found)} webhooks match {name!r}: {names}{more}; give the id of one")


def gathered(read: Callable[[int, str | None], Page[T]], limit: int | None, cursor: str | None = None) -> Page[T]:
    """Return up to `limit` rows (None: all) as one page, however many the source returns on each of its own."""
    rows: list[T] = []
    while True:
        page = read(MOST_ON_A_PAGE if limit is None else min(limit - len(rows), MOST_ON_A_PAGE), cursor)
        rows += page.data
        cursor = page.next_cursor
        if cursor is None or len(rows) == limit:
            return Page(data=rows, next_cursor=cursor)


class Moment(click.ParamType[str]):
    """A time as in the API, or a duration before now: `90s`, `15m`, `2h`, `7d`, `1w`."""

    name = "time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it as the API accepts it."""
        if ago := _AGO.fullmatch(value.strip()):
            at = max(time.time() - float(ago[1]) * _SECONDS[ago[2]], 0.0)
            return iso(at)
        try:
            return iso(parse_iso(value))
        except TimeError:
            self.fail(
                f"{value!r} is not a time: use 2026-01-31T12:00:00Z, or how long ago it was: 2h, 15m, 7d", param, ctx
            )


class Pattern(click.ParamType[str]):
    """A pattern of event types."""

    name = "pattern"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it unchanged."""
        try:
            return msgspec.convert(value, EventPattern)
        except msgspec.ValidationError:
            self.fail(f"{value!r} is not a pattern: use a type such as user.created, `user.*`, or `*`", param, ctx)


def _complete_webhooks(context: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Return ids from the server on this machine, or nothing if it doesn't answer within a second."""
    try:
        config = load(context.params.get("config_file"))
        control = Control(config.server.control_socket, _COMPLETION_SECONDS)
        found = ApiSource(control).webhooks(MOST_ON_A_PAGE, None).data
    except WebhookdError:
        return []
    return [
        CompletionItem(webhook.id, help=webhook.description or webhook.url)
        for webhook in found
        if webhook.id.startswith(typed)
    ]


names_webhook = click.argument("webhook", metavar="WEBHOOK", shell_complete=_complete_webhooks)
takes_webhook_option = click.option(
    "--webhook",
    metavar="WEBHOOK",
    shell_complete=_complete_webhooks,
    help="Only this webhook: its id or the start of it, its description or its URL.",
)


def _matches(webhook: Webhook, name: str) -> bool:
    begins = len(name) >= _FEWEST_OF_AN_ID and webhook.id.lower().startswith(name.lower())
    return begins or name in {webhook.description, webhook.url}
