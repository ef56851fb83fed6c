"""Versions of the files of one certificate or CA, switched by one rename.

Each target is a symbolic link through one other link, the switch:

    /etc/nginx/tls/www.key -> .certctrl-agent/cert-7/<file>
    /etc/nginx/tls/.certctrl-agent/cert-7 -> cert-7.4f0c2a19

So all targets change in the moment in which the switch is renamed. A crash at any other moment
leaves every target as it was.
"""

import glob
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from certctrl_agent import files
from certctrl_agent.errors import InstallError
from certctrl_agent.plan import Subject

FOLDER = ".certctrl-agent"
PUBLIC_MODE = 0o644
OTHERS = 0o007


@dataclass(frozen=True)
class Content:
    """The bytes of a file, with its mode and its owner (user and group)."""

    raw: bytes
    mode: int
    owner: tuple[int, int]


class Versions:
    """`live` is the folder for targets that are not all in one folder."""

    def __init__(self, subject: Subject, targets: Iterable[str], live: Path) -> None:
        self.name = f"{subject[0]}-{subject[1]}"
        self.targets = [Path(target) for target in targets]
        self.live = live
        parents = {target.parent for target in self.targets}
        self.is_shared = len(parents) == 1
        self.home = parents.pop() / FOLDER if self.is_shared else live
        self.switch = self.home / self.name

    # --- What is there ---

    def check(self) -> None:
        """Raise InstallError if a target is not safe to replace."""
        for target in self.targets:
            check_way(target)
            found = lstat(target)
            if found is None or stat.S_ISREG(found.st_mode) or self.is_ours(target):
                continue
            if stat.S_ISLNK(found.st_mode):
                raise InstallError(
                    f"The target {target} is a link to {os.readlink(target)}. Remove the link, "
                    "or name the file itself in the plan."
                )
            raise InstallError(f"The target {target} is not a file.")
        if self.targets:
            check_home(self.home)

    def is_ours(self, target: Path) -> bool:
        """Whether the target is a link that this agent made, now or under an earlier plan."""
        file = file_name(target)
        made = (f"{FOLDER}/{self.name}/{file}", f"{self.live}/{self.name}/{file}")
        return target.is_symlink() and os.readlink(target) in made

    def wanted_link(self, target: Path) -> str:
        home = FOLDER if self.is_shared else str(self.live)
        return f"{home}/{self.name}/{file_name(target)}"

    def current(self) -> str | None:
        """Return the name of the version that the switch shows."""
        return os.readlink(self.switch) if self.switch.is_symlink() else None

    def are_linked(self) -> bool:
        return all(
            target.is_symlink() and os.readlink(target) == self.wanted_link(target)
            for target in self.targets
        )

    def shows(self, version: str) -> bool:
        """Whether every target has the file of this version."""
        has_all = all(target.exists() for target in self.targets)
        return self.current() == version and self.are_linked() and has_all

    def content(self, target: Path) -> Content | None:
        """Return what a reader of the target gets now, or None."""
        flags = os.O_RDONLY | os.O_CLOEXEC | (0 if self.is_ours(target) else os.O_NOFOLLOW)
        try:
            descriptor = os.open(target, flags)
        except FileNotFoundError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            mode = stat.S_IMODE(found.st_mode)
            return Content(file.read(), mode, (found.st_uid, found.st_gid))

    # --- Changes ---

    def stage(self, contents: dict[str, bytes], secret: set[str]) -> str:
        """Write a version that nothing shows yet. Return its name.

        A file keeps the mode and the owner of the one that it replaces. Others cannot read a
        secret in any case.
        """
        new = dict[str, Content]()
        for target in self.targets:
            before = self.content(target)
            is_secret = str(target) in secret
            mode = before.mode if before else files.PRIVATE if is_secret else PUBLIC_MODE
            owner = before.owner if before else (os.geteuid(), os.getegid())
            mode = mode & ~OTHERS if is_secret else mode
            new[file_name(target)] = Content(contents[str(target)], mode, owner)
        return self.write(self.carried() | new)

    def carried(self) -> dict[str, Content]:
        """Return the files of targets that the plan no longer has, because links may show them."""
        found = dict[str, Content]()
        for path in self.switch.glob("*"):
            about = path.stat()
            owner = (about.st_uid, about.st_gid)
            found[path.name] = Content(path.read_bytes(), stat.S_IMODE(about.st_mode), owner)
        return found

    def write(self, contents: dict[str, Content]) -> str:
        self.home.mkdir(mode=0o755, parents=True, exist_ok=True)
        files.sync_folder(self.home.parent)
        version = f"{self.name}.{secrets.token_hex(4)}"
        folder = self.home / version
        folder.mkdir(mode=0o755)
        for name, content in contents.items():
            files.create(folder / name, content.raw, content.mode, content.owner)
        files.sync_folder(folder)
        files.sync_folder(self.home)
        return version

    def adopt(self) -> str:
        """Let every target lead through the switch, without a change for its readers.

        Return the version that they read. Targets that do not exist yet become links to nothing.
        """
        current = self.current()
        if current is not None and self.are_linked():
            return current
        old = {file_name(target): self.content(target) for target in self.targets}
        known = {name: content for name, content in old.items() if content}
        missing = {name for name, content in old.items() if content is None}
        carried = {name: each for name, each in self.carried().items() if name not in missing}
        version = self.write(carried | known)
        self.show(version)
        for target in self.targets:
            target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            remove_leftovers(target)
            files.link(target, self.wanted_link(target))
        return version

    def show(self, version: str) -> None:
        """Switch all targets to a version, in one rename."""
        remove_leftovers(self.switch)
        if self.current() != version:
            files.link(self.switch, version)

    def remove_others(self) -> None:
        """Remove the versions that nothing shows."""
        current = self.current()
        for folder in self.home.glob(f"{self.name}.????????"):
            if folder.name != current:
                shutil.rmtree(folder)


