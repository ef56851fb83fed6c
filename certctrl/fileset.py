"""Replace files that belong together, such as a key and its chain: all of them, or none.

Each new file is written beside its place and synced first. So a full disk stops the run before
anything is changed. Then the files are renamed into place. When a rename fails, the old files are
put back. A process that is killed between two renames leaves files that do not match. The next run
replaces all of them.
"""

import fcntl
import os
import re
import secrets
import shutil
import signal
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")  # field 5 is the mount point: proc_pid_mountinfo(5)
ACL = "system.posix_acl_access"
OTHERS = 0o007
PRIVATE = 0o600
PUBLIC = 0o644
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class NotReplaced(Exception):
    """The files were not replaced. `what` says why, and what is in place now."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


@dataclass
class Move:
    """A file to write. `place` is its path after symbolic links are followed.

    `new` and `old` are paths beside it, for the new content and for a copy of the old file. `was`
    is the status of the old file, None when there was no file.
    """

    place: Path
    content: bytes
    is_secret: bool
    new: Path
    old: Path
    was: os.stat_result | None = None
    is_done: bool = False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of the folder, so that only one run writes there.

    Make the folder when it is missing. Raise NotReplaced when it cannot be made or opened.
    """
    with _told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Some file systems, such as NFS, cannot lock a folder. There the operator must avoid two
        # runs at once.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def replace(files: Mapping[Path, bytes], secret: set[Path]) -> list[Path]:
    """Put the files in place. Return the secret files that other users could read before.

    An existing file keeps its owner, group, mode and ACL. But a secret file that others could
    use becomes 0600. A new file is 0600 when it is in `secret`, else 0644. A symbolic link stays,
    and the file that it leads to is replaced. Raise NotReplaced.
    """
    moves = [_move(path, content, path in secret) for path, content in files.items()]
    places = [move.place for move in moves]
    if twice := next((path for path in places if places.count(path) > 1), None):
        raise NotReplaced(
            f"Two of the files lead to {twice}. Nothing was changed. Give each file its own path."
        )
    for move in moves:
        _remove_leftovers(move.place)
    try:
        for move in moves:
            with _told(move.place):
                _write(move)
    except BaseException:
        for move in moves:
            _forget(move)
        raise
    _swap(moves)
    return [move.place for move in moves if move.was and _is_too_open(move)]


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotReplaced(
            f"{path} cannot be written ({_words(error)}). Nothing was changed. Fix that, then "
            "run the export again."
        ) from None


def _words(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _move(path: Path, content: bytes, is_secret: bool) -> Move:
    with _told(path):
        place = Path(os.path.realpath(path))
        was = _stat(place)
    if was and not stat.S_ISREG(was.st_mode):
        raise NotReplaced(
            f"{place} exists, but is not a file. Nothing was changed. Give another path."
        )
    if place in _mount_points():
        what = (
            f"{place} is a mount of its own, and a file cannot be renamed over it."
            " Nothing was changed"
        )
        raise NotReplaced(f"{what} Mount its folder {place.parent} instead.")
    token = secrets.token_hex(4)
    new, old = (place.with_name(f".{place.name}.{token}{end}") for end in ("", ".old"))
    return Move(place, content, is_secret, new, old, was)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _mount_points() -> set[Path]:
    try:
        lines = MOUNTS.read_text().splitlines()
    except OSError:  # not Linux; there the rename itself fails on a mount point
        return set()
    where = (line.split(" ")[4] for line in lines)
    return {
        Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), each)) for each in where
    }


def _remove_leftovers(place: Path) -> None:
    """Remove the files that a killed run left beside `place`. They may contain keys."""
    ours = re.compile(rf"\.{re.escape(place.name)}\.[0-9a-f]{{8}}(\.old)?")
    with _told(place):
        for each in place.parent.iterdir():
            if ours.fullmatch(each.name):
                each.unlink(missing_ok=True)


def _write(move: Move) -> None:
    descriptor = os.open(move.new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(move.content)
        file.flush()
        if move.was:
            _keep_attributes(move, move.was)
        else:
            os.fchmod(descriptor, PRIVATE if move.is_secret else PUBLIC)
        os.fsync(descriptor)
    if move.was:
        try:
            os.link(move.place, move.old)
        except OSError:  # a file system without hard links
            shutil.copy2(move.place, move.old)


def _keep_attributes(move: Move, was: os.stat_result) -> None:
    is_now = move.new.stat()
    if (was.st_uid, was.st_gid) != (is_now.st_uid, is_now.st_gid):
        owner = was.st_uid if was.st_uid != is_now.st_uid else -1
        try:
            os.chown(move.new, owner, was.st_gid)
        except PermissionError:
            what = (
                f"{move.place} belongs to user {was.st_uid} and group {was.st_gid}. Only root "
                "can keep that."
            )
            raise NotReplaced(f"{what} Run the export as root. Nothing was changed.") from None
    # The new file may have the default ACL of its folder, and the old file may not have that ACL.
    # The OSError comes from a file system without ACLs.
    with suppress(OSError):
        os.removexattr(move.new, ACL)
    shutil.copystat(move.place, move.new)  # mode, ACL and SELinux context
    os.utime(move.new)
    if _is_too_open(move):
        os.chmod(move.new, PRIVATE)


def _is_too_open(move: Move) -> bool:
    return bool(move.is_secret and move.was and stat.S_IMODE(move.was.st_mode) & OTHERS)


def _swap(moves: list[Move]) -> None:
    """Rename the files into place. SIGINT, SIGTERM and SIGHUP wait until the end.

    When a rename fails, put the old files back and raise NotReplaced.
    """
    with _uninterrupted():
        for move in moves:
            try:
                move.new.replace(move.place)
                move.is_done = True
            except OSError as error:
                raise NotReplaced(
                    f"{move.place} cannot be replaced ({_words(error)}). {_restore(moves)}"
                ) from None
        for folder in {move.place.parent for move in moves}:
            _sync(folder)
        for move in moves:
            _forget(move)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold signals back until the end, then let each have its usual effect.

    A signal mask for this thread is not enough. Another thread of the process receives the signal,
    and Python then runs the handler in the main thread. Other threads run no handler at all.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    before = {
        number: signal.signal(number, lambda signum, frame: heard.append(signum))
        for number in INTERRUPTIONS
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        for signum in heard:
            signal.raise_signal(signum)


def _restore(moves: list[Move]) -> str:
    """Put the old files back, and return a text about it.

    An old file that cannot be put back stays beside its place.
    """
    kept = []
    for move in moves:
        try:
            if not move.is_done:
                _forget(move)
            elif move.was:
                move.old.replace(move.place)
            else:
                move.place.unlink(missing_ok=True)
        except OSError as error:
            kept.append(
                f"{move.place} cannot be restored ({_words(error)}). Its earlier content is "
                f"in {move.old}."
            )
    for folder in {move.place.parent for move in moves}:
        _sync(folder)
    return " ".join(kept) or "Nothing was changed."


def _forget(move: Move) -> None:
    """Remove the files beside its place. Ignore a failure; the next run removes them."""
    with suppress(OSError):
        move.new.unlink(missing_ok=True)
        move.old.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    with suppress(OSError):  # some file systems sync no folder; the files are synced already
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
