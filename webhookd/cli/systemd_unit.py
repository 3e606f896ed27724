"""`webhookd systemd-unit`: a systemd unit with only the privileges that the server needs.

PrivateUsers is not used: in a user namespace every other user is shown as 65534 (unix(7)), so neither the ingest
socket's lists nor the control socket could identify a peer.
"""

import os
import pwd
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from webhookd.base.errors import CommandError
from webhookd.base.program import archive, is_one_file, own_command, own_file
from webhookd.cli.options import FilePath, load
from webhookd.config import Config

_STANDARD_CONFIG = Path("/etc/webhookd/config.toml")
_STANDARD_KEY = Path("/etc/webhookd/master.key")
_STATE = Path("/var/lib")
_RUNTIME = Path("/run")
# In addition to the requests in flight, the two edges may take ten seconds each to drain, and the journal its last
# commit.
STOP_MARGIN_SECONDS = 45
_DEFAULT_DRAIN_SECONDS = 30
_INSTALL = (
    "install webhookd where services can read, with an interpreter that isn't in a home directory "
    "(/usr/bin/python3 -m venv /opt/webhookd), or name another program with --executable"
)

_UNIT = """\
[Unit]
Description=webhookd: durable, ordered, signed webhooks
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
# A single file has a second process that removes what was unpacked: only the server gets SIGTERM.
KillMode=mixed
User={user}
Group={group}
ExecStart={command} serve --config {config}
# Checks the configuration and logs what a restart would change; nothing is applied.
ExecReload=/bin/sh -c 'kill -HUP $MAINPID'
# 2 (configuration) and 70 (journal) can't be fixed by another start.
Restart=on-failure
RestartSec=2
RestartPreventExitStatus=2 70
# The event loop notifies the watchdog; if it is stuck, the server is restarted.
WatchdogSec=30
# A start may migrate a large journal, and a stop waits for requests in flight.
TimeoutStartSec=600
TimeoutStopSec={stop_seconds}
LimitNOFILE=65536
UMask=0077

# Where it may write, and what it may read. The master key stays root's: systemd provides it.
{places}
LoadCredential=webhookd-master-key:{key}
Environment=WEBHOOKD_SECRETS__MASTER_KEY_FILE=%d/webhookd-master-key
{password}
# Everything else is hidden or read-only. No PrivateUsers: it hides the users that connect to the sockets.
ProtectSystem=strict
ProtectHome={protect_home}
PrivateTmp=yes
PrivateDevices=yes
PrivateMounts=yes
DevicePolicy=closed
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectProc=invisible
ProcSubset=pid
RemoveIPC=yes
KeyringMode=private

# What the process may do. It needs Netlink for the machine's own addresses, to which it must not connect.
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


@click.command("systemd-unit")
@click.option(
    "--config",
    "config_file",
    type=FilePath(),
    help="The configuration to run with; its paths and times go into the unit. Without one: "
    "/etc/webhookd/config.toml, the journal in /var/lib/webhookd, the sockets in /run/webhookd.",
)
@click.option("--user", default="webhookd", show_default=True, help="The user to run as.")
@click.option("--group", metavar="GROUP", help="The group to run as, whose members may send events. Default: USER.")
@click.option(
    "--executable",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The webhookd to run. Default: this one.",
)
@click.option(
    "--master-key",
    type=FilePath(),
    help="The master key's file; only root needs to read it. Default: the configuration's.",
)
@click.option(
    "--backups",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="DIR",
    help="A directory for backups, such as one on another disk; may be repeated.",
)
def command(
    *,
    config_file: Path | None,
    user: str,
    group: str | None,
    executable: Path | None,
    master_key: Path | None,
    backups: tuple[Path, ...],
) -> None:
    """Print a hardened systemd unit, to be saved as /etc/systemd/system/webhookd.service.

    `systemd-analyze security` rates it. The master key and the directory of the configuration must exist before the
    first start: `webhookd init` creates them. A program that the service's user can't reach, such as one in a home
    directory, is refused: systemd could not start it.
    """
    config = None if config_file is None else load(config_file)
    drain_seconds = _DEFAULT_DRAIN_SECONDS if config is None else config.delivery.drain_seconds
    start, needed = _program(executable)
    for path in sorted(needed):
        _check_reachable(path, user)
    paths = [*needed, (config_file or _STANDARD_CONFIG).absolute(), *([] if config is None else _writable(config))]
    text = _UNIT.format(
        user=user,
        group=group or user,
        command=start,
        config=_quoted((config_file or _STANDARD_CONFIG).absolute()),
        stop_seconds=round(drain_seconds) + STOP_MARGIN_SECONDS,
        places="\n".join(_places(config, backups)),
        key=_quoted((master_key or _master_key(config)).absolute()),
        password="" if config is None else _password(config),
        # Files in a home directory can only be read if home directories are not hidden.
        protect_home="read-only" if any(path.parts[:2] in {("/", "home"), ("/", "root")} for path in paths) else "yes",
    )
    click.echo(text, nl=False)


def _program(executable: Path | None) -> tuple[str, set[Path]]:
    """Return the command that starts the server, and the files that it needs."""
    called = Path(sys.argv[0])
    if executable is not None:
        words, needed = [executable.absolute()], {executable}
    elif is_one_file():
        words, needed = [own_file()], {own_file()}
    elif (packed := archive()) is not None:
        raise CommandError(
            f"this webhookd runs from the archive {packed}, which may unpack itself into a home directory that the "
            f"service doesn't have: {_INSTALL}"
        )
    elif called.name == "webhookd":
        words, needed = [called.absolute()], {called, Path(sys.executable)}
    else:
        words, needed = [Path(word) for word in own_command()], {Path(sys.executable)}
    absolute = {path.absolute() for path in needed}
    # A virtual environment's interpreter is a link, which may lead into a home directory.
    return " ".join(_quoted(word) for word in words), absolute | {path.resolve() for path in absolute}


def _check_reachable(program: Path, user: str) -> None:
    """Raise CommandError if the service's user can't reach the program: systemd would fail with 203/EXEC."""
    for directory in program.parents:
        if directory.is_dir() and not _may_enter(directory, user):
            raise CommandError(f"the service can't start {program}: user {user} may not enter {directory}; {_INSTALL}")


def _may_enter(directory: Path, user: str) -> bool:
    found = directory.stat()
    try:
        known = pwd.getpwnam(user)
    except KeyError:  # it is created later, and is in no existing group
        return bool(found.st_mode & 0o001)
    if found.st_uid == known.pw_uid:
        return bool(found.st_mode & 0o100)
    if found.st_gid in os.getgrouplist(user, known.pw_gid):
        return bool(found.st_mode & 0o010)
    return bool(found.st_mode & 0o001)


def _master_key(config: Config | None) -> Path:
    if config is None:
        return _STANDARD_KEY
    if config.secrets.master_key_file is not None:
        return config.secrets.master_key_file
    return _STANDARD_KEY if config.journal.url is not None else config.journal.path.with_name("master.key")


def _password(config: Config) -> str:
    """Return the lines for the file with the database's password, which also stays root's."""
    if config.journal.password_file is None:
        return ""
    return (
        f"LoadCredential=webhookd-database-password:{_quoted(config.journal.password_file)}\n"
        "Environment=WEBHOOKD_JOURNAL__PASSWORD_FILE=%d/webhookd-database-password\n"
    )


def _writable(config: Config) -> list[Path]:
    journal = [] if config.journal.url is not None else [config.journal.path]
    files = (*journal, config.ingest.socket, config.server.control_socket)
    return list(dict.fromkeys(path.parent for path in files))


def _places(config: Config | None, backups: Iterable[Path]) -> Iterable[str]:
    """Yield the lines for the directories: systemd creates those in /var/lib and /run, others must exist."""
    if config is None:
        yield "# config.toml must say so too: journal.path = /var/lib/webhookd/webhookd.db, ingest.socket and"
        yield "# server.control_socket below /run/webhookd, secrets.master_key_file = /etc/webhookd/master.key."
    for directory in (_STATE / "webhookd", _RUNTIME / "webhookd") if config is None else _writable(config):
        if directory.parent == _STATE:
            yield f"StateDirectory={_escaped(directory.name)}\nStateDirectoryMode=0750"
        elif directory.parent == _RUNTIME:
            yield f"RuntimeDirectory={_escaped(directory.name)}\nRuntimeDirectoryMode=0750"
        else:
            yield f"ReadWritePaths={_quoted(directory)}"
    for directory in backups:
        # It may be missing, such as one on a disk that isn't mounted.
        yield f"ReadWritePaths={_quoted(directory.absolute(), prefix='-')}"


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(path: Path, *, prefix: str = "") -> str:
    """Return a path as systemd reads it: with escaped specifiers, and quoted if necessary."""
    text = prefix + _escaped(str(path))
    if not any(mark in text for mark in " \t'\"\\"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
