"""The preflight of an attempt: when it runs, what it costs, and how it ends.

`test_zones`, `test_report` and `test_caa` test each fault.
"""

from datetime import timedelta

import pytest

from authorities import catalog
from authorities.models import PrivateCA
from certctrl import clock, outward
from certctrl.turns import Trouble, Wait
from dnsclient import survey
from dnsclient.survey import CaaPolicy, CAARecord, CnamePath, Survey, Zone
from dnsproviders.base import ProviderError
from dnsproviders.models import DnsCredential, TxtRecord
from issuance import preflight, services
from issuance.beat import renewals
from issuance.challenges.base import Known
from issuance.models import Authorization, Certificate, Issuance, IssuanceEvent
from issuance.preflight import Finding, checks
from keystore import envelope
from tests.fakes.zone import FakeProvider

pytestmark = pytest.mark.django_db
State = Issuance.State

BLOCKS = Finding(
    "caa_forbids", "example.com", "example.com CAA", "Nobody may issue for example.com."
)
WARNS = Finding("lame_server", "example.com", "example.com NS", "One server is lame.", blocks=False)


@pytest.fixture
def finds(monkeypatch):
    """`finds(*findings)` sets the findings of all later looks, and returns these looks."""
    looks = []

    def build(*findings):
        def check(*args, **kwargs):
            looks.append(args)
            return list(findings), Known()

        monkeypatch.setattr(checks, "check", check)
        return looks

    return build


@pytest.fixture
def surveyed(monkeypatch):
    """`surveyed(Survey(...))` sets what DNS has."""
    return lambda seen: monkeypatch.setattr(survey, "survey", lambda names, seconds: seen)


# --- The attempt ---


def test_a_blocking_finding_ends_the_attempt_before_it_orders(world, account, credential, finds):
    finds(WARNS, BLOCKS)
    certificate, issuance = world.create(account, credential)
    world.deliver()
    issuance.refresh_from_db()
    certificate.refresh_from_db()
    assert (issuance.state, issuance.error_code) == (State.FAILED, "preflight_caa_forbids")
    assert issuance.error_what == BLOCKS.what
    assert "ca.new_order" not in world.outside.calls
    assert not TxtRecord.objects.exists()
    assert certificate.failures == 1
    assert timedelta(minutes=15) <= certificate.renew_at - world.time <= timedelta(minutes=70)


def test_once_the_finding_is_fixed_the_next_attempt_is_issued(world, account, credential, finds):
    finds(BLOCKS)
    certificate, _ = world.create(account, credential)
    world.deliver()
    finds()
    services.issue(certificate)
    world.deliver()
    assert Issuance.objects.latest("pk").state == State.ISSUED


def test_a_finding_that_does_not_block_is_an_event_and_the_order_continues(
    world, account, credential, finds
):
    finds(WARNS)
    _, issuance = world.create(account, credential)
    world.deliver()
    issuance.refresh_from_db()
    assert issuance.state == State.ISSUED
    events = list(issuance.events.order_by("pk").values_list("step", "outcome", "what")[:2])
    assert events[0] == ("preflight", "done", WARNS.what)
    assert events[1][:2] == ("order", "done")


def test_nothing_found_is_no_event(world, account, credential, finds):
    finds()
    world.create(account, credential)
    world.deliver()
    assert not IssuanceEvent.objects.filter(step="preflight").exists()


def test_an_attempt_that_waits_for_its_ca_looks_once_an_hour(world, account, credential, finds):
    looks = finds()
    world.ca.problems["new_order"] = [
        Trouble("ca_error", "Later.", retry_after=1200) for _ in range(4)
    ]
    world.create(account, credential)
    world.deliver()
    for minutes, expected in ((26, 1), (26, 1), (26, 2), (26, 2)):
        world.advance(minutes * 60)
        world.sweep()
        assert len(looks) == expected
    assert Issuance.objects.get().state == State.ISSUED
    assert world.outside.calls.count("ca.new_order") == 5


def test_an_order_that_is_there_already_is_not_looked_at_again(world, account, credential, finds):
    looks = finds()
    world.ca.problems["read_authorization"] = [Trouble("ca_error", "Later.", retry_after=7000)]
    world.create(account, credential)
    world.deliver()
    world.advance(7000 * 1.25)
    world.sweep()
    assert Issuance.objects.get().state == State.ISSUED
    assert len(looks) == 1


