"""`webhookd systemd-unit`: a unit for systemd that takes from the server all that it doesn't need.

PrivateUsers is left out on purpose: in a user namespace every other user reads as 65534 (unix(7)), and then neither the
ingest socket's lists nor the control socket's check can tell who is asking.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import click

from webhookd.cli.options import load
from webhookd.config import Config
from webhookd.onefile import is_one_file, own_command

_STANDARD_CONFIG = Path("/etc/webhookd/config.toml")
_STANDARD_KEY = Path("/etc/webhookd/master.key")
_STATE = Path("/var/lib")
_RUNTIME = Path("/run")
# Beside the requests in flight the two edges may take ten seconds each to rest, and the journal its last commit.
_STOP_MARGIN_SECONDS = 45
_DEFAULT_DRAIN_SECONDS = 30

_UNIT = """\
[Unit]
Description=webhookd: durable, ordered, signed webhooks
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
# A single file unpacks itself and runs the server in a process of its own, which it passes the signal on to.
NotifyAccess=all
KillMode=mixed
User={user}
Group={group}
ExecStart={command} serve --config {config}
# 2 is a configuration and 70 a journal that another start doesn't mend.
Restart=on-failure
RestartSec=2
RestartPreventExitStatus=2 70
# The event loop itself says that it lives; one that is stuck is started again.
WatchdogSec=30
# A migration of a large journal comes before ready, and requests in flight before the end.
TimeoutStartSec=600
TimeoutStopSec={stop_seconds}
LimitNOFILE=65536
UMask=0077

# Where it may write, and what it is given to read. The master key stays root's: systemd hands it over.
{places}
LoadCredential=webhookd-master-key:{key}
Environment=WEBHOOKD_SECRETS__MASTER_KEY_FILE=%d/webhookd-master-key

# Everything else of the machine is out of sight or read-only. No PrivateUsers: it hides who connects to the sockets.
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

# What the process may do. Netlink tells it the machine's own addresses, to which it must not connect.
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
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The configuration to run with; its paths and times go into the unit. Without one: "
    "/etc/webhookd/config.toml, the journal in /var/lib/webhookd, the sockets in /run/webhookd.",
)
@click.option("--user", default="webhookd", show_default=True, help="The user to run as.")
@click.option("--group", metavar="GROUP", help="The group to run as, and of those who may send events. Default: USER.")
@click.option(
    "--executable",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The webhookd to run. Default: the one that is asked.",
)
@click.option(
    "--master-key",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The master key's file, which root alone need be able to read. Default: the configuration's.",
)
def command(
    config_file: Path | None, user: str, group: str | None, executable: Path | None, master_key: Path | None
) -> None:
    """Print a hardened unit for systemd, to be saved as /etc/systemd/system/webhookd.service.

    systemd-analyze security scores it. The master key and the directory of the configuration must be there before the
    first start: `webhookd init` makes them.
    """
    config = None if config_file is None else load(config_file)
    drain_seconds = _DEFAULT_DRAIN_SECONDS if config is None else config.delivery.drain_seconds
    paths = [(config_file or _STANDARD_CONFIG).absolute(), *([] if config is None else _writable(config))]
    text = _UNIT.format(
        user=user,
        group=group or user,
        command=_command(executable),
        config=_quoted((config_file or _STANDARD_CONFIG).absolute()),
        stop_seconds=round(drain_seconds) + _STOP_MARGIN_SECONDS,
        places="\n".join(_places(config)),
        key=_quoted((master_key or _master_key(config)).absolute()),
        # A configuration in somebody's home can only be read if homes are there.
        protect_home="read-only" if any(path.parts[:2] in {("/", "home"), ("/", "root")} for path in paths) else "yes",
    )
    click.echo(text, nl=False)


def _command(executable: Path | None) -> str:
    if executable is not None:
        return _quoted(executable.absolute())
    called = Path(sys.argv[0])
    if called.name == "webhookd" and not is_one_file():
        return _quoted(called.absolute())
    program, *arguments = own_command()
    return " ".join([_quoted(Path(program)), *arguments])


def _master_key(config: Config | None) -> Path:
    if config is None:
        return _STANDARD_KEY
    return config.secrets.master_key_file or config.journal.path.with_name("master.key")


def _writable(config: Config) -> list[Path]:
    files = (config.journal.path, config.ingest.socket, config.server.control_socket)
    return list(dict.fromkeys(path.parent for path in files))


def _places(config: Config | None) -> Iterable[str]:
    """Yield the lines for the directories: systemd makes those in its own places, others must be there."""
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


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(path: Path) -> str:
    """Write a path as systemd reads it: specifiers escaped, quoted where it holds what ends a word."""
    text = _escaped(str(path))
    if not any(mark in text for mark in " \t'\"\\"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
