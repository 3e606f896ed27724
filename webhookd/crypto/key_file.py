"""The source of the master key: webhookd's own file, or a credential of the service manager.

The file is created, checked and replaced here. A credential is read-only and belongs to the service manager: webhookd
never creates it, and the operator replaces it.
"""

import base64
import binascii
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from webhookd.base.errors import MasterKeyError
from webhookd.base.files import make_directory, open_file, sync_directory
from webhookd.base.secret import Secret
from webhookd.base.stages import reached
from webhookd.config import Config
from webhookd.crypto.vault import KEY_BYTES, new_master_key

CREDENTIALS_DIRECTORY = "CREDENTIALS_DIRECTORY"
"""The variable in which systemd names the directory of a service's credentials (systemd.exec(5), "CREDENTIALS")."""

_OWN_FILE = "master.key"
_NEXT_SUFFIX = ".new"
_MOST_READ = 1024
_REMEDY = f"restore it from its copy, or create one for a new journal (head -c {KEY_BYTES} /dev/urandom | base64)"
_OTHERS = 0o077
# systemd gives the service's user access by an ACL, whose mask is shown in place of the group's bits.
_OTHERS_THAN_BY_ACL = 0o007


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPlace:
    """The place of the master key; `chosen_by` is the configuration key that decided it."""

    path: Path
    is_credential: bool
    chosen_by: str

    def __str__(self) -> str:
        return f"the credential {self.path.name} ({self.path})" if self.is_credential else str(self.path)

    def exists(self) -> bool:
        """Whether there is anything at that path, also if it is no valid key."""
        return os.path.lexists(self.path)

    def load(self) -> Secret[bytes]:
        """Read the key; MasterKeyError if there is no valid one."""
        return load_master_key(self.path, is_credential=self.is_credential)

    def load_next(self) -> Secret[bytes] | None:
        """Read the key at `next_path`; None if there is none, MasterKeyError if it isn't valid."""
        path = self.next_path
        return load_master_key(path, is_credential=self.is_credential) if os.path.lexists(path) else None

    @property
    def is_replaceable(self) -> bool:
        """Whether webhookd can replace the key: not a credential, nor a file in a directory that it can't write to."""
        return not self.is_credential and os.access(self._file.parent, os.W_OK)

    @property
    def next_path(self) -> Path:
        """The path of a new key until it replaces the current one."""
        return self._file.with_name(self._file.name + _NEXT_SUFFIX)

    @property
    def _file(self) -> Path:
        # The target of a link: a rename would replace the link itself.
        return self.path.resolve()

    def stage(self, key: Secret[bytes]) -> None:
        """Write `key` to `next_path`, and to disk before this returns; replaces what an earlier attempt left there."""
        try:
            self.next_path.unlink(missing_ok=True)
        except OSError as error:
            raise MasterKeyError(f"can't remove {self.next_path}: {error.strerror}") from error
        _write(self.next_path, key)
        reached("master_key.staged")

    def install(self, key: Secret[bytes]) -> None:
        """Replace the current key with `key` atomically, on disk before this returns."""
        self.stage(key)
        file = self._file
        try:
            # Keep the owner: root may do this for a server that runs as another user.
            before = file.stat()
            os.chown(self.next_path, before.st_uid, before.st_gid)
            self.next_path.replace(file)
        except OSError as error:
            raise MasterKeyError(
                f"can't replace the master key {file}: {error.strerror}; the new key is in {self.next_path}: move it "
                "there by hand and start webhookd again"
            ) from error
        sync_directory(file.parent)


def find_key_place(config: Config, environ: Mapping[str, str]) -> KeyPlace:
    """Return where the master key is, or is to be created.

    This is `secrets.master_key_file`, else the service manager's credential if there is one, else a file next to the
    journal. If `secrets.master_key_file` is in the service manager's directory, it is a credential. Raises
    MasterKeyError for a journal in a database, which has no file next to it, if nothing else says where the key is.
    """
    secrets = config.secrets
    directory = environ.get(CREDENTIALS_DIRECTORY)
    if secrets.master_key_file is not None:
        return KeyPlace(
            path=secrets.master_key_file,
            is_credential=bool(directory) and secrets.master_key_file.parent == Path(directory or "").absolute(),
            chosen_by="secrets.master_key_file",
        )
    if directory:
        path = Path(directory).absolute() / secrets.master_key_credential
        if os.path.lexists(path):
            return KeyPlace(path=path, is_credential=True, chosen_by="secrets.master_key_credential")
    if config.journal.url is not None:
        raise MasterKeyError(
            "with journal.url the master key has no place next to the journal: set secrets.master_key_file to a file "
            "that is kept, the same key on every node, or have the service manager provide it "
            f"(LoadCredential={secrets.master_key_credential}:FILE)"
        )
    return KeyPlace(path=config.journal.path.with_name(_OWN_FILE), is_credential=False, chosen_by="journal.path")