def test_a_worker_that_dies_in_the_preflight_leaves_it_to_the_next(
    world, account, credential, settings
):
    world.outside.die_at = (0, "after")
    world.create(account, credential)
    assert not world.deliver_unless_killed()
    assert Issuance.objects.get().preflighted_at is None
    world.advance(settings.LEASE + 1)
    world.settle()
    assert Issuance.objects.get().state == State.ISSUED


def test_a_lost_turn_writes_nothing(world, account, credential, monkeypatch):
    def canceled(*args, **kwargs):
        services.cancel(Certificate.objects.get())
        return [WARNS]

    monkeypatch.setattr(checks, "check", canceled)
    world.create(account, credential)
    world.deliver()
    assert Issuance.objects.get().state == State.CANCELED
    assert Issuance.objects.get().preflighted_at is None
    assert not IssuanceEvent.objects.filter(step="preflight").exists()
    assert "ca.new_order" not in world.outside.calls


def test_a_private_ca_has_no_preflight(world, owner, finds):
    looks = finds(BLOCKS)
    private_ca = PrivateCA(name="ours")
    account = world.account(owner)
    account.private_ca = private_ca
    account.private_ca_id = 1
    client = world.ca.client_for(account)
    assert preflight.before_order(Issuance(account=account), client) == (Known(), {})
    assert looks == []


def test_half_of_the_turn_is_left_for_the_order(world, account, credential, settings, monkeypatch):
    seen = []
    monkeypatch.setattr(
        survey,
        "survey",
        lambda names, seconds: seen.append((clock.remaining(), seconds)) or Survey(),
    )
    world.create(account, credential)
    world.deliver()
    ((rest, seconds),) = seen
    assert rest <= settings.TURN / 2
    assert seconds < settings.CALL_LIMIT


# --- The CA's name in CAA records ---

POLICY = Survey(
    policies={"example.com": CaaPolicy("example.com", (CAARecord(0, "issue", "letsencrypt.org"),))}
)


def codes_of(certificate, account, credential, client) -> list[str]:
    found, _ = preflight.check(certificate, account, credential, client)
    return [each.code for each in found]


@pytest.fixture
def certificate(world, account, credential):
    return world.create(account, credential, "example.com")[0]


@pytest.mark.parametrize(
    ("provider", "said", "code"),
    [
        ("letsencrypt", ("ca.test",), ["caa_forbids"]),  # the directory counts
        ("letsencrypt", (), []),
        ("letsencrypt_staging", (), []),
        ("zerossl", (), ["caa_forbids"]),
        ("custom", (), []),
        ("custom", ("letsencrypt.org",), []),
        ("removed-from-the-settings", (), []),
    ],
)
def test_the_directory_names_the_ca_else_what_is_known_of_it(
    world, account, credential, certificate, surveyed, provider, said, code
):
    surveyed(POLICY)
    account.ca_provider = provider
    world.ca.caa_identities = said
    assert codes_of(certificate, account, credential, world.ca.client_for(account)) == code


@pytest.mark.parametrize("trouble", [Trouble("ca_unreachable", "It is away."), Wait(5, "Later.")])
def test_a_ca_that_is_away_is_known_by_our_own_data(
    world, account, credential, certificate, surveyed, monkeypatch, trouble
):
    def away(self):
        raise trouble

    surveyed(POLICY)
    client = world.ca.client_for(account)
    monkeypatch.setattr(type(client), "caa_identities", away)
    account.ca_provider = "zerossl"
    assert codes_of(certificate, account, credential, client) == ["caa_forbids"]


def test_the_settings_may_say_the_cas_names(settings):
    settings.ACME_CAS = {"custom": {"caa_identities": ["ca.corp.example"]}}
    assert catalog.info("custom").caa_identities == ("ca.corp.example",)


# --- The credential ---


def test_the_provider_is_asked_once_for_each_zone(world, account, credential):
    names = [f"host{number}.example.com" for number in range(5)] + [
        "a.example.org",
        "b.example.org",
    ]
    certificate, _ = world.create(account, credential, *names)
    preflight.run(certificate)
    assert world.outside.calls.count("zone.zone_of") == 2


def test_names_below_a_private_suffix_are_zones_of_their_own(world, account, credential):
    certificate, _ = world.create(
        account, credential, "home1.dedyn.io", "home2.dedyn.io", "www.home2.dedyn.io"
    )
    preflight.run(certificate)
    assert world.outside.calls.count("zone.zone_of") == 2


def test_certificates_of_many_zones_ask_for_some_of_them(world, account, credential):
    certificate, _ = world.create(
        account, credential, *(f"example{number}.com" for number in range(30))
    )
    preflight.run(certificate)
    assert world.outside.calls.count("zone.zone_of") == preflight.MOST_ZONES


