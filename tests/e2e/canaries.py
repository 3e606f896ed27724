"""Planted secrets and the search for them: in every spelling, in part, in whatever bytes a process writes."""

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

_SHORTEST = 12  # what is shorter than this is found by chance


def spellings(secret: bytes) -> set[bytes]:
    """Return the ways in which a secret may turn up: as it is, encoded, and half of each, since lines are cut."""
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
        # Inside longer base64 it begins at any of three places; the characters at its ends depend on its neighbours.
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(bytes(offset) + secret).rstrip(b"=")[(0, 2, 3)[offset] : -1])
    halves = {part for text in found for part in (text[: len(text) // 2], text[len(text) // 2 :])}
    return {text for text in found | halves if len(text) >= _SHORTEST}


@dataclass
class Canaries:
    """The secrets that were planted, by name, and all that was said, to be searched once every secret is known."""

    secrets: dict[str, bytes] = field(default_factory=dict)
    said: list[tuple[str, bytes, frozenset[str]]] = field(default_factory=list)

    def plant(self, name: str, secret: str | bytes) -> None:
        """Look for this from now on, and for what it decodes to."""
        raw = secret.encode() if isinstance(secret, str) else secret
        if raw.startswith(b"whsk_"):
            # The second half is the public key, which anybody may see.
            seed = base64.b64decode(raw.removeprefix(b"whsk_"))[:32]
            self.secrets |= {name: base64.b64encode(seed)[:-2], f"{name}, decoded": seed}
            return
        self.secrets[name] = raw
        if raw.startswith(b"whsec_"):
            text = raw.removeprefix(b"whsec_")
            self.secrets |= {f"{name}, without prefix": text, f"{name}, decoded": base64.b64decode(text)}

    def hear(self, where: str, data: bytes, shows: str | None = None) -> None:
        """Note what was said; it may show the one secret of that name."""
        self.said.append((where, data, frozenset() if shows is None else frozenset({shows})))

    def hear_files(self, directory: Path, *, except_for: frozenset[str] = frozenset()) -> list[str]:
        """Note every file in a directory, as it is now; return their names."""
        names = []
        for path in sorted(directory.rglob("*")):
            if path.is_file() and path.name not in except_for:
                self.hear(f"file {path.name}", path.read_bytes())
                names.append(path.name)
        return names

    def found(self) -> list[str]:
        """Return where which secret was said that must not be there."""
        wanted = {name: spellings(secret) for name, secret in self.secrets.items()}
        return [
            f"{name} in {where}"
            for where, data, shown in self.said
            for name, texts in wanted.items()
            if name.partition(",")[0] not in shown and any(text in data for text in texts)
        ]
