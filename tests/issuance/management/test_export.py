"""`manage.py export NAME --to DIR --then COMMAND` writes whole files with a private key file."""

import stat
from io import StringIO

import pytest
from cryptography.hazmat.primitives import serialization
from django.core.management import CommandError, call_command

from accounts.models import AuditEvent
from certctrl import fileset
from issuance.models import Certificate

pytestmark = pytest.mark.django_db


@pytest.fixture
def certificate(world, account, credential):
    made, _ = world.create(account, credential, server_decrypt_export=True)
    world.deliver()
    made.refresh_from_db()
    return made


def run(*args):
    out = StringIO()
    call_command("export", *map(str, args), stdout=out)
    return out.getvalue()


def test_the_files_are_written_and_named_and_the_key_is_0600(certificate, tmp_path):
    folder = tmp_path / "new" / "folder"
    printed = run("example.com", "--to", folder)
    names = ["private.key", "certificate.pem", "chain.pem", "fullchain.pem", "certificate.der"]
    assert printed.split() == [str(folder / name) for name in names]
    assert sorted(each.name for each in folder.iterdir()) == sorted(names), (
        "nothing half-written stays"
    )
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()}
    assert modes == {name: 0o600 if name == "private.key" else 0o644 for name in names}
    serialization.load_pem_private_key((folder / "private.key").read_bytes(), None)
    assert (folder / "fullchain.pem").read_text() == certificate.current.chain_pem


def test_an_older_key_is_replaced_even_where_others_could_read_it(certificate, tmp_path):
    old = tmp_path / "private.key"
    old.write_text("old")
    old.chmod(0o644)
    run("example.com", "--to", tmp_path)
    assert "BEGIN PRIVATE KEY" in old.read_text()
    assert stat.S_IMODE(old.stat().st_mode) == 0o600


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside(
    certificate, tmp_path, monkeypatch
):
    (tmp_path / "private.key").write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fileset.os, "fsync", full)
    with pytest.raises(CommandError, match=r"cannot be written \(No space left"):
        run("example.com", "--to", tmp_path)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [
        ("private.key", "old")
    ]


def test_the_command_runs_after_the_files_are_in_place(certificate, tmp_path):
    run(
        "example.com",
        "--to",
        tmp_path,
        "--then",
        f"test -s {tmp_path}/private.key && touch {tmp_path}/reloaded",
    )
    assert (tmp_path / "reloaded").exists()


def test_a_failing_command_is_reported_and_the_files_stay(certificate, tmp_path):
    with pytest.raises(CommandError, match="ended with 3"):
        run("example.com", "--to", tmp_path, "--then", "exit 3")
    assert (tmp_path / "private.key").exists()


def test_the_name_may_be_the_id_and_be_written_in_any_case(certificate, tmp_path):
    assert run(certificate.pk, "--to", tmp_path)
    assert run("Example.COM.", "--to", tmp_path)


def test_an_internationalised_name_is_found_as_it_is_written(world, account, credential, tmp_path):
    world.create(account, credential, "xn--bcher-kva.example.com", server_decrypt_export=True)
    world.deliver()
    assert run("bücher.example.com", "--to", tmp_path)


@pytest.mark.parametrize("name", ["fd00::7", "my_host"])
def test_names_of_a_private_ca_are_found_too(world, account, credential, tmp_path, name):
    world.create(account, credential, name, server_decrypt_export=True)
    world.deliver()
    assert run(name.upper(), "--to", tmp_path)


def test_an_export_is_on_record_as_the_operators(certificate, tmp_path):
    run("example.com", "--to", tmp_path)
    event = AuditEvent.objects.get(action="key.opened")
    assert event.actor.startswith("operator ")
    assert "example.com" in event.detail["what"]


@pytest.mark.parametrize("name", ["example.org", "987654", "²", "9" * 30])
def test_a_missing_name_is_reported_and_nothing_is_written(certificate, tmp_path, name):
    with pytest.raises(CommandError, match="There is no certificate"):
        run(name, "--to", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"server_decrypt_export": False}, "Set server_decrypt_export"),
        ({"key_policy": "DEVICE_REQUIRED"}, "only its devices"),
        ({"current": None}, "not issued yet"),
    ],
)
def test_the_policy_binds_the_operator_too(certificate, tmp_path, changes, words):
    Certificate.objects.filter(pk=certificate.pk).update(**changes)
    with pytest.raises(CommandError, match=words):
        run("example.com", "--to", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    assert not AuditEvent.objects.filter(action="key.opened").exists()
