"""Plant secrets and search for them in everything that a process writes: in every encoding, whole and in part."""

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

_SHORTEST = 12  # bytes; a shorter text would be found by chance


def spellings(secret: bytes) -> set[bytes]:
    """Return the forms in which a secret may appear: unchanged, encoded, and half of each, since lines are cut off."""
    found = {
        secret,
        secret[::-1],
        secret.hex().encode(),
        secret.hex().upper().encode(),
        quote(secret, safe="").encode(),
        quote(secret, safe="").lower().encode(),
        quote_plus(secret).encode(),
        repr(secret)[2:-1].encode(),
        json.dumps(secret.decode("latin-1"))[1:-1].encode(),
    }
    for offset in range(3):
        # Inside a longer base64 text it has one of three offsets, and its first and last characters depend on the rest.
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(bytes(offset) + secret).rstrip(b"=")[(0, 2, 3)[offset] : -1])
    halves = {part for text in found for part in (text[: len(text) // 2], text[len(text) // 2 :])}
    return {text for text in found | halves if len(text) >= _SHORTEST}


@dataclass
class Canaries:
    """The planted secrets by name, and all collected output, which is searched when every secret is known.

    Each output has its place, its bytes and the names of secrets that it may show.
    """

    secrets: dict[str, bytes] = field(default_factory=dict)
    outputs: list[tuple[str, bytes, frozenset[str]]] = field(default_factory=list)

    def plant(self, name: str, secret: str | bytes) -> None:
        """Add a secret to search for, with its decoded form."""
        raw = secret.encode() if isinstance(secret, str) else secret
        if raw.startswith(b"whsk_"):
            # The second half is the public key, which is no secret.
            seed = base64.b64decode(raw.removeprefix(b"whsk_"))[:32]
            self.secrets |= {name: base64.b64encode(seed)[:-2], f"{name}, decoded": seed}
            return
        self.secrets[name] = raw
        if raw.startswith(b"whsec_"):
            text = raw.removeprefix(b"whsec_")
            self.secrets |= {f"{name}, without prefix": text, f"{name}, decoded": base64.b64decode(text)}

    def collect(self, where: str, data: bytes, shows: str | None = None) -> None:
        """Collect an output; it may show only the secret with the name `shows`."""
        self.outputs.append((where, data, frozenset() if shows is None else frozenset({shows})))

    def collect_files(self, directory: Path, *, except_for: frozenset[str] = frozenset()) -> list[str]:
        """Collect the current content of every file below a directory; return the names of the files."""
        names = []
        for path in sorted(directory.rglob("*")):
            if path.is_file() and path.name not in except_for:
                self.collect(f"file {path.name}", path.read_bytes())
                names.append(path.name)
        return names

    def found(self) -> list[str]:
        """Return each secret and place in which it must not appear but does."""
        wanted = {name: spellings(secret) for name, secret in self.secrets.items()}
        return [
            f"{name} in {where}"
            for where, data, shown in self.outputs
            for name, texts in wanted.items()
            if name.partition(",")[0] not in shown and any(text in data for text in texts)
        ]
