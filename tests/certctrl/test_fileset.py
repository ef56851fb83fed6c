"""The files of an export always match each other, and existing files keep their owner."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from certctrl import fileset
from issuance import services

pytestmark = pytest.mark.django_db
PAGE = 4096
NAMES = ["private.key", "certificate.pem", "chain.pem", "fullchain.pem", "certificate.der"]
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root, to mount and to give files away"
)
needs_nginx = pytest.mark.skipif(
    not shutil.which("nginx"), reason="needs Debian's nginx-light (apt-get install)"
)


@pytest.fixture
def certificate(world, account, credential):
    made, _ = world.create(account, credential, server_decrypt_export=True)
    world.deliver()
    made.refresh_from_db()
    return made


@pytest.fixture
def mounted():
    """`mounted(folder, ...)` mounts a file system until the end of the test."""
    places = []

    def mount(place: Path, *options: str) -> Path:
        subprocess.run(["mount", *options, str(place)], check=True)
        places.append(place)
        return place

    yield mount
    for place in reversed(places):
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def folder(certificate, tmp_path):
    """A folder with the first version of a certificate that was renewed later."""
    made = tmp_path / "pair"
    run(made)
    return made


@pytest.fixture
def renewed(world, certificate, folder):
    world.advance(86400)
    services.issue(certificate)
    world.deliver()
    certificate.refresh_from_db()
    return certificate


def run(folder, *args):
    out = StringIO()
    err = StringIO()
    call_command("export", "example.com", "--to", str(folder), *args, stdout=out, stderr=err)
    return out.getvalue() + err.getvalue()


def contents(folder):
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()}


def is_accepted_by_nginx(folder):
    """Return whether nginx would start with the pair in the folder."""
    config = folder.parent / "nginx.conf"
    config.write_text(
        f"pid {folder.parent}/nginx.pid; error_log stderr; events {{}}"
        f" http {{ access_log off; server {{"
        f" listen 127.0.0.1:1 ssl; ssl_certificate {folder}/fullchain.pem;"
        f" ssl_certificate_key {folder}/private.key; }} }}"
    )
    found = subprocess.run(
        ["nginx", "-t", "-e", "stderr", "-p", str(folder.parent), "-c", str(config)],
        capture_output=True,
        check=False,
    )
    return found.returncode == 0


def refused(folder, words):
    before = contents(folder)
    mark = folder.parent / "reloaded"
    with pytest.raises(CommandError, match=words) as error:
        run(folder, "--then", f"touch {mark}")
    assert "Nothing was changed" in str(error.value)
    assert contents(folder) == before
    assert not mark.exists()
    assert not [each for each in before if each.startswith(".")]


@needs_nginx
def test_nginx_takes_the_pair_before_and_after_a_renewal(renewed, folder):
    assert is_accepted_by_nginx(folder)
    (folder / "private.key").write_bytes(b"")
    assert not is_accepted_by_nginx(folder), "the test can fail"
    run(folder)
    assert is_accepted_by_nginx(folder)


@needs_root
@needs_nginx
@pytest.mark.parametrize("room", range(1, 5))
def test_a_disk_with_room_for_some_of_the_files_changes_none(
    renewed, folder, tmp_path, mounted, room
):
    old = contents(folder)
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted(disk, "-t", "tmpfs", "-o", f"size={(len(old) + room) * PAGE}", "tmpfs")
    for name, content in old.items():
        (disk / name).write_bytes(content)
    refused(disk, "No space left on device")
    assert contents(disk) == old
    assert is_accepted_by_nginx(disk)


@needs_root
@needs_nginx
@pytest.mark.parametrize("name", ["private.key", "fullchain.pem", "certificate.der"])
def test_a_mounted_file_is_refused_before_anything_is_changed(
    renewed, folder, tmp_path, mounted, name
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes((folder / name).read_bytes())
    mounted(folder / name, "--bind", str(elsewhere))
    refused(folder, "is a mount of its own.*Mount its folder")
    assert is_accepted_by_nginx(folder)


@needs_root
@needs_nginx
@pytest.mark.parametrize("name", ["private.key", "fullchain.pem"])
def test_the_old_files_are_restored_when_a_rename_fails(
    renewed, folder, tmp_path, mounted, monkeypatch, name
):
    """The mount is made after the check, or the system has no /proc."""
    monkeypatch.setattr(fileset, "MOUNTS", tmp_path / "nothing")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes((folder / name).read_bytes())
    mounted(folder / name, "--bind", str(elsewhere))
    refused(folder, r"cannot be replaced \(Device or resource busy\)")
    assert is_accepted_by_nginx(folder)


def test_a_new_file_is_removed_when_a_rename_fails(renewed, folder, monkeypatch):
    (folder / "private.key").unlink()

    def full(path, target):
        if target.name == "fullchain.pem":
            raise OSError(5, "Input/output error")
        os.replace(path, target)

    monkeypatch.setattr(Path, "replace", full)
    refused(folder, "Input/output error")


@pytest.mark.parametrize("name", ["private.key", "chain.pem", "certificate.der"])
def test_a_folder_in_the_place_of_a_file_is_refused(renewed, folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    refused(folder, "is not a file")


def test_a_file_in_place_of_the_folder_is_reported(certificate, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CommandError, match="Nothing was changed"):
        run(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@needs_root
def test_a_read_only_folder_is_reported(renewed, folder, mounted):
    mounted(folder, "--bind", str(folder))
    subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
    refused(folder, "Read-only file system")


@needs_root
@pytest.mark.parametrize("mode", [0o640, 0o600, 0o400, 0o440])
def test_files_that_are_there_keep_owner_group_and_mode(renewed, folder, mode):
    for name in NAMES:
        os.chown(folder / name, 65534, 4242)
        (folder / name).chmod(mode if name == "private.key" else 0o444)
    run(folder)
    for name in NAMES:
        found = (folder / name).stat()
        assert (found.st_uid, found.st_gid) == (65534, 4242)
        assert stat.S_IMODE(found.st_mode) == (mode if name == "private.key" else 0o444)
    assert (folder / "fullchain.pem").read_text() == renewed.current.chain_pem


def test_extended_attributes_are_kept(renewed, folder):
    try:
        os.setxattr(folder / "fullchain.pem", "user.origin", b"certctrl")
    except OSError:
        pytest.skip("the file system of the temporary folder takes no extended attributes")
    run(folder)
    assert os.getxattr(folder / "fullchain.pem", "user.origin") == b"certctrl"


def test_a_key_that_everybody_could_read_is_closed_and_that_is_said(renewed, folder):
    (folder / "private.key").chmod(0o644)
    assert "could read" in run(folder)
    assert stat.S_IMODE((folder / "private.key").stat().st_mode) == 0o600


def test_a_file_that_is_replaced_is_a_new_one_as_of_now(renewed, folder):
    os.utime(folder / "fullchain.pem", (1, 1))
    run(folder)
    assert (folder / "fullchain.pem").stat().st_mtime > 1_000_000


def test_a_symbolic_link_stays_and_what_it_leads_to_is_replaced(renewed, folder, tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    for name in ("private.key", "fullchain.pem"):
        (folder / name).rename(archive / name)
        (folder / name).symlink_to(f"../archive/{name}")
    run(folder)
    assert (folder / "private.key").is_symlink()
    assert not (archive / "fullchain.pem").is_symlink()
    assert (archive / "fullchain.pem").read_text() == renewed.current.chain_pem
    assert sorted(contents(archive)) == ["fullchain.pem", "private.key"]


def test_two_files_in_one_place_are_refused(renewed, folder):
    (folder / "certificate.pem").unlink()
    (folder / "certificate.pem").symlink_to("fullchain.pem")
    refused(folder, "Two of the files lead to")


KILLED = """
import os, signal, sys
from pathlib import Path
from certctrl import fileset

