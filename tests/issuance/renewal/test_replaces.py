"""A renewal's order names the old certificate in `replaces`, unless the CA refuses that."""

from datetime import timedelta

import pytest
from django.db.models import Count

from authorities.errors import Refused
from certctrl.turns import Trouble
from issuance import services, workflow
from issuance.beat import renewals
from issuance.models import Certificate, CertificateVersion, Issuance, RenewalInfo
from issuance.renewal import ari, schedule
from tests.fakes.outside import Died
from tests.issuance.failing import read

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ari_offered")]


@pytest.fixture
def certificate(world, account, credential) -> Certificate:
    made, _ = world.create(account, credential, "example.com")
    world.deliver()
    world.settle()
    return read(made)


def renewed(world, certificate: Certificate) -> Issuance:
    world.advance(60)  # what the CA's resolver keeps of the last challenge is over
    issuance = services.issue(read(certificate))
    world.deliver()
    issuance.refresh_from_db()
    return issuance


def ordered(world) -> list[str]:
    """Return what each order at the CA replaces."""
    return [order.replaces for order in world.ca.orders.values()]


def new_orders(world) -> int:
    return world.outside.calls.count("ca.new_order")


def test_a_renewal_says_which_certificate_it_replaces(world, certificate):
    ari_id = certificate.current.ari_id
    issuance = renewed(world, certificate)
    assert ordered(world) == ["", ari_id]
    assert (issuance.replaces, issuance.replaces_refused, issuance.state) == (
        ari_id,
        False,
        "issued",
    )


def test_a_ca_without_renewal_info_gets_no_replaces(world, certificate):
    world.ca.offers_renewal_info = False
    assert renewed(world, certificate).replaces == ""
    assert ordered(world) == ["", ""]


def test_an_attempt_that_only_proves_sends_no_replaces(world, certificate):
    services.issue(certificate)
    Issuance.objects.open().update(proves=True)
    world.deliver()
    assert ordered(world) == ["", ""]


def test_an_account_that_did_not_order_it_sends_no_replaces(world, certificate, owner):
    other = world.account(owner, url="https://ca.test/acct/2")
    services.update_certificate(read(certificate), {"account": other})
    world.deliver()
    assert ordered(world) == ["", ""]
    assert new_orders(world) == 2


def test_after_already_replaced_the_same_turn_orders_without_replaces(world, certificate):
    order = world.ca.new_order(
        certificate.account_id, ("elsewhere.test",), certificate.current.ari_id
    )
    issuance = renewed(world, certificate)
    assert (issuance.state, issuance.replaces, issuance.replaces_refused) == ("issued", "", True)
    assert new_orders(world) == 3
    told = issuance.events.get(outcome="retry")
    assert (told.step, told.what.startswith("The next order is sent without")) == ("order", True)
    assert "replaced already" in told.what
    assert [each for each in ordered(world) if each] == [order.replaces]


@pytest.mark.parametrize(
    "refusal",
    [
        Refused("ca_malformed", "No such certificate."),
        Refused("ca_unauthorized", "Not yours."),
        Refused("ca_not_found", "404"),
        Refused("ca_user_action_required", "New terms.", permanent=True),
    ],
)
def test_any_other_refusal_is_met_by_leaving_it_out(world, certificate, refusal):
    world.ca.problems["new_order"] = [refusal]
    assert renewed(world, certificate).state == "issued"
    assert ordered(world) == ["", ""]


@pytest.mark.parametrize(
    "code",
    [
        "ca_rejected_identifier",
        "ca_unsupported_identifier",
        "ca_caa",
        "ca_dns",
        "ca_account_deactivated",
    ],
)
def test_replaces_is_kept_after_a_refusal_of_names_or_account(world, certificate, code):
    world.ca.problems["new_order"] = [Refused(code, "No.")]
    issuance = renewed(world, certificate)
    assert (issuance.state, issuance.error_code, issuance.replaces_refused) == (
        "failed",
        code,
        False,
    )
    assert new_orders(world) == 2


@pytest.mark.parametrize(
    "code", ["ca_rate_limited", "ca_bad_nonce", "ca_account_unknown", "ca_unreachable", "ca_error"]
)
def test_trouble_is_no_reason_to_leave_it_out(world, certificate, code):
    world.ca.problems["new_order"] = [Trouble(code, "Not now.")]
    issuance = renewed(world, certificate)
    assert (issuance.is_open, issuance.replaces_refused) == (True, False)
    assert new_orders(world) == 2
    world.settle(step=60)
    issuance.refresh_from_db()
    assert issuance.replaces == certificate.current.ari_id


