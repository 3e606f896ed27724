"""The master key: which one is in force, and its change. For the machine's own administrator alone."""

from http import HTTPStatus
from typing import Annotated

from msgspec import Meta
from msgspec.structs import asdict

from webhookd.admin.auth import Permission
from webhookd.admin.operations import Answer, Call, NoBody, given, operation
from webhookd.admin.schemas import Input, NoQuery, Output
from webhookd.base.errors import ErrorCode, MasterKeyError, Rejected
from webhookd.crypto.key_file import parse_master_key
from webhookd.jobs.key_rotation import RotationProgress, Stage
from webhookd.journal import Action

PATH = "/api/master-key"


class MasterKeyChange(Input, frozen=True, kw_only=True):
    """The key to change to, as its file has it; without one a key is made, where webhookd can put it in its place."""

    new_key: Annotated[str, Meta(max_length=64)] | None = None


class MasterKeyView(Output, frozen=True, kw_only=True):
    """The key that seals, by its id, and how far its change has come; `instruction` is what the operator has to do."""

    key_id: str
    stage: Stage
    resealed: int
    instruction: str | None


async def get_master_key(call: Call[NoQuery, NoBody]) -> Answer:
    """Say which master key is in force, and how far a change has come."""
    return Answer(value=master_key_view(call.services.rotator.progress()))


async def rotate_master_key(call: Call[NoQuery, MasterKeyChange]) -> Answer:
    """Begin to change the master key."""
    new_key = None
    if call.body.new_key is not None:
        try:
            new_key = parse_master_key(call.body.new_key.encode(), "the new master key")
        except MasterKeyError as error:
            raise Rejected(
                ErrorCode.VALIDATION_ERROR, f"/newKey: {error}", errors=(("/newKey", str(error)),)
            ) from error
    progress = await call.services.rotator.begin(new_key, call.audit_entry(Action.MASTER_KEY_ROTATE, given(call.body)))
    return Answer(value=master_key_view(progress), status=HTTPStatus.ACCEPTED, headers={"Location": PATH})


def master_key_view(progress: RotationProgress) -> MasterKeyView:
    """Return what is told of the master key and its change."""
    return MasterKeyView(**asdict(progress))


OPERATIONS = (
    operation(
        "getMasterKey",
        f"GET {PATH}",
        Permission.ADMINISTER_HERE,
        "Say which master key is in force, and how far its change has come; over the control socket alone",
        get_master_key,
        answers={HTTPStatus.OK: MasterKeyView},
    ),
    operation(
        "rotateMasterKey",
        f"POST {PATH}/rotate",
        Permission.ADMINISTER_HERE,
        "Change the master key, which goes on by itself; over the control socket alone",
        rotate_master_key,
        optional_body=True,
        answers={HTTPStatus.ACCEPTED: MasterKeyView},
        refuses=(ErrorCode.CONFLICT, ErrorCode.JOURNAL_FULL),
    ),
)
