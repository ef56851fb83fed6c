"""The owner of a CA that ends is warned, and a renewal that gains no time is a failure."""

from datetime import timedelta

import pytest

from authorities import accounts, clients, pki, privateca
from authorities.models import PrivateCA
from certctrl import clock
from issuance import drills, notify, services
from issuance.beat import renewals, warnings
from issuance.models import Certificate, Issuance, RenewalInfo
from issuance.renewal import lifetime
from notices.models import Notice

pytestmark = pytest.mark.django_db
Kind = Notice.Kind
State = Issuance.State
Reason = Issuance.Reason
DAY = 86400


@pytest.fixture(autouse=True)
def _real_authority(monkeypatch, world):
    """The fake CA replaces ACME CAs only, and a private CA signs for itself."""

    def client_for(account):
        return (
            privateca.PrivateAuthority(account.private_ca)
            if account.private_ca
            else world.client_for(account)
        )

    monkeypatch.setattr(clients, "client_for", client_for)


@pytest.fixture
def make_ca(world, owner):
    """`make_ca(120)` makes a private CA that is valid for 120 days."""

    def build(days: int, name: str = "Home") -> PrivateCA:
        return privateca.create_private_ca(owner, {"name": name, "valid_days": days})

    return build


@pytest.fixture
def issue(world, owner):
    """`issue(private_ca, "nas.local")` issues a certificate of 90 days."""

    def build(private_ca: PrivateCA, domain: str = "nas.local", **fields) -> Certificate:
        account = accounts.create_account(owner, {"ca_id": private_ca.pk})
        certificate, _ = world.create(account, None, domain, **fields)
        certificate.refresh_from_db()
        return certificate

    return build


def live(world, days: int) -> None:
    """Run the scan, the sweep and the warnings every day for `days` days."""
    for _ in range(days):
        world.advance(DAY)
        renewals.scan_renewals.run()
        world.sweep()
        warnings.warn_expiry.run()


def told(kind: str) -> list[Notice]:
    return list(Notice.objects.filter(kind=kind).order_by("pk"))


# --- the warnings ---


@pytest.mark.slow
def test_a_private_ca_that_ends_is_warned_about_at_90_30_14_and_7_days(world, owner, make_ca):
    home = make_ca(120)
    live(world, 130)
    notices = told(Kind.CA_EXPIRING)
    assert [each.data["days"] for each in notices] == [90, 30, 14, 7]
    assert {each.owner for each in notices} == {owner}
    assert notices[1].subject == "The private CA Home expires in 30 days"
    assert f"valid until {home.not_after:%Y-%m-%d %H:%M} UTC" in notices[1].body
    assert "No certificate in use has an account of it." in notices[1].body
    assert notices[1].data["ca_id"] == home.pk


@pytest.mark.slow
@pytest.mark.parametrize(("days", "warned"), [(60, [90, 30, 14, 7]), (20, [30, 14, 7]), (5, [7])])
def test_a_ca_that_was_made_for_less_is_warned_of_at_once(world, make_ca, days, warned):
    make_ca(days)
    warnings.warn_expiry.run()
    assert [each.data["days"] for each in told(Kind.CA_EXPIRING)] == warned[:1]
    live(world, days + 10)
    assert [each.data["days"] for each in told(Kind.CA_EXPIRING)] == warned


@pytest.mark.slow
def test_each_of_several_cas_is_warned_of_and_names_what_it_signed(world, make_ca, issue):
    homes = [make_ca(85, "One"), make_ca(86, "Two")]
    for number in range(7):
        issue(homes[1], f"n{number}.local")
    warnings.warn_expiry.run()
    warnings.warn_expiry.run()
    one, two = told(Kind.CA_EXPIRING)
    assert (one.data["name"], one.data["certificates"]) == ("One", 0)
    assert (two.data["name"], two.data["certificates"]) == ("Two", 7)
    used = "7 (n0.local, n1.local, n2.local, n3.local, n4.local and 2 more)"
    assert f"account of it: {used}" in two.body


def test_a_ca_that_was_deleted_is_not_warned_of(world, make_ca):
    accounts.retire_private_ca(make_ca(20))
    live(world, 25)
    assert told(Kind.CA_EXPIRING) == []


@pytest.mark.postgres
def test_a_ca_that_ended_while_the_server_was_down_makes_one_notice(world, make_ca):
    make_ca(40)
    world.advance(75 * DAY)
    warnings.warn_expiry.run()
    warnings.warn_expiry.run()
    (notice,) = told(Kind.CA_EXPIRING)
    assert notice.subject == "The private CA Home has expired"
    assert "was valid until" in notice.body


# --- a private CA's leafs ---


