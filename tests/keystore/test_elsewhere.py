"""Data keys move between master keys of all kinds while the server runs."""

import io
import subprocess
import sys
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command

from accounts.models import AuditEvent
from authorities import pki
from issuance import services
from keystore import masterkeys
from keystore.envelope import seal, unseal
from keystore.masterkeys import FileKeys, MasterKeyProblem, elsewhere
from keystore.models import KeyWrap
from tests.fakes.vault import FakeVault

pytestmark = pytest.mark.django_db
SECRET = b"a secret of the owner"
PLACE = ["6=vault:transit/certctrl"]


@pytest.fixture
def vault(settings: Any) -> Any:
    with FakeVault() as made:
        settings.VAULT_ADDR, settings.VAULT_TOKEN = made.url, made.token
        elsewhere._keys.cache_clear()
        yield made


def rotate(*arguments: str) -> str:
    out = io.StringIO()
    call_command("rotate_master_key", *arguments, stdout=out)
    return out.getvalue()


def wrapped_by() -> set[str]:
    return set(KeyWrap.objects.values_list("master_key_id", flat=True))


def test_data_keys_move_from_a_file_to_vault_and_back(key_file, settings, vault, alice):
    rows = [seal(alice, "test", SECRET) for _ in range(3)]
    settings.MASTER_KEYS_ELSEWHERE = PLACE
    assert [unseal(row) for row in rows] == [SECRET] * 3
    assert "Wrapped 3 data keys with master key 6" in rotate()
    assert wrapped_by() == {"6"}
    assert [unseal(row) for row in rows] == [SECRET] * 3
    assert list(FileKeys(key_file).keys()) == ["1"]
    settings.MASTER_KEY_CURRENT = "1"
    assert "Wrapped 3 data keys with master key 1" in rotate()
    settings.MASTER_KEYS_ELSEWHERE = []
    assert [unseal(row) for row in rows] == [SECRET] * 3


def test_a_process_that_does_not_wrap_with_the_new_key_opens_its_wraps(
    key_file, settings, vault, alice
):
    """Processes restart one after the other, so each kind of wrap is open in all of them."""
    settings.MASTER_KEYS_ELSEWHERE = PLACE
    row = seal(alice, "test", SECRET)
    settings.MASTER_KEY_CURRENT = "1"
    assert unseal(row) == SECRET
    seal(alice, "test", SECRET)
    assert wrapped_by() == {"1", "6"}


def test_a_rotation_stops_when_the_place_is_away(key_file, settings, vault, alice):
    rows = [seal(alice, "test", SECRET) for _ in range(3)]
    settings.MASTER_KEYS_ELSEWHERE = PLACE
    vault.status = 503
    with pytest.raises(CommandError, match="unsealed"):
        rotate()
    assert wrapped_by() == {"1"}
    assert len(vault.seen) == 1
    vault.status = None
    rotate()
    vault.status = 503
    settings.MASTER_KEY_CURRENT = "1"
    seen = len(vault.seen)
    with pytest.raises(CommandError, match="unsealed"):
        rotate()
    assert len(vault.seen) == seen + 1
    vault.status = None
    assert [unseal(row) for row in rows] == [SECRET] * 3


def test_the_rotation_is_in_the_audit_log(key_file, settings, vault, alice):
    seal(alice, "test", SECRET)
    rotate()
    rotate("--no-new-key", "--drop-old")
    settings.MASTER_KEYS_ELSEWHERE = PLACE
    rotate()
    events = AuditEvent.objects.filter(action__startswith="master_key.").order_by("pk")
    assert [(each.action, each.object) for each in events] == [
        ("master_key.made", "master_key:2"),
        ("master_key.rotated", "master_key:2"),
        ("master_key.rotated", "master_key:2"),
        ("master_key.dropped", "master_key:1"),
        ("master_key.rotated", "master_key:6"),
    ]
    assert [each.detail.get("wraps") for each in events] == [None, 1, 0, None, 1]
    assert all(each.actor.startswith("operator ") for each in events)


def test_the_list_tries_each_key(key_file, settings, vault, alice):
    seal(alice, "test", SECRET)
    settings.MASTER_KEYS_ELSEWHERE = PLACE
    said = rotate("--list")
    assert "6: wraps, 0 wraps need it. works" in said
    assert "1: 1 wraps need it. works" in said
    vault.status = 503
    assert "unsealed" in rotate("--list")
    assert wrapped_by() == {"1"}


def test_the_list_names_a_missing_key(key_file, settings, alice):
    seal(alice, "test", SECRET)
    settings.MASTER_KEYS, settings.MASTER_KEYS_PATH = "7:" + "B" * 43 + "=", ""
    assert "1: is missing, 1 wraps need it." in rotate("--list")


def test_the_chosen_key_must_exist(settings):
    settings.MASTER_KEY_CURRENT = "8"
    with pytest.raises(MasterKeyProblem, match="Master key 8"):
        masterkeys.current()


@pytest.mark.parametrize("entry", ["", "6", "6=", "=vault:transit/a", "6=https://a", "ü=vault:t/a"])
def test_a_malformed_entry_is_refused(settings, entry):
    settings.MASTER_KEYS_ELSEWHERE = [entry]
    with pytest.raises(MasterKeyProblem, match="Entry 1"):
        masterkeys.current()


def test_two_keys_with_one_id_are_refused(settings, vault):
    settings.MASTER_KEYS_ELSEWHERE = [*PLACE, "6=vault:transit/other"]
    with pytest.raises(MasterKeyProblem, match="two master keys with the id 6"):
        masterkeys.current()
    settings.MASTER_KEYS_ELSEWHERE = ["1=vault:transit/other"]
    with pytest.raises(MasterKeyProblem, match="different master keys with the id 1"):
        masterkeys.current()


def test_a_server_without_such_keys_imports_none_of_their_libraries():
    text = (
        "import django; django.setup()\n"
        "import sys; from keystore import masterkeys; masterkeys.current()\n"
        "import certctrl.urls\n"
        "print(sorted({'boto3', 'botocore', 'pkcs11', 'pyrage'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", text],
        cwd=django_settings.BASE_DIR,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "[]"


def test_an_attempt_waits_for_a_place_that_is_away(settings, vault, world, account, credential):
    """Nothing is ordered twice, no record stays, and the attempt says what failed."""
    settings.MASTER_KEYS_ELSEWHERE = PLACE
    rotate()
    _, attempt = world.create(account, credential)
    vault.status = 503
    world.settle(most=3, step=30)
    vault.status = None
    attempt.refresh_from_db()
    assert attempt.is_open
    assert attempt.events.filter(outcome="retry", what__contains="unsealed").exists()
    world.settle()
    attempt.refresh_from_db()
    assert attempt.state == "issued"
    assert len(world.ca.orders) == 1
    assert world.zone.txt() == []
    assert wrapped_by() == {"6"}


def test_a_pinned_key_is_kept_while_its_master_key_is_away(
    settings, vault, world, account, credential
):
    """The renewal waits for Vault, and has the old key afterwards."""
    settings.MASTER_KEYS_ELSEWHERE = PLACE
    certificate, _ = world.create(account, credential, reuse_key=True)
    world.settle()
    certificate.refresh_from_db()
    before = certificate.current.chain_pem
    vault.status = 403
    attempt = services.issue(certificate)
    world.settle(most=2, step=20)
    attempt.refresh_from_db()
    assert attempt.is_open
    assert not attempt.csr_pem
    vault.status = None
    world.settle()
    certificate.refresh_from_db()
    assert certificate.current.issuance_id == attempt.pk
    assert pki.same_key(certificate.current.chain_pem, before)
