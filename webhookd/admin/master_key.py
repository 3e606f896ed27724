"""The master key in force and its rotation, for the machine's administrator only."""

from http import HTTPStatus
from typing import Annotated

from msgspec import Meta
from msgspec.structs import asdict

from webhookd.admin.auth import Permission
from webhookd.admin.operations import Answer, Call, NoBody, given, operation
from webhookd.admin.schemas import Input, NoQuery, Output
from webhookd.base.errors import ErrorCode, MasterKeyError
from webhookd.base.event_format import invalid
from webhookd.crypto.key_file import parse_master_key
from webhookd.jobs.key_rotation import RotationProgress, Stage
from webhookd.journal import Action

PATH = "/api/master-key"


class MasterKeyChange(Input, frozen=True, kw_only=True):
    """The new master key in the format of its file; without it webhookd generates one, if it can write the key file."""

    new_key: Annotated[str, Meta(max_length=64)] | None = None


class MasterKeyView(Output, frozen=True, kw_only=True):
    """The master key in force and the progress of its rotation; `instruction` is what the operator has to do."""

    key_id: str
    stage: Stage
    resealed: int
    instruction: str | None


async def get_master_key(call: Call[NoQuery, NoBody]) -> Answer[MasterKeyView]:
    """Read which master key is in force, and the progress of its rotation; control socket only."""
    return Answer(value=master_key_view(call.services.rotator.progress()))


async def rotate_master_key(call: Call[NoQuery, MasterKeyChange]) -> Answer[MasterKeyView]:
    """Start a rotation of the master key; control socket only."""
    new_key = None
    if call.body.new_key is not None:
        try:
            new_key = parse_master_key(call.body.new_key.encode(), "the new master key")
        except MasterKeyError as error:
            raise invalid((("/newKey", str(error)),)) from error
    progress = await call.services.rotator.begin(new_key, call.audit_entry(Action.MASTER_KEY_ROTATE, given(call.body)))
    return Answer(value=master_key_view(progress), status=HTTPStatus.ACCEPTED, headers={"Location": PATH})


def master_key_view(progress: RotationProgress) -> MasterKeyView:
    """Return the progress of a rotation as the API shows it."""
    return MasterKeyView(**asdict(progress))


OPERATIONS = (
    operation(get_master_key, f"GET {PATH}", Permission.ADMINISTER_HERE),
    operation(
        rotate_master_key,
        f"POST {PATH}/rotate",
        Permission.ADMINISTER_HERE,
        status=HTTPStatus.ACCEPTED,
        optional_body=True,
        refuses=(ErrorCode.CONFLICT, ErrorCode.JOURNAL_FULL),
    ),
)
