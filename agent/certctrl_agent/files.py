"""Files that are either old or new after a crash, and private before they have content."""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from certctrl_agent.errors import InstallError

PRIVATE = 0o600
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def create(path: Path, content: bytes, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Create a file. It has its owner and its mode before it has content."""
    descriptor = os.open(path, NEW, PRIVATE)
    try:
        if owner is not None and owner != (os.geteuid(), os.getegid()):
            give(descriptor, path, owner)
        os.fchmod(descriptor, mode)
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def give(descriptor: int, path: Path, owner: tuple[int, int]) -> None:
    try:
        os.fchown(descriptor, *owner)
    except PermissionError:
        raise InstallError(
            f"The file for {path.name} belongs to user {owner[0]} and group {owner[1]}, and the "
            f"agent runs as user {os.geteuid()}. Run it as root, or as that user."
        ) from None


def replace(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Write a file next to its place, then rename it. A crash leaves the old one or the new one."""
    with beside(path) as temporary:
        create(temporary, content, mode)
        os.replace(temporary, path)
    sync_folder(path.parent)


def link(path: Path, to: str) -> None:
    """Let `path` be a symbolic link, in one step."""
    with beside(path) as temporary:
        os.symlink(to, temporary)
        os.replace(temporary, path)
    sync_folder(path.parent)


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Yield a free name in the same folder. Remove a file of that name after an error."""
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.new")
    try:
        yield temporary
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path, default: Any) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return default


def write_json(path: Path, value: Any) -> None:
    replace(path, json.dumps(value, indent=1).encode())
