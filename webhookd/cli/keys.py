"""`webhookd keys`: creates, lists and revokes API keys, through the server or, if none runs, in the journal."""

import time

import click
import msgspec
import trio

from webhookd.admin.schemas import Deleted, KeyView, KeyWithText, NewKey, Page
from webhookd.admin.views import key as key_view
from webhookd.base.clock import TimeError, parse_iso
from webhookd.base.models import Role
from webhookd.base.validation import complaints
from webhookd.cli import offline
from webhookd.cli.api import part, target
from webhookd.cli.names import gathered
from webhookd.cli.options import InOrder, prints_json
from webhookd.cli.places import Place, takes_place
from webhookd.cli.terminal import show_json, show_page, show_result

_PATH = "/api/keys"


@click.group("keys", cls=InOrder)
def command() -> None:
    """Create, list and revoke API keys.

    If a server runs on this machine, its control socket is used, and changes are in force at once. Else the journal is
    changed.
    """


@command.command("create")
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True, help="What the key may do.")
@click.option("--name", default="", metavar="TEXT", help="What the key is for, shown in the list.")
@click.option("--organization", metavar="ID", help="Bind the key to this organization.")
@click.option("--expires", metavar="TIME", help="When it expires, such as 2030-01-31T12:00:00Z.")
@prints_json
@takes_place
def create(place: Place, *, role: str, name: str, organization: str | None, expires: str | None, as_json: bool) -> None:
    """Create a key and print it; it is shown only once.

    Standard output gets only the key; standard error gets its id and role.
    """
    fields = {"role": role, "name": name, "organizationId": organization, "expiresAt": expires}
    wanted = _checked(fields)
    api = place.server_if_any()
    if api is not None:
        created = api.post(_PATH, fields, KeyWithText)
    else:
        row, text = trio.run(offline.create_key, place.config(), wanted, _expiry(expires))
        created = KeyWithText(**msgspec.structs.asdict(key_view(row, None)), key=text.reveal())
    if as_json:
        show_json(created)
        return
    click.echo(f"{created.id}, role {role}; the key is shown only once:", err=True)
    click.echo(created.key)


@command.command("list")
@prints_json
@takes_place
def show(place: Place, as_json: bool) -> None:
    """List the keys, newest first, without the keys themselves."""
    api = place.server_if_any()
    if api is not None:
        found = gathered(lambda limit, cursor: api.get(target(_PATH, limit=limit, cursor=cursor), Page[KeyView]), None)
    else:
        rows = reversed(trio.run(offline.list_keys, place.config()))
        found = Page(data=[key_view(row, row.last_used_at) for row in rows], next_cursor=None)
    titles = ("ID", "ROLE", "NAME", "ORGANIZATION", "CREATED", "EXPIRES", "LAST USED")
    show_page(found, titles, _row, foldable={"NAME", "ORGANIZATION"}, as_json=as_json)


@command.command("revoke")
@click.argument("key_id", metavar="KEY_ID")
@prints_json
@takes_place
def revoke(place: Place, key_id: str, as_json: bool) -> None:
    """Revoke the key with the id KEY_ID (key_…), at once."""
    api = place.server_if_any()
    if api is not None:
        api.delete(f"{_PATH}/{part(key_id)}", Deleted)
    else:
        trio.run(offline.revoke_key, place.config(), key_id)
    show_result(Deleted(id=key_id), f"revoked {key_id}", as_json=as_json)


def _row(key: KeyView) -> tuple[str, ...]:
    times = (key.created_at, key.expires_at or "", key.last_used_at or "")
    return key.id, key.role, key.name, key.organization_id or "", *times


def _checked(fields: dict[str, str | None]) -> NewKey:
    try:
        return msgspec.convert(fields, NewKey)
    except msgspec.ValidationError as error:
        # Name the option instead of the API's field.
        (pointer, what), *_ = complaints(fields, NewKey)
        option = pointer.replace("/organizationId", "--organization").replace("/", "--")
        raise click.UsageError(f"{option} {what}") from error


def _expiry(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        at = parse_iso(text)
    except TimeError as error:
        raise click.BadParameter(f"takes {error}", param_hint="--expires") from error
    if at <= time.time():
        raise click.BadParameter("the time must be in the future", param_hint="--expires")
    return at
