"""Names that don't resolve, looked up for real and without a packet that leaves the machine.

Run by root, the server sees a resolver configuration of its own (a mount that only it sees), which names a resolver on
loopback that never answers: each lookup takes the system's whole patience. Run by anyone else, the machine's own
resolver is asked for names under `.invalid`, which no resolver passes on (RFC 6761), and mostly says no at once.
"""

import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HOST = "dead-{number}.bench.invalid"
RESOLVER = "127.53.0.53"
_MOUNT = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'


@dataclass(frozen=True, slots=True)
class Lookups:
    """How the server's lookups are made to fail: the wrapper of its command, and what to say of it."""

    wrapper: Sequence[str]
    note: str


@contextmanager
def dead_names(directory: Path) -> Iterator[Lookups]:
    """Arrange that names don't resolve for a server that is run under the wrapper."""
    configuration = directory / "resolv.conf"
    configuration.write_text(f"nameserver {RESOLVER}\n")
    wrapper = ["unshare", "--mount", "sh", "-c", _MOUNT, str(configuration)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        try:
            silent.bind((RESOLVER, 53))
        except OSError:
            wrapper = []
        if not wrapper or shutil.which("unshare") is None or subprocess.run([*wrapper, "true"], check=False).returncode:
            yield Lookups((), "dead names: the machine's own resolver is asked, and says no")
        else:
            yield Lookups(wrapper, "dead names: their resolver, on loopback, never answers")
