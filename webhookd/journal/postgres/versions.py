"""Nodes of several versions on one database: a setting is refused while a node is registered that doesn't know it.

A change takes its number before this check, and holds that row until it commits. A node that registers holds it, too,
for a moment. So either the node is registered before the check, which finds it, or after the change's commit.
"""

from collections.abc import Sequence

from peewee import Database

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.journal.known_settings import KnownSettings

_FIND_OLDER = """
SELECT name, id, version FROM nodes WHERE version < %s AND expires_at > clock_timestamp()
ORDER BY version, name, id LIMIT 1
"""


def check_known(database: Database, known: KnownSettings, settings: Sequence[str]) -> None:
    """Raise Rejected CONFLICT if a registered node doesn't know one of the settings; the change has its number."""
    needed = max(known.version_of(setting) for setting in settings)
    older = database.execute_sql(_FIND_OLDER, (needed,)).fetchone()
    if older is None:
        return
    name, node, version = older
    unknown = [setting for setting in settings if known.version_of(setting) > version]
    named = ", ".join(_shown(setting) for setting in unknown)
    raise Rejected(
        ErrorCode.CONFLICT,
        f"the node {name} ({node}) runs a version of webhookd that doesn't know {named}: upgrade it or stop it, and "
        "try again",
        errors=tuple((_pointer(setting), f"not known to the node {name}") for setting in unknown),
    )


def _shown(setting: str) -> str:
    return setting.partition(".")[2]


def _pointer(setting: str) -> str:
    return "/" + _shown(setting).partition("=")[0].replace(".", "/")
