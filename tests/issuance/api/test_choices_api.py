"""Profile, chain, reused key and fallback account over HTTP: shown, changed and refused."""

import pytest

from authorities import pki
from authorities.errors import Refused
from authorities.models import AcmeAccount
from certctrl import clock
from issuance.models import Certificate, CertificateVersion, Issuance
from keystore import envelope
from tests.issuance.api.calling import refused, rows

pytestmark = pytest.mark.django_db

CHOICES = {"profile": "tlsserver", "preferred_chain": "ISRG Root X1", "reuse_key": True}


def make_account(owner, ca_provider: str = "letsencrypt", **fields) -> AcmeAccount:
    defaults = {
        "name": ca_provider,
        "terms_accepted_at": clock.now(),
        "key": envelope.seal(owner, "acme_account_key", b"unused"),
        "url": "https://ca.test/acct/9",
        "status": "valid",
    }
    return AcmeAccount.objects.create(owner=owner, ca_provider=ca_provider, **defaults | fields)


@pytest.fixture
def letsencrypt(alice) -> AcmeAccount:
    return make_account(alice)


@pytest.fixture
def other(alice) -> AcmeAccount:
    return make_account(alice, "zerossl")


@pytest.fixture
def create(api, guide, letsencrypt):
    return lambda **changes: api.post(
        "certificates", guide(acme_account_id=letsencrypt.pk, **changes)
    )


def many(count: int) -> list[str]:
    """Return `count` names beside the domain."""
    return [f"host{number}.example.com" for number in range(count)]


def test_chosen_options_are_shown(create, other):
    shown = create(**CHOICES, fallback_account_id=other.pk).data_member
    assert {name: shown[name] for name in CHOICES} == CHOICES
    assert shown["fallback_account_id"] == other.pk


def test_nothing_is_chosen_by_itself(create):
    shown = create().data_member
    assert (shown["profile"], shown["preferred_chain"], shown["reuse_key"]) == ("", "", False)
    assert shown["fallback_account_id"] is None


def test_choices_change_and_are_taken_back(api, create, other):
    path = f"certificates/{create().data_member['id']}"
    shown = api.put(path, CHOICES | {"fallback_account_id": other.pk}).data_member
    assert {name: shown[name] for name in CHOICES} == CHOICES
    assert api.put(path, shown).status_code == 200, "what a GET answered may be sent back whole"
    back = {"profile": "", "preferred_chain": "", "reuse_key": False, "fallback_account_id": None}
    shown = api.put(path, back).data_member
    assert {name: shown[name] for name in back} == back


@pytest.mark.parametrize(
    ("body", "status", "field", "says"),
    [
        ({"profile": "a b"}, 400, "profile", "letters, digits"),
        ({"profile": "tls.server"}, 400, "profile", "letters, digits"),
        ({"profile": "p" * 65}, 400, "profile", "at most 64"),
        ({"profile": "nonesuch"}, 400, "profile", "classic, tlsserver, shortlived"),
        (
            {"profile": "tlsserver", "sans": many(25)},
            400,
            "profile",
            "at most 25 names, and this one has 26",
        ),
        (
            {"profile": "shortlived", "sans": many(30)},
            400,
            "profile",
            "at most 25 names, and this one has 31",
        ),
        ({"preferred_chain": "r" * 201}, 400, "preferred_chain", "200"),
        ({"preferred_chain": "ISRG\nRoot"}, 400, "preferred_chain", "control character"),
        ({"preferred_chain": "ISRG\u0007Root"}, 400, "preferred_chain", "control character"),
        ({"preferred_chain": "ISRG\u0000Root"}, 400, "preferred_chain", "control character"),
        (
            {"reuse_key": True, "key_dist_policy": "DEVICE_REQUIRED"},
            400,
            "reuse_key",
            "cannot open the key",
        ),
        ({"reuse_key": "perhaps"}, 400, "reuse_key", ""),
        (
            {"fallback_account_id": 987654},
            404,
            "fallback_account_id",
            "You have no ACME account 987654.",
        ),
        ({"fallback_account_id": 0}, 400, "fallback_account_id", ""),
        ({"fallback_account_id": "mine"}, 400, "fallback_account_id", ""),
    ],
)
def test_an_impossible_choice_is_refused_and_leaves_nothing(api, create, body, status, field, says):
    before = rows()
    assert says in refused(create(**body), status, field)
    assert rows() == before
    pk = create(sans=body.get("sans", [])).data_member["id"]
    before = api.get(f"certificates/{pk}").data_member
    refused(
        api.put(
            f"certificates/{pk}",
            {"organization": "X"} | {n: v for n, v in body.items() if n != "sans"},
        ),
        status,
    )
    assert api.get(f"certificates/{pk}").data_member == before


def test_a_classic_certificate_has_a_hundred_names(create):
    assert create(profile="classic", sans=many(99)).status_code == 201


def test_of_a_ca_whose_profiles_are_not_known_any_is_taken(api, guide):
    assert (
        api.post("certificates", guide(profile="anything-7_x")).data_member["profile"]
        == "anything-7_x"
    )


def test_settings_say_which_profiles_a_ca_has(api, create, settings):
    settings.ACME_CAS = {"letsencrypt": {"profiles": {"big": 3}}}
    assert "Choose one of big" in refused(create(profile="classic"), 400, "profile")
    assert "at most 3 names" in refused(create(profile="big", sans=many(3)), 400, "profile")
    assert create(profile="big", sans=many(2)).status_code == 201


