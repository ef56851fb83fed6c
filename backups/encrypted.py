"""The file of a backup: lines of JSON, compressed with gzip, encrypted with age.

https://age-encryption.org/v1 describes the format. So `age -d -i KEY FILE | zcat` reads a backup
without certctrl. The file is encrypted for recovery keys whose private part is on no server. Each
part of 64 KiB is authenticated, and the last one is marked. So a file that was changed or cut off
is refused. Both directions hold a few parts in memory, never the whole file.
"""

import fcntl
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyrage
from django.views.decorators.debug import sensitive_variables

GZIP = 31  # zlib's number for a window of 32 KiB with the header of gzip
DAMAGED = "{} is not a backup, or it is damaged or not complete. Use another copy."


class BackupProblem(Exception):
    """A backup cannot be made or restored. `what` says why and what to do."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


def recipients(texts: Iterable[str]) -> list[pyrage.x25519.Recipient]:
    """Return the public recovery keys (age1…). Raise BackupProblem."""
    found = []
    for text in texts:
        try:
            found.append(pyrage.x25519.Recipient.from_str(text))
        except pyrage.RecipientError:
            raise BackupProblem(
                "A recipient is not a public recovery key. age-keygen prints one, which begins "
                "with age1."
            ) from None
    if not found:
        raise BackupProblem(
            "No recovery key is named. Make one on another machine with age-keygen. Put its "
            "public part into BACKUP_RECIPIENTS, or give it with --recipient."
        )
    return found


@sensitive_variables()
def recovery_keys(path: str | Path) -> list[pyrage.x25519.Identity]:
    """Return the private recovery keys in a file as age-keygen writes it. Raise BackupProblem."""
    try:
        lines = Path(path).read_text("ascii", "replace").splitlines()
    except OSError as exc:
        raise BackupProblem(f"{path} cannot be read ({os.strerror(exc.errno or 0)}).") from None
    keys = []
    for line in (each.strip() for each in lines):
        if line and not line.startswith("#"):
            try:
                keys.append(pyrage.x25519.Identity.from_str(line))
            except pyrage.IdentityError:
                keys.clear()
                break
    if not keys:
        raise BackupProblem(
            f"{path} is not a recovery key. age-keygen writes one, in a line that begins with "
            "AGE-SECRET-KEY-1."
        )
    return keys


def _opened(part: Path) -> int:
    """Open the file for this run alone, and empty it. A run that was killed may have left it."""
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise BackupProblem(f"{part} cannot be written ({os.strerror(exc.errno or 0)}).") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(part).st_ino != os.fstat(descriptor).st_ino:
            raise BlockingIOError
    except OSError:
        os.close(descriptor)
        raise BackupProblem(
            f"Another run writes {part}. Wait for its end, or choose another name."
        ) from None
    os.ftruncate(descriptor, 0)
    os.fchmod(descriptor, 0o600)
    return descriptor


def place(part: Path, path: Path) -> None:
    """Give the finished file its name. Raise FileExistsError when there is a file of that name."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError from None
        part.rename(path)


def write(
    path: Path, lines: Iterable[bytes], recipients: Sequence[pyrage.x25519.Recipient]
) -> None:
    """Write the lines into a new file of mode 0600. It gets its name once it is complete."""
    if path.exists():
        raise BackupProblem(f"{path} exists already. Choose another name.")
    part = path.with_name(f"{path.name}.part")
    descriptor = _opened(part)
    with os.fdopen(descriptor, "wb") as file:
        compressed = Compressed(lines)
        try:
            pyrage.encrypt_io(compressed, file, recipients)
            file.flush()
            os.fsync(descriptor)
            place(part, path)
        except pyrage.EncryptError as exc:
            raise compressed.failure or BackupProblem(f"{part}: {exc}") from None
        except FileExistsError:
            raise BackupProblem(f"{path} exists already. Choose another name.") from None
        finally:
            part.unlink(missing_ok=True)  # while the lock is held: it is the file of no other run
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(
    path: str | Path, keys: Sequence[pyrage.x25519.Identity], take: Callable[[bytes], None]
) -> None:
    """Call `take` with each line of the file. Raise BackupProblem, also when the file is damaged.

    A damage is found when it is reached. So nothing that `take` did may stay if this raises.
    """
    lines = Lines(take)
    try:
        with open(path, "rb") as file:
            pyrage.decrypt_io(file, lines, keys)
        lines.end()
    except Exception as exc:
        if lines.failure:
            raise lines.failure from None
        if isinstance(exc, pyrage.DecryptError) and "No matching keys" in str(exc):
            raise BackupProblem(
                f"This recovery key does not open {path}. Use the private part of a key that "
                "the backup was made for."
            ) from None
        if isinstance(exc, OSError) and exc.errno:
            raise BackupProblem(f"{path} cannot be read ({os.strerror(exc.errno)}).") from None
        if isinstance(exc, pyrage.DecryptError | OSError | zlib.error):
            raise BackupProblem(DAMAGED.format(path)) from None
        raise


class Compressed:
    """Lines as a file that can be read once, compressed."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self._zip: Any = zlib.compressobj(wbits=GZIP)
        self._ready = bytearray()
        self.failure: Exception | None = None  # pyrage keeps only its text

    def read(self, size: int) -> bytes:
        try:
            while self._zip and len(self._ready) < size:
                self._fill()
        except Exception as exc:
            self.failure = exc
            raise
        chunk = bytes(self._ready[:size])
        del self._ready[:size]
        return chunk

    def _fill(self) -> None:
        line = next(self._lines, None)
        if line is None:
            self._ready += self._zip.flush()
            self._zip = None
        else:
            self._ready += self._zip.compress(line + b"\n")


class Lines:
    """A file that can be written once, and calls `take` with each line of its text."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._zip = zlib.decompressobj(wbits=GZIP)
        self._rest = b""
        self.failure: Exception | None = None

    def write(self, chunk: bytes) -> int:
        *lines, self._rest = (self._rest + self._zip.decompress(chunk)).split(b"\n")
        try:
            for line in lines:
                self._take(line)
        except Exception as exc:
            self.failure = exc
            raise
        return len(chunk)

    def flush(self) -> None:
        """Do nothing. pyrage calls this."""

    def end(self) -> None:
        """Raise zlib.error unless the text was complete."""
        if not self._zip.eof or self._rest:
            raise zlib.error
