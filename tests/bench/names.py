"""Host names that don't resolve, with real lookups that send no packet off the machine.

If root runs the benchmark, the server has its own resolver configuration (a mount that only it sees) with a resolver on
loopback that never answers, so each lookup takes the system's full timeout. For any other user, the machine's resolver
is asked for names under `.invalid`, which no resolver forwards (RFC 6761), and mostly fails at once.
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
    """How the lookups fail: the wrapper of the server's command, and a note for the result."""

    wrapper: Sequence[str]
    note: str


@contextmanager
def dead_names(directory: Path) -> Iterator[Lookups]:
    """Make `HOST` names unresolvable for a server that runs under the wrapper."""
    configuration = directory / "resolv.conf"
    configuration.write_text(f"nameserver {RESOLVER}\n")
    wrapper = ["unshare", "--mount", "sh", "-c", _MOUNT, str(configuration)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        try:
            silent.bind((RESOLVER, 53))
        except OSError:
            wrapper = []
        if not wrapper or shutil.which("unshare") is None or subprocess.run([*wrapper, "true"], check=False).returncode:
            yield Lookups((), "names that don't resolve: asked of the machine's own resolver")
        else:
            yield Lookups(wrapper, "names that don't resolve: asked of a resolver on loopback that never answers")
