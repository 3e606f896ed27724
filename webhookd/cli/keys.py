"""`webhookd keys`: API keys, through the running server or, while none runs, in the journal itself."""

import time
from functools import partial
from urllib.parse import quote

import click
import msgspec
import trio

from webhookd import offline
from webhookd.admin.schemas import Deleted, KeyView, KeyWithText, NewKey, Page
from webhookd.cli.control import Control
from webhookd.cli.options import takes_config
from webhookd.clock import iso, parse_iso
from webhookd.config import Config
from webhookd.models import Role


@click.group("keys")
def command() -> None:
    """Make, list and revoke API keys.

    While a server runs this goes through its control socket and is in force at once; else the journal is changed.
    """


@command.command("create")
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True, help="What the key may do.")
@click.option("--name", default="", metavar="TEXT", help="What the key is for, shown in the list.")
@click.option("--organization", metavar="ID", help="Bind the key to this organization.")
@click.option("--expires", metavar="TIME", help="When it ends by itself, such as 2030-01-31T12:00:00Z.")
@takes_config
def create(config: Config, role: str, name: str, organization: str | None, expires: str | None) -> None:
    """Make a key and print it, this once.

    Standard output gets the key alone; standard error gets its id and role.
    """
    fields = {"role": role, "name": name, "organizationId": organization, "expiresAt": expires}
    wanted = _checked(fields)
    control = Control(config.server.control_socket)
    if control.is_served():
        made = control.post("/api/keys", fields, KeyWithText)
        key_id, text = made.id, made.key
    else:
        row, made_text = trio.run(
            partial(
                offline.create_key,
                config,
                role=wanted.role,
                name=wanted.name,
                organization_id=wanted.organization_id,
                expires_at=_expiry(expires),
            )
        )
        key_id, text = row.id, made_text.reveal()
    click.echo(f"{key_id}, role {role}; the key is shown this once:", err=True)
    click.echo(text)


@command.command("list")
@takes_config
def show(config: Config) -> None:
    """List the keys, newest first, without their texts."""
    control = Control(config.server.control_socket)
    rows = [("ID", "ROLE", "NAME", "ORGANIZATION", "CREATED", "EXPIRES", "LAST USED")]
    if control.is_served():
        rows += [
            (
                key.id,
                key.role,
                key.name,
                key.organization_id or "-",
                key.created_at,
                key.expires_at or "-",
                key.last_used_at or "-",
            )
            for key in _all_keys(control)
        ]
    else:
        rows += [
            (
                row.id,
                row.role,
                row.name,
                row.organization_id or "-",
                iso(row.created_at),
                "-" if row.expires_at is None else iso(row.expires_at),
                "-" if row.last_used_at is None else iso(row.last_used_at),
            )
            for row in reversed(trio.run(offline.list_keys, config))
        ]
    # A name may hold anything that JSON can, and must not move the reader's cursor.
    shown = [["".join(c if c.isprintable() else "�" for c in cell) or "-" for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@command.command("revoke")
@click.argument("key_id", metavar="KEY_ID")
@takes_config
def revoke(config: Config, key_id: str) -> None:
    """Revoke the key with this id (key_…): it stops working at once."""
    control = Control(config.server.control_socket)
    if control.is_served():
        control.delete(f"/api/keys/{quote(key_id, safe='')}", Deleted)
    else:
        trio.run(offline.revoke_key, config, key_id)
    click.echo(f"revoked {key_id}")


def _all_keys(control: Control) -> list[KeyView]:
    target: str | None = "/api/keys?limit=100"
    found: list[KeyView] = []
    while target:
        page = control.get(target, Page[KeyView])
        found += page.data
        target = page.next_cursor and f"/api/keys?limit=100&cursor={quote(page.next_cursor)}"
    return found


def _checked(fields: dict[str, str | None]) -> NewKey:
    try:
        return msgspec.convert(fields, NewKey)
    except msgspec.ValidationError as error:
        # The names of the options, where the message has those of the API.
        message = str(error).replace("$.organizationId", "--organization").replace("$.", "--").replace("`", "")
        raise click.UsageError(message) from error


def _expiry(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        at = parse_iso(text)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(str(error), param_hint="--expires") from error
    if at <= time.time():
        raise click.BadParameter("the time must lie in the future", param_hint="--expires")
    return at
