"""The sources of master keys, and the errors of unusable keys."""

import base64
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystore import masterkeys
from keystore.apps import master_keys_are_usable
from keystore.masterkeys import MasterKeyProblem, UnknownMasterKey, aes, file

A, B = (base64.b64encode(letter * 32).decode() for letter in (b"a", b"b"))


@pytest.fixture
def setting(settings):
    def put(text: str) -> None:
        settings.MASTER_KEYS = text
        settings.MASTER_KEYS_PATH = ""

    return put


def test_the_first_key_of_the_setting_wraps_and_all_open(setting):
    setting(f"2:{A},1:{B}")

    assert masterkeys.current().id == "2"
    wrapped = masterkeys.by_id("1").wrap(b"data", b"context")
    assert masterkeys.by_id("1").unwrap(wrapped, b"context") == b"data"


@given(
    data_key=st.binary(min_size=32, max_size=32),
    context=st.binary(max_size=99),
    other=st.binary(max_size=99),
)
def test_a_wrap_opens_in_its_own_context_only(data_key, context, other):
    key = aes.generate("1")
    wrapped = key.wrap(data_key, context)

    assert key.unwrap(wrapped, context) == data_key
    assert len(wrapped) == 60
    if other != context:
        with pytest.raises(masterkeys.WrongMasterKey):
            key.unwrap(wrapped, other)


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        f"1{A}",
        "1:" + base64.b64encode(b"short").decode(),
        "1:" + base64.b64encode(b"x" * 33).decode(),
        f":{A}",
        f"a|b:{A}",
        f"{'9' * 33}:{A}",
        f"1:{A},2:{A[:-1]}",
        "",
        " , ",
    ],
)
def test_a_malformed_setting_is_refused_without_showing_it(setting, text):
    setting(text)

    with pytest.raises(MasterKeyProblem) as failure:
        masterkeys.current()
    assert "MASTER_KEYS" in failure.value.what
    assert A[:20] not in failure.value.what
    assert "nonsense" not in failure.value.what


def test_two_keys_of_one_id_are_refused(setting):
    setting(f"1:{A},1:{B}")
    with pytest.raises(MasterKeyProblem, match="two master keys with the id 1"):
        masterkeys.current()


def test_an_unknown_id_is_named(setting):
    setting(f"1:{A}")
    with pytest.raises(UnknownMasterKey, match="Master key 3 is not on this server"):
        masterkeys.by_id("3")


def test_a_key_never_shows_its_bytes(setting):
    setting(f"1:{A}")
    shown = repr(masterkeys.current()) + str(masterkeys.current()) + repr(masterkeys.all_keys())
    assert A not in shown
    assert "aaaa" not in shown


def test_a_generated_file_is_ours_alone_and_holds_one_fresh_key(key_file, tmp_path):
    file.create_file(tmp_path / "another")

    assert key_file.stat().st_mode & 0o777 == 0o600
    assert masterkeys.current().id == "1"
    assert key_file.read_text() != (tmp_path / "another").read_text()
    assert not list(tmp_path.glob("*.new"))


def test_generating_again_leaves_the_file_as_it_is(key_file):
    before = key_file.read_text()
    file.create_file(key_file)
    assert key_file.read_text() == before


def test_two_that_generate_at_once_end_with_one_key(tmp_path):
    texts: set[str] = set()

    def generate() -> None:
        file.create_file(tmp_path / "keys")
        texts.add((tmp_path / "keys").read_text())

    threads = [threading.Thread(target=generate) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 1


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604, 0o700])
def test_a_file_that_others_may_read_is_refused(key_file, mode):
    key_file.chmod(mode)
    with pytest.raises(MasterKeyProblem, match=f"has mode {mode:04o}, so other users may have"):
        masterkeys.current()


def test_a_file_opened_up_while_the_server_runs_is_refused(key_file):
    masterkeys.current()
    key_file.chmod(0o644)
    with pytest.raises(MasterKeyProblem, match="chmod 600"):
        masterkeys.current()