folder, at = Path(sys.argv[1]), int(sys.argv[2])
names = sys.argv[3:]
replace, count = Path.replace, [0]

def kill(path, target):
    count[0] += 1
    if count[0] == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(path, target)

Path.replace = kill
fileset.replace({folder / name: b"half" for name in names}, {folder / "private.key"})
"""


@needs_nginx
@pytest.mark.parametrize("at", [1, 2, 4])
def test_after_a_kill_between_two_renames_the_next_run_replaces_all(renewed, folder, at):
    dead = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(at), *NAMES], check=False)
    assert dead.returncode == -signal.SIGKILL
    assert [name for name in contents(folder) if name.startswith(".")], "it left something beside"
    run(folder)
    assert sorted(contents(folder)) == sorted(NAMES)
    assert (folder / "fullchain.pem").read_text() == renewed.current.chain_pem
    assert is_accepted_by_nginx(folder)


@pytest.fixture
def _hears_sigint() -> Iterator[None]:
    """Restore Python's handler, because a shell may start its background jobs deaf to SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_hears_sigint")
def test_a_stop_is_heard_after_the_files_are_in_place(renewed, folder, monkeypatch):
    replace = Path.replace

    def interrupted(path, target):
        os.kill(os.getpid(), signal.SIGINT)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(folder)
    assert (folder / "fullchain.pem").read_text() == renewed.current.chain_pem
    assert sorted(contents(folder)) == sorted(NAMES)


def test_files_of_others_beside_them_stay(renewed, folder):
    for name in (".private.key.swp", ".htaccess", "dhparam.pem", ".private.key.1234567z"):
        (folder / name).write_text("mine")
    run(folder)
    assert len(contents(folder)) == len(NAMES) + 4
