"""The certificate that `manage.py export NAME` chooses when several owners have the name."""

from io import StringIO
from types import SimpleNamespace

import pytest
from django.core.management import CommandError, call_command

from accounts.models import User
from authorities import privateca
from authorities.models import AcmeAccount
from issuance import services
from issuance.models import Certificate

pytestmark = pytest.mark.django_db


@pytest.fixture
def stranger(db):
    return User.objects.create_user("stranger@example.net")


@pytest.fixture
def real(world, owner, credential):
    """The owner's certificate, of a CA that the server knows."""
    account = world.account(owner, ca_provider="letsencrypt", name="production")
    made, _ = world.create(account, credential, server_decrypt_export=True)
    world.deliver()
    made.refresh_from_db()
    return made


def bare(world, owner):
    """Make a record that was never issued."""
    spec = world.spec(world.account(owner), None, "example.com", server_decrypt_export=True)
    return services.create_certificate(owner, spec, issue=False)[0]


def of_own_ca(world, owner):
    private_ca = privateca.create_private_ca(owner, {"name": "Home"})
    world.cas["SELF_CA"] = SimpleNamespace(
        name="home", client_for=lambda account: privateca.PrivateAuthority(account.private_ca)
    )
    fields = {"ca_provider": "SELF_CA", "directory_url": "", "private_ca": private_ca}
    account = world.account(owner, **fields)
    made, _ = services.create_certificate(
        owner, world.spec(account, None, "example.com", server_decrypt_export=True), issue=True
    )
    made.refresh_from_db()
    assert made.current
    return made


def of_named_ca(world, owner):
    """Make a certificate of an ACME CA that the owner named, which may sign anything."""
    made, _ = world.create(
        world.account(owner), world.credential(owner), server_decrypt_export=True
    )
    world.deliver()
    made.refresh_from_db()
    return made


def exported(tmp_path, *args):
    call_command("export", *map(str, args), "--to", str(tmp_path), stdout=StringIO())
    return (tmp_path / "fullchain.pem").read_text()


@pytest.mark.parametrize("slip_in", [bare, of_own_ca, of_named_ca])
def test_a_strangers_record_neither_breaks_nor_replaces_the_real_one(
    world, real, stranger, tmp_path, slip_in
):
    slip_in(world, stranger)
    assert exported(tmp_path, "example.com") == real.current.chain_pem


@pytest.mark.parametrize("slip_in", [bare, of_own_ca, of_named_ca])
def test_a_strangers_record_is_not_taken_once_the_real_one_is_deleted(
    world, real, stranger, tmp_path, slip_in
):
    slip_in(world, stranger)
    services.retire(real)
    with pytest.raises(CommandError, match="Give the id"):
        exported(tmp_path, "example.com")
    assert not any(tmp_path.iterdir())


def test_a_strangers_certificate_does_not_replace_a_pending_one(world, owner, stranger, tmp_path):
    bare(world, owner)
    of_own_ca(world, stranger)
    with pytest.raises(CommandError, match="Give the id"):
        exported(tmp_path, "example.com")


@pytest.mark.parametrize("make", [of_own_ca, of_named_ca])
def test_the_only_certificate_of_a_name_is_exported_for_any_ca(world, owner, tmp_path, make):
    made = make(world, owner)
    assert exported(tmp_path, "example.com") == made.current.chain_pem


def test_of_two_that_are_as_good_the_owner_or_the_id_decides(world, real, stranger, tmp_path):
    account = world.account(
        stranger, ca_provider="letsencrypt", name="mine", url="https://ca.test/acct/2"
    )
    world.create(account, world.credential(stranger), server_decrypt_export=True)
    world.deliver()
    theirs = Certificate.objects.get(owner=stranger)
    with pytest.raises(CommandError) as refused:
        exported(tmp_path, "example.com")
    words = str(refused.value)
    for each in (real, theirs):
        assert (
            f"{each.pk}: owner {each.owner}, account {each.account} (letsencrypt), valid until 20"
            in words
        )
    assert not any(tmp_path.iterdir())
    for named in (
        ("example.com", "--owner", "STRANGER@example.net"),
        ("example.com", "--owner", stranger.pk),
    ):
        assert exported(tmp_path, *named) == theirs.current.chain_pem
    for named in ((real.pk,), ("--id", real.pk)):
        assert exported(tmp_path, *named) == real.current.chain_pem


def test_of_an_owners_own_the_issued_one_is_taken(world, real, owner, tmp_path):
    bare(world, owner)
    assert exported(tmp_path, "example.com", "--owner", owner.email) == real.current.chain_pem


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "No certificate is named"),
        (("example.com", "--id", "1"), "No certificate is named"),
        (("--id", "example.com"), "--id is a number"),
        (("example.com", "--owner", "nobody@example.net"), "There is no certificate"),
        (("--id", "987654"), "There is no certificate"),
    ],
)
def test_a_choice_without_a_certificate_is_reported(real, tmp_path, args, words):
    with pytest.raises(CommandError, match=words):
        exported(tmp_path, *args)


def test_an_account_that_was_renamed_changes_nothing(world, real, stranger, tmp_path):
    of_named_ca(world, stranger)
    AcmeAccount.objects.filter(owner=stranger).update(name="Let's Encrypt")
    assert exported(tmp_path, "example.com") == real.current.chain_pem