def missing_key(place: KeyPlace, config: Config, environ: Mapping[str, str]) -> MasterKeyError:
    """Return the error for a journal with secrets whose key is missing."""
    name = config.secrets.master_key_credential
    looked = (
        "" if place.chosen_by == "secrets.master_key_file" else f"; secrets.master_key_file is not set, and {name} "
    )
    if looked:
        directory = environ.get(CREDENTIALS_DIRECTORY)
        looked += f"is not in {directory}" if directory else f"is not given, since ${CREDENTIALS_DIRECTORY} is not set"
    return MasterKeyError(
        f"the master key {place} is missing, and the journal {config.journal.name} holds secrets that only it "
        f"opens{looked}: restore the file, set secrets.master_key_file to where it is, or have the service manager "
        f"provide it (LoadCredential={name}:FILE)"
    )


def create_master_key(path: Path) -> Secret[bytes]:
    """Create a master key in a new file of mode 0600, and return it.

    The file gets its name only when it is complete and on disk, and the directory entry is on disk before this returns:
    no secret may be stored whose key could be lost, and an incomplete key would prevent a start.
    """
    key = new_master_key()
    try:
        make_directory(path.parent, mode=0o750)
    except OSError as error:
        raise MasterKeyError(f"can't create the master key's directory {path.parent}: {error.strerror}") from error
    if os.path.lexists(path):
        raise _already_there(path)
    # The same temporary name as for a rotation, which replaces what is left there: no copy of a key remains.
    unfinished = path.with_name(path.name + _NEXT_SUFFIX)
    try:
        unfinished.unlink(missing_ok=True)
        _write(unfinished, key)
        # Not a rename, which would replace a file that another process has created since.
        os.link(unfinished, path)
        unfinished.unlink()
        sync_directory(path.parent)
    except FileExistsError as error:
        raise _already_there(path) from error
    except OSError as error:
        raise MasterKeyError(f"can't write the master key {path}: {error.strerror}") from error
    reached("master_key.created")
    return key


def load_master_key(path: Path, *, is_credential: bool = False) -> Secret[bytes]:
    """Read a master key file: standard base64 of 32 bytes, readable by its owner only; MasterKeyError otherwise."""
    try:
        with open_file(path) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(_MOST_READ)
    except OSError as error:
        raise MasterKeyError(
            f"can't read the master key {path}: {error.strerror}; it must be a file that webhookd's user can read"
        ) from error
    if mode & (_OTHERS_THAN_BY_ACL if is_credential else _OTHERS):
        remedy = "let the service manager alone write that directory" if is_credential else f"chmod 600 {path}"
        raise MasterKeyError(f"the master key {path} has mode {mode:04o} and others can read it: {remedy}")
    return parse_master_key(text, f"the master key {path}")


def parse_master_key(text: bytes, what: str) -> Secret[bytes]:
    """Decode a key, standard base64 of 32 bytes; MasterKeyError, in which `what` names the text."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MasterKeyError(f"{what} isn't base64 of {KEY_BYTES} bytes: {_REMEDY}") from error
    if len(key) != KEY_BYTES:
        raise MasterKeyError(f"{what} holds {len(key)} bytes, not {KEY_BYTES}: {_REMEDY}")
    return Secret(key)


def format_master_key(key: Secret[bytes]) -> str:
    """Return a key as text, as in its file."""
    return base64.b64encode(key.reveal()).decode()


def _write(path: Path, key: Secret[bytes]) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise _already_there(path) from error
    except OSError as error:
        raise MasterKeyError(f"can't write the master key {path}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(format_master_key(key) + "\n")
            file.flush()
            os.fsync(file.fileno())
        sync_directory(path.parent)
    except OSError as error:
        # An incomplete key would fail the next attempt.
        path.unlink(missing_ok=True)
        raise MasterKeyError(f"can't write the master key {path}: {error.strerror}") from error


def _already_there(path: Path) -> MasterKeyError:
    return MasterKeyError(f"{path} exists; a master key is never overwritten")