@pytest.mark.slow
def test_the_notice_of_a_renewal_that_the_ca_cut_short_says_so(world, make_ca, issue):
    home = make_ca(120)
    certificate = issue(home)
    live(world, 62)
    (notice,) = told(Kind.RENEWED)
    certificate.refresh_from_db()
    assert certificate.expires_at == home.not_after
    assert "Machines that fetch it need nothing" not in notice.body
    assert (
        f"could not last longer, because its CA, Home, ends at {home.not_after:%Y-%m-%d %H:%M} UTC"
        in notice.body
    )
    assert "Make a new private CA" in notice.body


@pytest.mark.slow
@pytest.mark.postgres
def test_a_renewal_that_gains_no_time_fails_and_the_certificate_stays(world, make_ca, issue):
    certificate = issue(make_ca(120))
    live(world, 62)
    before = Certificate.objects.get().current
    live(world, 45)
    certificate.refresh_from_db()
    failed = certificate.issuances.filter(state=State.FAILED)
    assert {each.error_code for each in failed} == {"renewal_gains_nothing"}
    assert "no longer than the one in use, which stays" in failed[0].error_what
    assert "its CA, Home, ends at" in failed[0].error_what
    assert certificate.current == before
    assert certificate.versions.count() == 2
    assert len(told(Kind.RENEWED)) == 1


@pytest.mark.slow
def test_until_its_ca_ends_a_certificate_is_tried_only_a_few_times(world, make_ca, issue):
    certificate = issue(make_ca(120))
    live(world, 119)
    assert certificate.issuances.count() <= 8
    assert len(told(Kind.RENEWAL_FAILED)) <= 3
    assert told(Kind.EXPIRING), "the person is warned that it will stop"


@pytest.mark.slow
def test_with_an_account_of_a_new_ca_renewal_continues(world, owner, make_ca, issue):
    certificate = issue(make_ca(120))
    live(world, 110)
    account = accounts.create_account(owner, {"ca_id": make_ca(3650, "Home 2").pk})
    services.update_certificate(certificate, {"account": account})
    certificate.refresh_from_db()
    assert certificate.current.issuer == "Home 2"
    assert certificate.expires_at > world.time + timedelta(days=89)
    assert "Machines that fetch it need nothing" in told(Kind.RENEWED)[-1].body


def test_a_requested_renewal_that_gains_no_time_is_stored_and_says_so(world, make_ca, issue):
    certificate = issue(make_ca(60))
    world.advance(10 * DAY)
    first = certificate.current
    issuance = services.issue(certificate)
    certificate.refresh_from_db()
    assert issuance.state == State.ISSUED
    assert certificate.current != first
    (notice,) = told(Kind.RENEWED)
    assert notice.subject == "nas.local was renewed, but not for longer"
    assert "Machines that fetch it need nothing" not in notice.body
    assert "could not last longer" in issuance.events.get(step="download").what


@pytest.mark.slow
def test_a_revoked_version_is_replaced_without_gaining_time(world, make_ca, issue):
    certificate = issue(make_ca(60))
    services.revoke(certificate, "keyCompromise")
    live(world, 45)
    certificate.refresh_from_db()
    assert certificate.versions.count() >= 2
    assert not certificate.current.revoke_asked_at


@pytest.mark.slow
def test_another_key_that_a_person_chose_comes_with_the_next_renewal(world, make_ca, issue):
    certificate = issue(make_ca(60))
    services.update_certificate(certificate, {"key_size": 384})
    live(world, 45)
    kinds = [pki.key_kind(each.chain_pem) for each in certificate.versions.order_by("pk")]
    assert kinds == [("ecdsa", 256), ("ecdsa", 384)]


def test_a_drill_replaces_what_gains_nothing(world, owner, make_ca, issue):
    certificate = issue(make_ca(60))
    world.advance(DAY)
    running = drills.start(owner, account=certificate.account)
    world.advance(1)
    renewals.advance_drills.run()
    live(world, 1)
    renewals.advance_drills.run()
    running.refresh_from_db()
    assert running.ended_at
    assert certificate.versions.count() == 2


def test_a_ca_that_has_ended_says_what_to_do(world, make_ca, issue):
    certificate = issue(make_ca(30))
    world.advance(31 * DAY)
    issuance = services.issue(certificate)
    assert (issuance.state, issuance.error_code) == (State.FAILED, "ca_expired")
    assert "The private CA Home expired at" in issuance.error_what
    assert "give the certificates an account of the new CA (acme_account_id)" in issuance.error_what


# --- an ACME CA that caps ---


@pytest.fixture
def capped(world, account, credential) -> Certificate:
    """A certificate of a CA whose own certificate ends in 120 days."""
    world.ca.ends = world.time.replace(microsecond=0) + timedelta(days=120)
    certificate, _ = world.create(account, credential, "example.com")
    world.settle()
    certificate.refresh_from_db()
    return certificate