@pytest.mark.parametrize(
    ("error", "code", "blocks"),
    [
        (ProviderError("dns_zone_not_found", "No zone.", permanent=True), "zone_not_found", True),
        (
            ProviderError("dns_credential_refused", "Refused.", permanent=True),
            "credential_refused",
            True,
        ),
        (ProviderError("dns_unreachable", "Away."), "credential_unchecked", False),
        (ProviderError("dns_rate_limited", "Slow down."), "credential_unchecked", False),
        (Wait(20, "The API's calls are spent."), "credential_unchecked", False),
        (Trouble("cannot_open", "No master key.", permanent=True), "credential_unchecked", False),
    ],
)
def test_only_a_refusal_of_the_provider_blocks(
    world, account, credential, certificate, error, code, blocks
):
    world.zone.blinds = error
    (found,) = preflight.run(certificate)
    assert (found.code, found.blocks) == (code, blocks)
    assert found.what == (
        error.what if isinstance(error, Trouble) else "The API's calls are spent."
    )


def test_a_renewal_does_not_ask_again_what_the_last_attempt_proved(world, account, credential):
    certificate, _ = world.create(account, credential)
    world.deliver()
    world.advance(credential.ttl)
    world.outside.calls.clear()
    services.issue(certificate)
    world.deliver()
    assert Issuance.objects.latest("pk").state == State.ISSUED
    assert world.outside.calls[0] == "ca.new_order"


def test_a_zone_hidden_from_the_public_is_reported_without_blocking(world, account, credential):
    world.zone.doubt = "The zone is pending."
    certificate, issuance = world.create(account, credential)
    world.deliver()
    assert Issuance.objects.get().state == State.ISSUED
    assert "The zone is pending." in issuance.events.get(step="preflight").what
    (found,) = preflight.run(certificate)
    assert (found.code, found.blocks, found.record) == (
        "zone_unseen",
        False,
        "_acme-challenge.example.com TXT",
    )


def test_a_changed_credential_is_checked_again(world, account, credential, owner):
    certificate, _ = world.create(account, credential)
    world.deliver()
    services.update_certificate(certificate, {"credential": world.credential(owner)})
    world.outside.calls.clear()
    services.issue(certificate)
    world.deliver()
    assert world.outside.calls[:2] == ["zone.zone_of", "ca.new_order"]


def test_an_attempt_that_wrote_nothing_proves_nothing(world, account, credential):
    world.ca.problems["new_order"] = [Trouble("ca_error", "No.", permanent=True)]
    certificate, _ = world.create(account, credential)
    world.deliver()
    world.outside.calls.clear()
    services.issue(certificate)
    world.deliver()
    assert world.outside.calls[0] == "zone.zone_of"


@pytest.fixture
def in_one_zone(monkeypatch):
    """DNS shows every name in the zone example.com."""

    def look(names, seconds):
        paths = {name: CnamePath((f"_acme-challenge.{name}",)) for name in names}
        zone = Zone("example.com", {"ns1": 1})
        return Survey(paths=paths, zones={path.final: zone for path in paths.values()})

    monkeypatch.setattr(survey, "survey", look)


def issued(world, account, credential, name: str) -> list[str]:
    """Return the calls of a walk from the request to the issued certificate."""
    world.outside.calls.clear()
    world.create(account, credential, name)
    world.deliver()
    assert Issuance.objects.latest("pk").state == State.ISSUED
    return world.outside.calls


def test_a_zone_that_was_just_shown_is_not_asked_for_again(world, account, credential, in_one_zone):
    assert issued(world, account, credential, "a.example.com")[0] == "zone.zone_of"
    assert "zone.zone_of" not in issued(world, account, credential, "b.example.com")


MANY = tuple(f"host{number}.example.com" for number in range(5))


def test_a_walk_asks_for_the_zone_of_many_names_once(world, account, credential, in_one_zone):
    certificate, _ = world.create(account, credential, *MANY)
    world.deliver()
    assert world.outside.calls.count("zone.zone_of") == 1
    world.outside.calls.clear()
    world.advance(7200)
    services.issue(certificate)
    world.deliver()
    assert Issuance.objects.latest("pk").state == State.ISSUED
    assert world.outside.calls.count("zone.present") == 5
    assert world.outside.calls.count("zone.zone_of") == 1
    assert set(TxtRecord.objects.values_list("zone", flat=True)) == {"example.com"}