def test_a_profile_that_the_new_ca_lacks_is_refused(api, guide, letsencrypt):
    pk = api.post("certificates", guide(profile="anything")).data_member["id"]
    before = rows()
    moved = {"acme_account_id": letsencrypt.pk}
    assert "has no profile anything" in refused(
        api.put(f"certificates/{pk}", moved), 400, "profile"
    )
    assert rows() == before
    assert api.put(f"certificates/{pk}", moved | {"profile": ""}).status_code == 200


def test_a_pinned_key_and_device_required_exclude_each_other(api, create):
    pk = create(reuse_key=True).data_member["id"]
    Issuance.objects.all().delete()
    refused(api.put(f"certificates/{pk}", {"key_dist_policy": "DEVICE_REQUIRED"}), 400, "reuse_key")
    changed = api.put(
        f"certificates/{pk}", {"key_dist_policy": "DEVICE_REQUIRED", "reuse_key": False}
    )
    assert changed.status_code == 200
    refused(api.put(f"certificates/{pk}", {"reuse_key": True}), 400, "reuse_key")


def test_a_pinned_key_is_kept_by_a_private_ca_too(api):
    root = api.post("cas", {"name": "Office"}).data_member["id"]
    pk = api.post(f"cas/{root}/issue", {"domain": "example.com", "reuse_key": True}).data_member[
        "id"
    ]
    assert api.post(f"certificates/{pk}/renew").data_member["status"] == "SUCCESS"
    first, second = CertificateVersion.objects.order_by("pk")
    assert pki.same_key(first.chain_pem, second.chain_pem)
    assert first.key != second.key


# --- the fallback account ---


def test_another_owners_account_is_not_found(create, bob):
    account = make_account(bob, "zerossl")
    before = rows()
    refused(create(fallback_account_id=account.pk), 404, "fallback_account_id")
    assert rows() == before


def test_an_account_that_was_deleted_is_none(api, create, other):
    api.delete(f"acme-accounts/{other.pk}")
    refused(create(fallback_account_id=other.pk), 404, "fallback_account_id")


def test_the_account_is_not_its_own_fallback(api, create, letsencrypt, other):
    assert "another fallback account" in refused(
        create(fallback_account_id=letsencrypt.pk), 400, "fallback_account_id"
    )
    pk = create(fallback_account_id=other.pk).data_member["id"]
    refused(
        api.put(f"certificates/{pk}", {"acme_account_id": other.pk}), 400, "fallback_account_id"
    )
    assert Certificate.objects.get().account == letsencrypt


def test_a_private_ca_neither_is_a_fallback_nor_has_one(api, create, other):
    private = api.post("cas", {"name": "ours"}).data_member["id"]
    account = api.post("acme-accounts", {"ca_id": private, "terms_accepted": True}).data_member[
        "id"
    ]
    before = rows()
    refused(create(fallback_account_id=account), 400, "fallback_account_id")
    body = {"domain": "example.com", "acme_account_id": account, "fallback_account_id": other.pk}
    refused(api.post("certificates", body), 400, "fallback_account_id")
    assert rows() == before


@pytest.mark.parametrize(
    ("entry", "body", "says"),
    [
        ({"key_sizes": {"rsa": [2048]}}, {}, "signs rsa 2048, not ecdsa 256"),
        ({"max_names": 2}, {"sans": many(2)}, "at most 2 names, and this one has 3"),
        (
            {"profiles": {"tlsserver": 2}},
            {"sans": many(2), "profile": "tlsserver"},
            "at most 2 names",
        ),
        ({"wildcards": False}, {"sans": ["*.example.com"]}, "issues no wildcards"),
    ],
)
def test_the_fallback_must_be_able_to_issue_it(api, create, other, settings, entry, body, says):
    settings.ACME_CAS = {"zerossl": entry}
    before = rows()
    assert says in refused(create(**body, fallback_account_id=other.pk), 400, "fallback_account_id")
    assert rows() == before


def test_a_profile_that_the_fallback_does_not_know_is_no_matter(api, guide, letsencrypt):
    assert (
        api.post(
            "certificates", guide(profile="anything", fallback_account_id=letsencrypt.pk)
        ).status_code
        == 201
    )


def test_a_new_key_must_suit_the_fallback_too(api, create, other, settings):
    settings.ACME_CAS = {"zerossl": {"key_sizes": {"ecdsa": [256]}}}
    pk = create(fallback_account_id=other.pk).data_member["id"]
    refused(api.put(f"certificates/{pk}", {"key_size": 384}), 400, "fallback_account_id")
    assert Certificate.objects.get().key_size == 256


def test_a_fallback_account_is_not_deleted_and_says_whose_it_is(api, create, other):
    pk = create(fallback_account_id=other.pk).data_member["id"]
    assert "fallback account of certificates (example.com)" in refused(
        api.delete(f"acme-accounts/{other.pk}"), 409
    )
    api.put(f"certificates/{pk}", {"fallback_account_id": None})
    assert api.delete(f"acme-accounts/{other.pk}").status_code == 204


# --- attempts ---


def test_attempts_show_their_failure_class_and_whether_they_only_prove(world, api, guide):
    world.ca.problems["new_order"] = [Refused("ca_caa", "No.")]
    pk = api.post("certificates", guide()).data_member["id"]
    shown = api.get(f"certificates/{pk}").data_member
    assert shown["issuance"]["proves"] is False
    world.deliver()
    row = api.get(f"certificates/{pk}/issues").data_member[0]
    result = api.get(f"certificates/{pk}/issue-result").data_member
    assert (
        (row["failure"], row["proves"])
        == (result["failure"], result["proves"])
        == ("transient", False)
    )
    Issuance.objects.update(proves=True, failure="")
    row = api.get(f"certificates/{pk}/issues").data_member[0]
    result = api.get(f"certificates/{pk}/issue-result").data_member
    assert (row["failure"], row["proves"]) == (result["failure"], result["proves"]) == ("", True)