def settle_for(world, days: int) -> None:
    """Like `live`, for renewals that take several sweeps. Windows are polled sometimes."""
    for day in range(days):
        world.advance(DAY)
        warnings.warn_expiry.run()
        if day % 5 == 0 or renewals.due_for_renewal(world.time):
            renewals.scan_renewals.run()
            world.settle()


@pytest.mark.slow
@pytest.mark.parametrize("has_windows", [False, True])
def test_an_acme_cas_cap_is_read_from_the_chain(world, capped, has_windows):
    world.ca.offers_renewal_info = has_windows
    settle_for(world, 119)
    capped.refresh_from_db()
    assert capped.versions.count() == 2
    assert capped.expires_at == world.ca.ends
    (notice,) = told(Kind.RENEWED)
    assert "its CA, fake CA, ends at" in notice.body
    failed = capped.issuances.filter(state=State.FAILED)
    assert 1 <= failed.count() <= 7
    assert {each.error_code for each in failed} == {"renewal_gains_nothing"}
    assert "fallback_account_id" in failed[0].error_what
    assert len(told(Kind.RENEWAL_FAILED)) <= 3
    assert told(Kind.EXPIRING)


@pytest.mark.slow
def test_when_the_ca_signs_with_another_certificate_renewal_continues(world, capped):
    settle_for(world, 105)
    world.ca.ends = None
    settle_for(world, 14)
    capped.refresh_from_db()
    assert capped.expires_at > world.time + timedelta(days=60)
    assert capped.failures == 0
    assert "Machines that fetch it need nothing" in told(Kind.RENEWED)[-1].body


@pytest.mark.slow
def test_an_attempt_after_one_that_gained_nothing_orders_again(world, capped):
    settle_for(world, 62)
    Certificate.objects.update(renew_at=world.time)
    settle_for(world, 1)
    ordered = len(world.ca.orders)
    assert capped.issuances.get(state=State.FAILED).error_code == "renewal_gains_nothing"
    world.ca.ends = None
    issuance = services.issue(capped)
    world.settle()
    issuance.refresh_from_db()
    capped.refresh_from_db()
    assert len(world.ca.orders) == ordered + 1
    assert capped.expires_at > world.time + timedelta(days=80)


@pytest.mark.slow
def test_a_shorter_life_by_the_cas_choice_is_no_cap(world, account, credential):
    certificate, _ = world.create(account, credential, "example.com")
    world.settle()
    world.ca.life = timedelta(days=6)
    settle_for(world, 70)
    assert not certificate.issuances.filter(state=State.FAILED).exists()
    assert told(Kind.RENEWAL_FAILED) == []


def test_the_note_on_a_cap_parses_what_chains_share_once(world, account, credential, monkeypatch):
    rows = []
    for number in range(3):
        made, _ = world.create(account, credential, f"n{number}.example.com")
        rows.append(made)
    world.settle()
    parsed = []
    load = pki.load_chain
    monkeypatch.setattr(pki, "load_chain", lambda pem: parsed.append(pem) or load(pem))
    pki._first_end.cache_clear()
    for row in rows:
        row.refresh_from_db()
        assert lifetime.notes(row) == []
    assert len(parsed) == 1


@pytest.mark.parametrize(("before", "may_be"), [(-1, True), (59, True), (61, False)])
def test_a_leaf_that_ends_an_hour_before_its_ca_has_no_cap(world, capped, before, may_be):
    ends = world.ca.ends - timedelta(minutes=before)
    assert pki.may_be_capped(capped.current.chain_pem, ends) is may_be


def test_a_capped_certificate_has_a_note(world, capped):
    services.issue(capped)
    world.advance(DAY * 60)
    services.issue(capped)
    world.settle()
    capped.refresh_from_db()
    assert capped.current.not_after == world.ca.ends
    assert pki.cap_of(capped.current.chain_pem)
    assert "ends at" in lifetime.notes(capped)[0]


def test_a_chain_without_an_issuer_has_no_cap(world, capped):
    leaf = pki.split_chain(capped.current.chain_pem).leaf
    assert not pki.may_be_capped(leaf, world.ca.ends)


def test_a_version_about_to_be_revoked_is_replaced_without_gaining_time(world, account, credential):
    world.ca.offers_renewal_info = True
    world.ca.ends = world.time.replace(microsecond=0) + timedelta(days=60)
    certificate, _ = world.create(account, credential, "example.com")
    world.settle()
    world.advance(5 * DAY)
    past = clock.now() - timedelta(hours=1)
    RenewalInfo.objects.update(window_start=past - timedelta(hours=1), window_end=past)
    Certificate.objects.update(renew_at=world.time)
    renewals.scan_renewals.run()
    world.settle()
    assert certificate.versions.count() == 2


def test_a_private_ca_with_nothing_near_its_end_is_not_looked_at(world, make_ca):
    make_ca(3650)
    assert list(notify.near_end(world.time)) == []