def test_an_error_of_the_cas_own_that_stays_is_met_by_leaving_it_out(
    world, certificate, monkeypatch
):
    new_order = world.ca.new_order

    def cannot_find_it(account, names, replaces=""):
        if replaces:
            raise Trouble(
                "ca_error", "Could not find the order of the certificate (serverInternal)."
            )
        return new_order(account, names)

    monkeypatch.setattr(world.ca, "new_order", cannot_find_it)
    issuance = renewed(world, certificate)
    world.settle(step=60)
    issuance.refresh_from_db()
    assert (issuance.state, issuance.replaces_refused) == ("issued", True)


def test_the_next_renewal_says_it_again(world, certificate):
    world.ca.problems["new_order"] = [Refused("ca_malformed", "No such certificate.")]
    renewed(world, certificate)
    ari_id = read(certificate).current.ari_id
    assert renewed(world, certificate).replaces == ari_id


def test_asking_what_an_order_replaces_costs_no_query_of_its_own(
    world, certificate, django_assert_num_queries
):
    services.issue(certificate)
    reads = workflow.STEPS[0].reads
    held = Issuance.objects.select_related(*reads).get(wake_at__isnull=False)
    ari_id = certificate.current.ari_id
    with django_assert_num_queries(0):
        assert ari.replaces_of(held, world.client_for(held.account)) == ari_id


# --- deaths ---


def renewing(world, certificate: Certificate, settings) -> None:
    """Move the window into the past. Sweep and scan until the new version exists."""
    world.ca.windows[certificate.current.ari_id] = (
        world.time - timedelta(days=2),
        world.time - timedelta(days=1),
    )
    for _ in range(12):
        renewals.scan_renewals.run()
        try:
            world.sweep()
        except Died:
            world.outside.die_at = None
            world.messages.clear()
        if world.is_quiet() and read(certificate).current_id != certificate.current_id:
            return
        world.advance(settings.LEASE)


@pytest.fixture
def in_step(monkeypatch):
    """The new version's own poll is as late as possible."""
    monkeypatch.setattr(schedule, "draw", lambda: 1.0)


def calls_of_a_renewal() -> list[str]:
    """Return the outside calls. `test_the_list_is_what_a_renewal_makes` checks them."""
    validation = ["ca.answer", "ca.read_order", "ca.finalize", "ca.download"]
    presenting = ["zone.zone_of", "zone.present", "zone.look"]
    return [
        "ca.renewal_info",
        "ca.new_order",
        "ca.read_authorization",
        *presenting,
        *validation,
        "zone.cleanup",
    ]


CALLS = calls_of_a_renewal()


def test_the_list_is_what_a_renewal_makes(world, certificate, settings, in_step):
    before = len(world.outside.calls)
    renewing(world, certificate, settings)
    assert world.outside.calls[before:] == CALLS


@pytest.mark.postgres
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    "index", range(len(CALLS)), ids=[f"{n}-{name}" for n, name in enumerate(CALLS)]
)
def test_a_death_there_replaces_once(world, certificate, settings, in_step, index, moment):
    world.outside.die_at = (len(world.outside.calls) + index, moment)
    renewing(world, certificate, settings)
    assert world.outside.die_at is None
    assert CertificateVersion.objects.count() == 2
    assert Issuance.objects.filter(state="issued").count() == 2
    assert ordered(world) == ["", certificate.current.ari_id]
    assert world.zone.txt() == []


# --- many ---


@pytest.mark.slow
def test_200_windows_moved_into_the_past_replace_each_certificate_once(
    world, account, credential, settings
):
    for number in range(200):
        world.create(account, credential, f"host{number}.example.com")
    world.deliver()
    world.settle()
    world.advance(600)
    old = set(CertificateVersion.objects.values_list("ari_id", flat=True))
    world.ca.move_windows(timedelta(days=-90))
    for _ in range(6 * 24):
        world.sweep()
        renewals.scan_renewals.run()
        world.advance(600)
    world.settle()
    versions = Certificate.objects.annotate(count=Count("versions")).values_list("count", flat=True)
    assert list(versions) == [2] * 200
    assert not Certificate.objects.filter(current__ari_id__in=old).exists()
    replaced = [each for each in ordered(world) if each]
    assert len(replaced) == 200
    assert set(replaced) == old
    assert not RenewalInfo.objects.filter(version__ari_id__in=old, wake_at__isnull=False).exists()
