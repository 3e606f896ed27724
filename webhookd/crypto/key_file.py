"""Where the master key comes from: a file of ours, or a credential that the service manager hands over.

A file of ours is made, checked and replaced here. A credential is read-only by nature and belongs to the service
manager: it is never made, and replacing it is the operator's business.
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
_MEND = f"restore it from its copy, or make a new one for a new journal (head -c {KEY_BYTES} /dev/urandom | base64)"
_OTHERS = 0o077
# Where systemd lets the service's user in by an access list, the group's bits show that list's mask and no group.
_OTHERS_THAN_BY_ACL = 0o007


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPlace:
    """The one place that the configuration and the environment lead to; `chosen_by` names what chose it."""

    path: Path
    is_credential: bool
    chosen_by: str

    def __str__(self) -> str:
        return f"the credential {self.path.name} ({self.path})" if self.is_credential else str(self.path)

    def exists(self) -> bool:
        """Whether there is something, good or bad."""
        return os.path.lexists(self.path)

    def load(self) -> Secret[bytes]:
        """Read the key; MasterKeyError, which says what is wrong, where, and how to mend it."""
        return load_master_key(self.path, is_credential=self.is_credential)

    def create(self) -> Secret[bytes]:
        """Make a new key where there is none yet."""
        return create_master_key(self.path)

    @property
    def is_replaceable(self) -> bool:
        """Whether webhookd can put another key there: not for a credential, nor in a directory it can't write to."""
        return not self.is_credential and os.access(self._file.parent, os.W_OK)

    @property
    def next_path(self) -> Path:
        """Where a new key waits until it takes its place."""
        return self._file.with_name(self._file.name + _NEXT_SUFFIX)

    @property
    def _file(self) -> Path:
        # The file that a link leads to: a rename would take the link's place.
        return self.path.resolve()

    def stage(self, key: Secret[bytes]) -> None:
        """Write `key` beside the key in force, on disk when this returns; what an earlier try left is replaced."""
        try:
            self.next_path.unlink(missing_ok=True)
        except OSError as error:
            raise MasterKeyError(f"can't remove {self.next_path}: {error.strerror}") from error
        _write(self.next_path, key)
        reached("master_key.staged")

    def install(self, key: Secret[bytes]) -> None:
        """Put `key` in the place of the one in force, in one step that is on disk when this returns."""
        self.stage(key)
        file = self._file
        try:
            # The same owner: root may do this for a server that runs as another user.
            before = file.stat()
            os.chown(self.next_path, before.st_uid, before.st_gid)
            self.next_path.replace(file)
        except OSError as error:
            raise MasterKeyError(
                f"can't put the new master key at {file}: {error.strerror}; it waits in {self.next_path}: move it "
                "there by hand and start webhookd again"
            ) from error
        sync_directory(file.parent)


def find_key_place(config: Config, environ: Mapping[str, str]) -> KeyPlace:
    """Return where the master key is, or will be made.

    `secrets.master_key_file` comes first, then the service manager's credential where it hands one over, then a file
    beside the journal. A configured file among the service manager's credentials is one of them.
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
    return KeyPlace(path=config.journal.path.with_name(_OWN_FILE), is_credential=False, chosen_by="journal.path")


def missing_key(place: KeyPlace, config: Config, environ: Mapping[str, str]) -> MasterKeyError:
    """Return the error for a journal whose secrets no key is there for."""
    name = config.secrets.master_key_credential
    looked = (
        "" if place.chosen_by == "secrets.master_key_file" else f"; secrets.master_key_file is not set, and {name} "
    )
    if looked:
        directory = environ.get(CREDENTIALS_DIRECTORY)
        looked += f"is not in {directory}" if directory else f"comes with no ${CREDENTIALS_DIRECTORY}"
    return MasterKeyError(
        f"the master key {place} is missing, and the journal {config.journal.path} holds secrets that only it "
        f"opens{looked}: restore the file, set secrets.master_key_file to where it is, or have the service manager "
        f"hand it over (LoadCredential={name}:FILE)"
    )


def create_master_key(path: Path) -> Secret[bytes]:
    """Write a new master key to a file of mode 0600 that must not exist yet, and return the key.

    The file has its name only once it is whole and synced, and its directory entry is synced before this returns: a
    secret must never outlive its key, and half a key would keep the server from starting.
    """
    key = new_master_key()
    try:
        make_directory(path.parent, mode=0o750)
    except OSError as error:
        raise MasterKeyError(f"can't make the master key's directory {path.parent}: {error.strerror}") from error
    if os.path.lexists(path):
        raise _already_there(path)
    # The name under which a change of the key would wait as well, so that no copy outlives that.
    unfinished = path.with_name(path.name + _NEXT_SUFFIX)
    try:
        unfinished.unlink(missing_ok=True)
        _write(unfinished, key)
        # A rename would replace what has come meanwhile.
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
    """Read a master key file: standard base64 of 32 bytes, which nobody but its owner can read."""
    try:
        with open_file(path) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(_MOST_READ)
    except OSError as error:
        raise MasterKeyError(
            f"can't read the master key {path}: {error.strerror}; it must be a file that webhookd's user can read"
        ) from error
    if mode & (_OTHERS_THAN_BY_ACL if is_credential else _OTHERS):
        mend = "let the service manager alone write that directory" if is_credential else f"chmod 600 {path}"
        raise MasterKeyError(f"the master key {path} has mode {mode:04o} and others can read it: {mend}")
    return parse_master_key(text, f"the master key {path}")


def parse_master_key(text: bytes, what: str) -> Secret[bytes]:
    """Return the key that a text is: standard base64 of 32 bytes; `what` names the text in the error."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MasterKeyError(f"{what} isn't base64 of {KEY_BYTES} bytes: {_MEND}") from error
    if len(key) != KEY_BYTES:
        raise MasterKeyError(f"{what} holds {len(key)} bytes, not {KEY_BYTES}: {_MEND}")
    return Secret(key)


def format_master_key(key: Secret[bytes]) -> str:
    """Return the text of a key, as it stands in its file."""
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
        # Half a key would be in the way of the next try.
        path.unlink(missing_ok=True)
        raise MasterKeyError(f"can't write the master key {path}: {error.strerror}") from error


def _already_there(path: Path) -> MasterKeyError:
    return MasterKeyError(f"{path} is there already; a master key is never overwritten")