def file_name(target: Path) -> str:
    """Return the name of a target's file in each version. It does not depend on the plan."""
    return f"{hashlib.sha256(str(target).encode()).hexdigest()[:8]}-{target.name[:200]}"


def lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def check_way(target: Path) -> None:
    """Refuse a target whose folders another user could exchange, as sshd does for its files."""
    if FOLDER in target.parts:
        raise InstallError(f"The target {target} is in a folder of the agent itself.")
    check_folders(target.parent, target)
    check_folders(target.parent.resolve(), target)


def check_folders(last: Path, target: Path) -> None:
    """Check the folders from the root to `last`. Those that do not exist are created later."""
    for folder in (*reversed(last.parents), last):
        found = lstat(folder)
        if found is None:
            return
        is_link = stat.S_ISLNK(found.st_mode)
        named = f"{folder}, on the way to {target},"
        if not is_link and not stat.S_ISDIR(found.st_mode):
            raise InstallError(f"{named} is not a folder.")
        if found.st_uid not in (0, os.geteuid()):
            what = "is a link of" if is_link else "belongs to"
            raise InstallError(
                f"{named} {what} another user ({found.st_uid}). Its owner must be root, or the "
                "user of the agent."
            )
        if is_link or found.st_mode & stat.S_ISVTX:
            continue
        if found.st_mode & stat.S_IWOTH:
            raise InstallError(f"Everyone may write to {folder}, on the way to {target}.")
        if found.st_mode & stat.S_IWGRP:
            raise InstallError(
                f"The group {found.st_gid} may write to {folder}, on the way to {target}. "
                f"Run: chmod g-w {folder}"
            )


def check_home(home: Path) -> None:
    found = lstat(home)
    if found is None:
        return
    is_safe = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not is_safe or found.st_mode & 0o022:
        raise InstallError(
            f"{home} must be a folder that only its owner, the user of the agent, may write to."
        )


def remove_leftovers(path: Path) -> None:
    """Remove what a killed change of this path left."""
    for leftover in path.parent.glob(f".{glob.escape(path.name[:100])}.????????.new"):
        leftover.unlink()