def test_a_read_only_file_is_fine(key_file):
    key_file.chmod(0o400)
    assert masterkeys.current().id == "1"


def test_a_file_of_another_user_is_refused(key_file, monkeypatch):
    someone_else = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: someone_else)
    with pytest.raises(MasterKeyProblem, match="belongs to another user"):
        masterkeys.current()


def test_a_missing_file_is_reported(settings, tmp_path):
    settings.MASTER_KEYS, settings.MASTER_KEYS_PATH = "", str(tmp_path / "nowhere")
    with pytest.raises(MasterKeyProblem, match=r"cannot be read \(No such file"):
        masterkeys.current()


def test_a_folder_is_not_a_key_file(settings, tmp_path):
    settings.MASTER_KEYS = ""
    settings.MASTER_KEYS_PATH = str(tmp_path)
    with pytest.raises(MasterKeyProblem):
        masterkeys.current()


def test_comments_and_blank_lines_are_allowed(key_file):
    key_file.write_text(f"# made in spring\n\n5:{A}  # the new one\n4:{B}\n")
    assert list(masterkeys.all_keys()) == ["5", "4"]


def test_a_file_that_changes_is_read_again(key_file):
    assert masterkeys.current().id == "1"
    file.FileKeys(key_file).put_first(aes.generate("2"))

    assert masterkeys.current().id == "2"
    assert list(masterkeys.all_keys()) == ["2", "1"]
    assert key_file.stat().st_mode & 0o777 == 0o600


def test_an_unknown_id_makes_it_read_a_file_that_looks_unchanged(key_file, monkeypatch):
    monkeypatch.setattr(file, "_signature", lambda status: (0,))
    masterkeys.current()
    file.FileKeys(key_file).put_first(aes.generate("2"))

    assert masterkeys.current().id == "1"
    assert masterkeys.by_id("2").id == "2"


def test_a_link_to_the_file_stays_a_link(key_file, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(key_file)
    file.FileKeys(link).put_first(aes.generate("2"))

    assert link.is_symlink()
    assert key_file.read_text().startswith("2:")


def test_a_link_that_leads_to_another_file_is_followed_at_the_next_read(key_file, tmp_path):
    file.create_file(tmp_path / "new.keys")
    file.FileKeys(tmp_path / "new.keys").put_first(aes.generate("2"))
    link = tmp_path / "link"
    link.symlink_to(key_file)
    keys = file.FileKeys(link)
    assert list(keys.keys()) == ["1"]
    link.unlink()
    link.symlink_to(tmp_path / "new.keys")
    assert list(keys.keys()) == ["2", "1"]


def test_a_full_disk_leaves_the_old_file(key_file, monkeypatch):
    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = key_file.read_text()
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(MasterKeyProblem, match=r"cannot be replaced \(No space left"):
        file.FileKeys(key_file).put_first(aes.generate("2"))
    assert key_file.read_text() == before


def test_with_a_file_and_a_setting_the_file_wraps_and_both_open(key_file, settings):
    settings.MASTER_KEYS = f"old:{A}"

    assert masterkeys.current().id == "1"
    assert masterkeys.by_id("old").id == "old"


def test_a_file_and_a_setting_that_disagree_on_an_id_are_refused(key_file, settings):
    settings.MASTER_KEYS = f"1:{A}"
    with pytest.raises(MasterKeyProblem, match="different master keys with the id 1"):
        masterkeys.current()


def test_the_start_checks_find_unusable_keys(key_file):
    assert master_keys_are_usable() == []
    key_file.chmod(0o644)
    assert "chmod 600" in master_keys_are_usable()[0].msg


def test_the_start_checks_accept_a_missing_key_file(settings, tmp_path: Path):
    settings.MASTER_KEYS = ""
    settings.MASTER_KEYS_PATH = str(tmp_path / "later")
    assert master_keys_are_usable() == []
