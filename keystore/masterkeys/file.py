"""Master keys in the file of MASTER_KEYS_PATH.

Each line is `id:base64 of 32 bytes`. The first key wraps. The file is replaced by a rename and
never written in place. Every process checks the file before each use of a key. So a key can be
rotated while the server runs.
"""

import fcntl
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.utils.translation import gettext_noop
from django.views.decorators.debug import sensitive_variables

from certctrl.sentences import sentence as _
from keystore.masterkeys import aes
from keystore.masterkeys.aes import AESKey
from keystore.masterkeys.errors import MasterKeyProblem

WHERE = _("The file of MASTER_KEYS_PATH")
NOT_READ = gettext_noop("%(where)s cannot be read (%(strerror)s). Check its path and its mode.")
NOT_LOCKED = gettext_noop("%(where)s cannot be locked (%(strerror)s). Check its path and its mode.")
NOT_REPLACED = gettext_noop(
    "%(where)s cannot be replaced (%(strerror)s). Check its path and its mode."
)
Signature = tuple[int, ...]


class FileKeys:
    """The keys of one file.

    The file must have mode 0600 or 0400, and belong to the user that runs this process.
    """

    def __init__(self, path: str | Path) -> None:
        self._given = Path(path).absolute()
        self._seen: tuple[Signature, dict[str, AESKey]] | None = None

    @property
    def path(self) -> Path:
        """Return the file itself, because the rename must not replace a link to it.

        The link is resolved each time. Kubernetes changes the link `..data` for a new version.
        """
        return self._given.resolve()

    def keys(self) -> dict[str, AESKey]:
        """Return the keys by id, the wrapping key first. Raise MasterKeyProblem.

        The file is read again if it has changed.
        """
        seen = self._seen
        if seen is None or seen[0] != self._signature_now():
            return self.read_again()
        return seen[1]

    @sensitive_variables()
    def read_again(self) -> dict[str, AESKey]:
        """Read the file even if it looks unchanged. Return its keys. Raise MasterKeyProblem.

        Two changes may have the same timestamp.
        """
        signature, text = self._read()
        keys = aes.parse(text, WHERE)
        self._seen = signature, keys
        return keys

    @sensitive_variables()
    def put_first(self, key: AESKey) -> None:
        """Make `key` the wrapping key and keep the others. The file must be locked."""
        text = self._read()[1]
        self._replace(f"{key.line()}\n{text}")

    @sensitive_variables()
    def keep_only(self, ids: Collection[str]) -> None:
        """Remove all other keys permanently. The file must be locked."""
        kept = [key.line() for key in self.read_again().values() if key.id in ids]
        self._replace("\n".join([*kept, ""]))

    @sensitive_variables()
    def create(self, lines: Iterable[str]) -> None:
        """Write the file with these keys, in their text format. Do nothing if the file exists."""
        with self.locked(wait=True):
            if not self.path.exists():
                self._replace("\n".join([*lines, ""]))

    @contextmanager
    def locked(self, wait: bool = False) -> Iterator["Intent"]:
        """Hold the lock of the file, which a process needs to change the file.

        If another process holds the lock, wait for it with `wait`, else raise MasterKeyProblem.
        """
        try:
            descriptor = os.open(self._beside("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise _failed(NOT_LOCKED, exc) from None
        try:
            _lock(descriptor, wait)
            yield Intent(descriptor)
        finally:
            os.close(descriptor)

    def _signature_now(self) -> Signature:
        try:
            return _signature(os.stat(self.path))
        except OSError as exc:
            raise _failed(NOT_READ, exc) from None

    def _read(self) -> tuple[Signature, str]:
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                _check_ours_alone(status)
                return _signature(status), file.read().decode("ascii", "replace")
        except OSError as exc:
            raise _failed(NOT_READ, exc) from None

    @sensitive_variables()
    def _replace(self, text: str) -> None:
        new = self._beside("new")
        try:
            # A process that died here left this file behind. The name is fixed, so that at most
            # one such file with keys exists.
            new.unlink(missing_ok=True)
            _write(new, text)
            os.replace(new, self.path)
            _sync_folder(self.path.parent)
        except OSError as exc:
            raise _failed(NOT_REPLACED, exc) from None

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{suffix}")


class Intent:
    """The id of the key that the rotation in progress creates. It is stored in the lock file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self) -> str:
        """Return the id of an interrupted rotation, or an empty string."""
        return os.pread(self._descriptor, 64, 0).decode("ascii", "replace")

    def write(self, key_id: str) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, key_id.encode(), 0)
        os.fsync(self._descriptor)


def create_file(path: str | Path) -> None:
    """Create the file with one new key, mode 0600. Do nothing if the file exists."""
    FileKeys(path).create([aes.generate("1").line()])


def _signature(status: os.stat_result) -> Signature:
    # ctime changes with chmod, so a file that others may now read is checked again.
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _check_ours_alone(status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        raise MasterKeyProblem(
            _("%(where)s is not a regular file. Name a regular file.", where=WHERE)
        )
    if status.st_uid != os.geteuid():
        raise MasterKeyProblem(
            _(
                "%(where)s belongs to another user. Run this as its owner, or use chown.",
                where=WHERE,
            )
        )
    if mode & 0o177:
        raise MasterKeyProblem(
            _(
                "%(where)s has mode %(mode)s, so other users may have read it. Run chmod 600 on "
                "it.",
                where=WHERE,
                mode=f"{mode:04o}",
            )
        )


def _failed(text: str, exc: OSError) -> MasterKeyProblem:
    return MasterKeyProblem(_(text, where=WHERE, strerror=os.strerror(exc.errno or 0)))


def _lock(descriptor: int, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise MasterKeyProblem(
            _("Another rotation of the master key is in progress. Wait until it has ended.")
        ) from None


@sensitive_variables()
def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
