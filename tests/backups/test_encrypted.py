"""The file of a backup."""

import io
import os
import resource
import shutil
import stat
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pyrage
import pytest

from backups import encrypted
from backups.encrypted import BackupProblem
from tests.backups.conftest import cut, lines_of

LINES = [b'{"a":1}', b"", b"x" * 200_000, b"last"]


@pytest.fixture
def written(tmp_path: Path, recovery_key: Any) -> Path:
    path = tmp_path / "a.backup"
    encrypted.write(path, LINES, [recovery_key.to_public()])
    return path


def test_lines_come_back_in_order(written, recovery_key):
    assert lines_of(written, recovery_key) == LINES


def test_each_of_two_recovery_keys_opens_it(tmp_path, recovery_key):
    second = pyrage.x25519.Identity.generate()
    path = tmp_path / "two.backup"
    encrypted.write(path, LINES, [second.to_public(), recovery_key.to_public()])
    assert lines_of(path, recovery_key) == lines_of(path, second) == LINES


@pytest.mark.skipif(not shutil.which("age"), reason="needs age")
def test_age_itself_reads_it(written, recovery_file):
    made = subprocess.run(
        ["age", "-d", "-i", str(recovery_file), str(written)], capture_output=True, check=True
    )
    assert zlib.decompress(made.stdout, wbits=31) == b"".join(line + b"\n" for line in LINES)


def test_only_its_owner_may_read_it(written):
    assert stat.S_IMODE(written.stat().st_mode) == 0o600


def test_nothing_of_its_text_is_in_the_file(written):
    assert b"x" * 20 not in written.read_bytes()


def test_a_file_that_exists_is_kept(written, recovery_key):
    before = written.read_bytes()
    with pytest.raises(BackupProblem, match="exists already"):
        encrypted.write(written, [b"other"], [recovery_key.to_public()])
    assert written.read_bytes() == before


def test_a_failure_leaves_no_file(tmp_path, recovery_key):
    def lines() -> Any:
        yield b"one"
        raise LookupError("the database is away")

    with pytest.raises(LookupError, match="the database is away"):
        encrypted.write(tmp_path / "a.backup", lines(), [recovery_key.to_public()])
    assert list(tmp_path.iterdir()) == []


def test_the_part_of_a_killed_run_is_replaced(tmp_path, recovery_key):
    (tmp_path / "a.backup.part").write_text("half")
    encrypted.write(tmp_path / "a.backup", LINES, [recovery_key.to_public()])
    assert [each.name for each in tmp_path.iterdir()] == ["a.backup"]


def test_two_runs_with_one_name_do_not_mix(tmp_path, recovery_key):
    recipients = [recovery_key.to_public()]
    path = tmp_path / "a.backup"

    def lines() -> Any:
        yield b"first"
        with pytest.raises(BackupProblem, match="Another run"):
            encrypted.write(path, [b"second"], recipients)

    encrypted.write(path, lines(), recipients)
    assert lines_of(path, recovery_key) == [b"first"]


def test_a_file_that_appeared_meanwhile_is_kept(tmp_path, recovery_key):
    path = tmp_path / "a.backup"

    def lines() -> Any:
        yield b"one"
        path.write_text("another")

    with pytest.raises(BackupProblem, match="exists already"):
        encrypted.write(path, lines(), [recovery_key.to_public()])
    assert [each.name for each in tmp_path.iterdir()] == ["a.backup"]
    assert path.read_text() == "another"


def test_another_recovery_key_is_refused(written):
    with pytest.raises(BackupProblem, match="does not open"):
        lines_of(written, pyrage.x25519.Identity.generate())


@pytest.mark.parametrize("part", [0, 0.05, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_refused(written, recovery_key, part):
    with pytest.raises(BackupProblem, match="not complete"):
        lines_of(cut(written, int(written.stat().st_size * part)), recovery_key)


def test_each_changed_byte_is_found(written, recovery_key):
    content = written.read_bytes()
    for place in range(0, len(content), len(content) // 40):
        changed = bytearray(content)
        changed[place] ^= 1
        written.write_bytes(changed)
        with pytest.raises(BackupProblem):
            lines_of(written, recovery_key)


def test_another_file_is_refused(tmp_path, recovery_key):
    path = tmp_path / "notes.txt"
    path.write_text("not a backup")
    with pytest.raises(BackupProblem, match="is not a backup"):
        lines_of(path, recovery_key)


def test_an_error_of_the_reader_keeps_its_type(written, recovery_key):
    def take(line: bytes) -> None:
        raise LookupError(line.decode())

    with pytest.raises(LookupError, match="a"):
        encrypted.read(written, [recovery_key], take)


@pytest.mark.slow
def test_a_file_larger_than_memory_may_be_streamed(tmp_path, recovery_key):
    """200 MB of random bytes pass through a few MB of memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = tmp_path / "large.backup"
    line = os.urandom(200_000).replace(b"\n", b"")
    encrypted.write(path, (line for _ in range(1000)), [recovery_key.to_public()])
    seen: set[int] = set()
    encrypted.read(path, [recovery_key], lambda each: seen.add(len(each)))
    assert seen == {len(line)}
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 40_000  # KiB


@pytest.mark.parametrize(
    "text", ["", "# only a comment\n", "AGE-SECRET-KEY-1WRONG\n", "age1qqqqqqqq\n"]
)
def test_a_file_without_a_recovery_key_is_refused(tmp_path, text):
    path = tmp_path / "recovery.key"
    path.write_text(text)
    with pytest.raises(BackupProblem, match="age-keygen") as refused:
        encrypted.recovery_keys(path)
    assert "WRONG" not in refused.value.what


def test_a_key_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(BackupProblem, match="nowhere"):
        encrypted.recovery_keys(tmp_path / "nowhere")


def test_the_file_of_age_keygen_is_read(recovery_file, recovery_key):
    assert [str(key) for key in encrypted.recovery_keys(recovery_file)] == [str(recovery_key)]


@pytest.mark.parametrize("texts", [[], ["age1wrong"], ["ssh-ed25519 AAAA"]])
def test_without_a_public_recovery_key_nothing_is_made(texts):
    with pytest.raises(BackupProblem, match="recovery key"):
        encrypted.recipients(texts)


def test_a_private_recovery_key_is_not_repeated_in_the_refusal(recovery_key):
    with pytest.raises(BackupProblem) as refused:
        encrypted.recipients([str(recovery_key)])
    assert str(recovery_key) not in refused.value.what


def test_a_text_that_is_not_compressed_is_refused(tmp_path, recovery_key):
    path = tmp_path / "plain.age"
    with path.open("wb") as file:
        pyrage.encrypt_io(io.BytesIO(b"plain text"), file, [recovery_key.to_public()])
    with pytest.raises(BackupProblem, match="is not a backup"):
        lines_of(path, recovery_key)