def test_a_zone_that_resolvers_do_not_see_is_of_one_record(
    world, account, credential, in_one_zone, monkeypatch
):
    monkeypatch.setattr(FakeProvider, "zone_of", lambda provider, name: f"own.{name}")
    world.create(account, credential, *MANY)
    world.deliver()
    assert TxtRecord.objects.count() == 5
    assert all(each.zone == f"own.{each.name}" for each in TxtRecord.objects.all())


def test_a_zone_is_asked_for_again_after_a_minute(world, account, credential, in_one_zone):
    issued(world, account, credential, "a.example.com")
    world.advance(checks.SHOWN_KEPT)
    assert issued(world, account, credential, "b.example.com")[0] == "zone.zone_of"


def test_another_secret_is_asked_for_the_zone_again(world, account, credential, owner, in_one_zone):
    issued(world, account, credential, "a.example.com")
    secret = envelope.seal(owner, "dns_credential", b'{"token": "another"}')
    DnsCredential.objects.filter(pk=credential.pk).update(secret=secret)
    assert issued(world, account, credential, "b.example.com")[0] == "zone.zone_of"


def test_a_zone_with_a_doubt_is_asked_for_again(world, account, credential, in_one_zone):
    world.zone.doubt = "The zone is pending."
    issued(world, account, credential, "a.example.com")
    assert issued(world, account, credential, "b.example.com")[0] == "zone.zone_of"


def test_a_person_who_asks_gets_a_new_answer_about_the_zone(
    world, account, credential, in_one_zone
):
    issued(world, account, credential, "a.example.com")
    world.zone.blinds = ProviderError("dns_zone_not_found", "No zone.", permanent=True)
    (found,) = preflight.run(Certificate.objects.get())
    assert found.code == "zone_not_found"


def test_a_challenge_of_unknown_place_is_not_asked_about(world, certificate, surveyed):
    loop = CnamePath(
        ("_acme-challenge.example.com", "a.test"), trouble=Trouble("dns_cname_loop", "A circle.")
    )
    surveyed(Survey(paths={"example.com": loop}))
    assert [each.code for each in preflight.run(certificate)] == ["cname_loop"]
    assert "zone.zone_of" not in world.outside.calls


def test_without_a_credential_the_person_is_notified(world, account):
    world.create(account, world.credential(account.owner), "example.com")
    certificate = Certificate.objects.get()
    certificate.credential = None
    assert [(each.code, each.blocks) for each in preflight.run(certificate)] == [
        ("no_credential", True)
    ]


@pytest.mark.parametrize("again", [False, True])
def test_a_credential_that_is_refused_asks_for_a_person(world, account, credential, again):
    certificate, _ = world.create(account, credential)
    if again:
        world.deliver()
        Certificate.objects.update(renew_at=world.time)
        Authorization.objects.update(record=None)  # so that the provider is asked again
    world.zone.blinds = ProviderError("dns_credential_refused", "Refused.", permanent=True)
    renewals.scan_renewals.run()
    world.sweep()
    issuance = Issuance.objects.latest("pk")
    certificate.refresh_from_db()
    assert (issuance.error_code, issuance.failure) == ("preflight_credential_refused", "permanent")
    if again:
        assert certificate.renew_at > world.time + timedelta(hours=20)
    else:
        assert certificate.renew_at is None


def test_more_names_than_the_profile_takes_are_found(world, owner, credential, settings):
    account = world.account(owner, ca_provider="letsencrypt")
    names = [f"host{number}.example.com" for number in range(20)]
    certificate, _ = world.create(account, credential, *names, profile="tlsserver")
    settings.ACME_CAS = {
        "letsencrypt": {"profiles": {"tlsserver": 10}}
    }  # since then the CA takes fewer
    (found,) = preflight.run(certificate)
    assert (found.code, found.blocks) == ("too_many_names", True)
    assert "at most 10 in a certificate of the profile tlsserver" in found.what


# --- As many as there may be at once ---


def test_a_throttled_check_or_preflight_says_when_to_retry(client_of, world, account, credential):
    certificate, _ = world.create(account, credential)
    client = client_of(certificate.owner)
    with outward.for_owner(certificate.owner_id), outward.for_owner(certificate.owner_id):
        for path in (
            f"dns-providers/{credential.pk}/check",
            f"certificates/{certificate.pk}/preflight",
        ):
            answer = client.post(f"/apiv1/me/{path}")
            assert (answer.status_code, answer.error["code"]) == (429, 5013)
            assert answer.headers["Retry-After"] == str(outward.PAUSE)
        assert client.get("/apiv1/me/certificates").status_code == 200
