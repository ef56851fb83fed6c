"""An order that a CA would refuse waits for its slot, in turn, even when workers die."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from accounts.models import User
from authorities.errors import Refused
from certctrl.turns import LostTurn, Trouble
from dnsproviders.models import TxtRecord
from issuance import ratelimits, services, workflow
from issuance.beat import renewals, sweep
from issuance.models import (
    Certificate,
    Issuance,
    IssuanceEvent,
    LimitBucket,
    RenewalInfo,
    Reservation,
    ReservedToken,
)
from issuance.ratelimits import charges, messages, queue
from issuance.workflow import machine
from issuance.workflow.steps import authorizations
from keystore.models import Envelope
from tests.fakes.limiting import Limiter
from tests.fakes.outside import Died

pytestmark = pytest.mark.django_db
State = Issuance.State
SMALL = {"account": [10, 2], "domain": [5, 10], "set": [2, 30], "failures": [3, 60]}


@pytest.fixture
def limited(world, settings):
    """The fake CA counts with the same limits as the server."""

    def limit(**kinds):
        settings.ACME_CAS = {"custom": {"limits": kinds or SMALL}}
        world.ca.limiter = Limiter(settings.ACME_CAS["custom"]["limits"])
        return world.ca.limiter

    return limit


def run(world, seconds=1, most=600):
    """Sweep every `seconds` seconds until nothing is open. Return the number of sweeps."""
    for count in range(most):
        world.sweep()
        if not Issuance.objects.open().exists():
            return count
        world.advance(seconds)
    raise AssertionError(
        "still open: " + ", ".join(Issuance.objects.open().values_list("waits_for", flat=True)[:5])
    )


def issued():
    return Issuance.objects.filter(state=State.ISSUED).count()


def domains(count, domain="example.com"):
    return [f"host{number}.{domain}" for number in range(count)]


# --- waiting ---


def test_an_order_that_would_be_refused_waits_and_is_not_sent(world, account, credential, limited):
    limiter = limited(domain=[2, 600])
    for name in domains(3):
        world.create(account, credential, name)
    world.deliver()
    last = Issuance.objects.get(state=State.QUEUED)
    assert issued() == 2
    assert len(limiter.accepted) == 2
    assert last.slot_at == world.time + timedelta(seconds=600)
    assert "certificates of the registered domain example.com" in last.waits_for
    assert f"{last.slot_at:%H:%M} UTC" in last.waits_for
    assert last.events.get(outcome=IssuanceEvent.Outcome.WAIT).what == last.waits_for


def test_names_under_a_private_suffix_are_each_a_domain_of_their_own(
    world, account, credential, limited
):
    limiter = limited(domain=[1, 12096])
    for number in range(1, 6):
        world.create(account, credential, f"home{number}.dedyn.io", f"*.home{number}.dedyn.io")
    world.deliver()
    assert issued() == len(limiter.accepted) == 5
    buckets = LimitBucket.objects.filter(kind="domain").values_list("subject", flat=True)
    assert set(buckets) == {f"home{number}.dedyn.io" for number in range(1, 6)}


def test_each_name_under_a_private_suffix_has_its_own_bucket(account):
    names = [f"home{number}.dedyn.io" for number in range(1, 52)]
    found = charges.of_names(account, [*names, *(f"*.{name}" for name in names), "*.dedyn.io"])
    assert [want.subject for want in found if want.kind == "domain"] == [*names, "*.dedyn.io"]


def test_names_under_a_suffix_of_a_registry_share_their_domains_bucket(
    world, account, credential, limited
):
    limited(domain=[1, 600])
    for name in ("a.example.co.uk", "b.example.co.uk", "a.example.org.uk"):
        world.create(account, credential, name)
    world.deliver()
    waiting = Issuance.objects.get(state=State.QUEUED)
    assert issued() == 2
    assert "certificates of the registered domain example.co.uk" in waiting.waits_for


def test_the_api_says_when_the_slot_is(client_of, world, account, credential, limited, owner):
    limited(account=[1, 600])
    for name in domains(2):
        certificate, _ = world.create(account, credential, name)
    world.deliver()
    shown = client_of(owner).get(f"/apiv1/me/certificates/{certificate.pk}").data_member["issuance"]
    assert shown["slot_at"] == int((world.time + timedelta(seconds=600)).timestamp())


def test_the_api_shows_what_is_left_of_an_accounts_limits(
    client_of, world, account, credential, limited, owner
):
    limited(account=[1, 600], domain=[5, 60])
    for name in domains(3):
        world.create(account, credential, name)
    world.deliver()
    shown = client_of(owner).get(f"/apiv1/me/acme-accounts/{account.pk}/limits").data_member
    at = {each["kind"]: (each["subject"], each["left"], each["waiting"]) for each in shown}
    assert at == {"account": ("an account", 0, 2), "domain": ("example.com", 4, 2)}
    assert (
        client_of(User.objects.create_user("x@example.com"))
        .get(f"/apiv1/me/acme-accounts/{account.pk}/limits")
        .status_code
        == 404
    )


@pytest.mark.slow
def test_all_are_issued_at_the_rate_of_the_limits_and_none_is_refused(
    world, account, credential, limited
):
    limiter = limited(account=[10, 2], domain=[5, 2])
    for name in [
        *domains(20, "example.com"),
        *domains(20, "example.org"),
        *domains(20, "example.net"),
    ]:
        world.create(account, credential, name)
    run(world)
    assert issued() == 60
    assert not limiter.refused
    took = limiter.accepted[-1] - limiter.accepted[0]
    assert took <= (60 - 10) * 2 * 1.1, (
        "after the burst, nine tenths of what the account's limit allows"
    )


def test_a_slot_days_away_ends_the_attempt_and_is_retried_then(world, account, credential, limited):
    limited(set=[1, 86400.0])
    world.create(account, credential, "a.example.com")
    world.deliver()
    certificate, _ = world.create(account, credential, "a.example.com", key_size=384)
    world.deliver()
    world.settle()
    attempt = certificate.issuances.get()
    assert (attempt.state, attempt.error_code) == (State.FAILED, "ca_limit_wait")
    assert "exactly the same set of names (a.example.com)" in attempt.error_what
    assert not ReservedToken.objects.filter(reservation__issuance=attempt).exists()


def test_a_ca_without_known_limits_costs_one_look(world, account, credential):
    _, attempt = world.create(account, credential, "a.example.com")
    claimed = Issuance.objects.select_related("certificate__current", "account").claim(attempt.pk)
    with CaptureQueriesContext(connection) as queries:
        ratelimits.reserve(claimed, ratelimits.charges_of(claimed).costs)
    assert len(queries) == 1


# --- what counts ---


def test_a_renewal_of_the_same_names_counts_only_for_these_names(
    world, account, credential, limited
):
    limiter = limited(account=[1, 86400 * 30], domain=[1, 86400 * 30], set=[3, 86400])
    certificate, _ = world.create(account, credential, "a.example.com")
    world.deliver()
    limiter.limits = {"set": [3, 86400]}  # as Let's Encrypt counts renewals
    for _ in range(2):
        services.issue(certificate)
        world.deliver()
    assert certificate.versions.count() == 3


def test_failed_validations_close_a_name_for_an_account(world, account, credential, limited):
    limited(failures=[2, 600])
    world.zone.shows = lambda name, value: True
    world.ca.zone = type("Blind", (), {"shows": lambda self, name, value: False})()
    certificate, _ = world.create(account, credential, "a.example.com")
    world.deliver()
    services.issue(certificate)
    world.deliver()
    assert certificate.issuances.filter(state=State.FAILED).count() == 2
    services.issue(certificate)
    world.deliver()
    waits = certificate.issuances.get(state=State.QUEUED)
    assert "failed validations of the name a.example.com" in waits.waits_for
    assert waits.slot_at == world.time + timedelta(seconds=600)


def test_a_failed_attempt_returns_certificate_tokens_but_not_the_order(
    world, account, credential, limited
):
    limited(account=[10, 600], domain=[5, 600], set=[2, 600])
    world.zone.hides = True
    certificate, _ = world.create(account, credential, "a.example.com")
    world.deliver()
    services.cancel(certificate)
    levels = dict(LimitBucket.objects.values_list("kind", "level"))
    assert levels == {"account": 9, "domain": 5, "set": 2}


def test_an_order_that_the_ca_refused_counts_nothing(world, account, credential, limited):
    limited(account=[10, 600], domain=[5, 600])
    world.ca.problems["new_order"] = [Refused("ca_caa", "CAA forbids it.")]
    world.create(account, credential, "a.example.com")
    world.deliver()
    assert dict(LimitBucket.objects.values_list("kind", "level")) == {"account": 10, "domain": 5}


# --- what the CA says ---


def test_a_refusal_with_retry_after_delays_all_orders_of_the_account(
    world, account, credential, limited
):
    limited()
    words = (
        "The CA refused the order: too many new orders (300) from this account"
        " in the last 3h0m0s, retry later"
    )
    world.ca.problems["new_order"] = [Trouble("ca_rate_limited", words, retry_after=120)]
    for name in domains(3):
        world.create(account, credential, name)
    world.deliver()
    assert world.outside.calls.count("ca.new_order") == 1
    assert not issued()
    world.advance(121)
    run(world)
    assert issued() == 3
    assert LimitBucket.objects.get(kind="account").level < 10, "the CA's bucket was empty"


def test_a_ca_that_is_only_busy_costs_no_tokens(world, account, credential, limited):
    limited()
    world.ca.problems["new_order"] = [Trouble("ca_rate_limited", "Service busy", retry_after=5)]
    world.create(account, credential, "a.example.com")
    world.deliver()
    assert LimitBucket.objects.get(kind="account").level == 10


def busy():
    return Trouble("ca_rate_limited", "Service busy; retry later.", retry_after=7200)


def test_an_unknown_429_delays_one_attempt_alone(world, account, credential, limited):
    limited()
    world.ca.problems["new_order"] = [busy()]
    for name in domains(3):
        world.create(account, credential, name)
    world.deliver()
    assert issued() == 2


@pytest.mark.parametrize("known", [True, False])
def test_three_unknown_429s_pause_the_account(world, account, credential, limited, known):
    if known:
        limited(account=[100, 60])
    world.ca.problems["new_order"] = [busy()] * 3
    for name in domains(8):
        world.create(account, credential, name)
    world.deliver()
    assert world.outside.calls.count("ca.new_order") == 3
    waiting = Issuance.objects.open().order_by("pk").last()
    assert waiting.slot_at == world.time + timedelta(minutes=5)
    assert "asked us to come back later for orders of the account an account" in waiting.waits_for
    world.advance(301)
    run(world, 60)
    assert issued() == 8


def test_a_paused_account_sends_one_probe(world, account, credential, limited):
    limited()
    world.ca.problems["new_order"] = [busy()] * 5
    for name in [*domains(4), *domains(4, "example.org")]:
        world.create(account, credential, name)
    world.deliver()
    for count in (4, 5):
        world.advance(301)
        world.sweep()
        assert world.outside.calls.count("ca.new_order") == count


def test_a_paused_account_delays_renewals_that_count_nowhere(world, account, credential, limited):
    world.ca.offers_renewal_info = True
    for name in domains(5):
        world.create(account, credential, name)
    world.deliver()
    ends = world.time + timedelta(days=1)
    RenewalInfo.objects.update(window_start=world.time - timedelta(hours=1), window_end=ends)
    world.ca.problems["new_order"] = [busy()] * 3
    orders = world.outside.calls.count("ca.new_order")
    Certificate.objects.update(renew_at=world.time)
    renewals.scan_renewals.run()
    world.sweep()
    assert world.outside.calls.count("ca.new_order") == orders + 3


def test_the_api_shows_that_an_account_is_paused(
    client_of, world, account, credential, limited, owner
):
    limited()
    world.ca.problems["new_order"] = [busy()] * 3
    for name in domains(3):
        world.create(account, credential, name)
    world.deliver()
    shown = client_of(owner).get(f"/apiv1/me/acme-accounts/{account.pk}/limits").data_member
    told = {each["kind"]: (each["subject"], each["next_at"]) for each in shown}
    assert told["busy"] == ("an account", int(world.time.timestamp()) + 300)


def test_a_ca_without_known_limits_is_believed_as_well(world, account, credential):
    world.ca.problems["new_order"] = [
        Trouble("ca_rate_limited", "too many new orders", retry_after=3600)
    ]
    for name in domains(3):
        world.create(account, credential, name)
    world.deliver()
    assert world.outside.calls.count("ca.new_order") == 1
    assert "come back later" in Issuance.objects.order_by("-pk")[0].waits_for
    world.advance(3601)
    run(world)
    assert issued() == 3


def test_only_the_domain_that_the_ca_names_is_closed(world, account, credential, limited):
    limited()
    words = (
        'The CA refused: too many certificates (50) already issued for "example.com"'
        " in the last 168h, retry later"
    )
    world.ca.problems["new_order"] = [Trouble("ca_rate_limited", words, retry_after=3600)]
    world.create(account, credential, "a.example.com", "b.example.org")
    world.deliver()
    world.create(account, credential, "c.example.org")
    world.create(account, credential, "d.example.com")
    world.deliver()
    world.advance(1)
    world.sweep()
    assert issued() == 1
    assert "registered domain example.com" in Issuance.objects.order_by("-pk")[0].waits_for


# --- death ---


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_that_dies_while_ordering_has_spent_the_token(
    world, account, credential, limited, settings, monkeypatch, when
):
    limiter = limited(account=[2, 600])
    world.ca.reuses_orders = False
    place = world.ca.new_order

    def die(*args, **kwargs):
        if when == "after":
            place(*args, **kwargs)
        raise Died("ca.new_order")

    monkeypatch.setattr(world.ca, "new_order", die)
    world.create(account, credential, "a.example.com")
    assert not world.deliver_unless_killed()
    monkeypatch.setattr(world.ca, "new_order", place)
    assert Reservation.objects.get().state == Reservation.State.SENT
    world.advance(settings.LEASE + 1)
    run(world, 60)
    assert issued() == 1
    assert not limiter.refused
    assert LimitBucket.objects.get().level < 1, (
        "two tokens are gone: nobody knows whether the CA counted the first"
    )


@pytest.mark.slow
def test_an_hour_without_workers_ends_in_no_burst(world, account, credential, limited):
    limiter = limited(account=[5, 10], domain=[50, 1])
    for name in domains(40):
        world.create(account, credential, name)
    world.deliver()
    for _ in range(20):
        sweep.sweep.run()
        world.messages.clear()  # all workers are killed, with the responses they got
        world.advance(180)
    run(world, 1, most=2000)
    assert issued() == 40
    assert not limiter.refused


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_workers_that_die_anywhere_are_never_refused(
    world, account, credential, limited, settings, seed
):
    import random

    chance = random.Random(seed)
    limiter = limited(account=[6, 5], domain=[4, 20], set=[2, 40])
    world.ca.reuses_orders = False
    for name in domains(12):
        world.create(account, credential, name)
    for _ in range(1500):
        sweep.sweep.run()
        if chance.random() < 0.2:
            world.outside.die_at = (
                len(world.outside.calls) + chance.randrange(4),
                chance.choice(["before", "after"]),
            )
        while world.messages:
            try:
                act, *args = world.messages.popleft()
                act(*args)
            except Died:
                world.outside.die_at = None
        world.outside.die_at = None
        if issued() == 12:
            break
        world.advance(chance.choice([1, 1, 5, 30, settings.LEASE]))
    assert issued() == 12
    assert not limiter.refused


# --- fairness ---


@pytest.mark.slow
def test_renewals_go_before_new_orders_and_the_soonest_expiry_first(
    world, account, credential, limited
):
    renewing = [world.create(account, credential, name)[0] for name in domains(3, "example.org")]
    world.deliver()
    for days, certificate in zip((9, 3, 6), renewing, strict=True):
        certificate.expires_at = world.time + timedelta(days=days)
        certificate.save(update_fields=["expires_at"])
    limited(domain=[1, 60])
    LimitBucket.objects.create(
        ca="https://ca.test/dir", kind="domain", subject="example.com", level=0, at=world.time
    )
    bucket = LimitBucket.objects.get()
    for name in domains(5):
        world.create(account, credential, name)
    world.deliver()
    for certificate in renewing:
        services.request_issuance(certificate)
    Reservation.objects.filter(state="spent").delete()
    for attempt in Issuance.objects.open().filter(certificate__in=renewing):
        Reservation.objects.create(
            issuance=attempt,
            owner=account.owner,
            is_renewal=True,
            expires_at=attempt.certificate.expires_at,
            asked_at=world.time,
            state="waiting",
            lacks=bucket,
        )
    waiting = list(Reservation.objects.filter(state="waiting"))
    ranked = [each.issuance.certificate.domain for each in queue.in_rotation(waiting)]
    assert ranked[:3] == ["host1.example.org", "host2.example.org", "host0.example.org"]
    assert ranked[3:] == domains(5)


def test_a_token_that_is_free_again_wakes_the_next(world, account, credential, limited):
    limited(domain=[2, 3600])
    world.ca.limiter = None
    world.zone.hides = True
    first, *_, last = [world.create(account, credential, name)[0] for name in domains(3)]
    world.deliver()
    services.cancel(first)
    world.zone.hides = False
    world.sweep()
    assert last.issuances.get().state != State.QUEUED


@pytest.mark.slow
def test_one_owner_with_many_orders_delays_no_other_owner(world, account, credential, limited):
    limiter = limited(domain=[1, 10])
    for name in domains(50):
        world.create(account, credential, name)
    world.deliver()
    other = User.objects.create_user("other@example.com")
    theirs = world.account(other, url="https://ca.test/acct/2")
    zone = world.credential(other)
    for number in range(5):
        world.create(theirs, zone, f"theirs{number}.example.com")
    for _ in range(130):
        world.sweep()
        world.advance(1)
    first = [order.account for order in world.ca.orders.values()][:13]
    assert first.count(theirs.pk) == 5, "one of each owner in turn"
    assert not limiter.refused


# --- the sentence ---


@pytest.mark.parametrize(
    ("seconds", "spoken"),
    [
        (604800, "7 days"),
        (10800, "3 hours"),
        (12096, "202 minutes"),
        (36, "36 seconds"),
        (1, "1 second"),
    ],
)
def test_periods_are_said_as_people_say_them(seconds, spoken):
    assert messages.spoken(timedelta(seconds=seconds)) == spoken


# --- whose turn has come ---


def test_an_attempt_that_waits_after_trouble_is_not_woken_for_a_slot(
    world, account, credential, limited
):
    limited(account=[1, 60])
    for name in domains(2):
        world.create(account, credential, name, profile="classic")
    world.deliver()
    calls = world.outside.calls.count("ca.profiles")
    world.ca.problems["profiles"] = [Trouble("ca_unreachable", "The CA is away.")] * 1000
    for _ in range(900):
        world.sweep()
        world.advance(1)
    # by the retry table; a token comes each 15 s
    assert 4 < world.outside.calls.count("ca.profiles") - calls < 12


def test_an_attempt_far_too_early_makes_no_key_and_sends_no_request(
    world, account, credential, limited
):
    limited(account=[1, 7 * 3600])
    world.create(account, credential, "a.example.com")
    world.deliver()
    calls = len(world.outside.calls)
    keys = Envelope.objects.count()
    _, early = world.create(account, credential, "b.example.com")
    world.deliver()
    early.refresh_from_db()
    assert (early.state, early.error_code) == (State.FAILED, "ca_limit_wait")
    assert (len(world.outside.calls), Envelope.objects.count()) == (calls, keys)


def test_a_renewal_outside_of_its_window_counts_whatever_it_replaces(
    world, account, credential, limited
):
    """Boulder exempts an order with `replaces` only inside the window."""
    world.ca.offers_renewal_info = True
    limiter = limited(account=[300, 36], set=[2, 86400])
    place = world.ca.new_order

    def as_boulder(account, names, replaces=""):
        if replaces:
            start, end = world.ca.windows[replaces]
            if not start <= world.time < end:
                limiter.order(account, names)
        return place(account, names, replaces)

    world.ca.new_order = as_boulder
    certificate, _ = world.create(account, credential, "a.example.com")
    world.deliver()
    for _ in range(4):
        world.advance(3600)
        certificate.refresh_from_db()
        services.issue(certificate)
        world.deliver()
    assert not limiter.refused
    assert issued() == 2


def test_every_name_that_failed_is_counted_and_the_first_is_reported(
    world, account, credential, limited
):
    limited(failures=[3, 60])
    shows = world.zone.shows
    failing = ("host8", "host9")
    world.ca.zone = SimpleNamespace(
        shows=lambda name, value: not any(f in name for f in failing) and shows(name, value)
    )
    _, issuance = world.create(account, credential, *domains(10))
    world.deliver()
    world.settle()
    issuance.refresh_from_db()
    assert issuance.state == State.FAILED
    assert "host8.example.com" in issuance.error_what
    counted = LimitBucket.objects.filter(kind="failures", level__lt=3).order_by("label")
    assert [each.label for each in counted] == ["host8.example.com", "host9.example.com"]


def test_a_failed_validation_is_counted_once_when_its_turn_is_lost(
    world, account, credential, limited, settings, monkeypatch
):
    limited(failures=[3, 10**6])
    world.ca.zone = SimpleNamespace(shows=lambda name, value: False)
    refused, lost = authorizations.refused, [LostTurn()]

    def lose_the_turn(seen):
        if lost:
            raise lost.pop()
        return refused(seen)

    monkeypatch.setattr(authorizations, "refused", lose_the_turn)
    _, issuance = world.create(account, credential, "example.com")
    world.deliver()
    issuance.refresh_from_db()
    assert (issuance.state, lost) == (State.PROPAGATED, [])
    world.advance(settings.LEASE + 1)
    world.sweep()
    issuance.refresh_from_db()
    assert issuance.state == State.FAILED
    assert "No TXT record found" in issuance.error_what
    assert 1.9 < LimitBucket.objects.get(kind="failures").level < 2.1


def test_invalid_settings_of_one_bucket_delay_no_other(
    world, account, credential, limited, settings
):
    limited(account=[1, 600])
    for name in domains(2):
        world.create(account, credential, name)
    world.deliver()
    settings.ACME_CAS = {"custom": {"limits": {"account": 300}}}
    TxtRecord.objects.update(wake_at=world.time)
    sweep.sweep.run()
    assert "issuance.cleanup" in world.sent


# --- an attempt that orders again ---


def test_an_attempt_that_orders_twice_gives_back_all_that_it_took(
    world, account, credential, limited
):
    limited()
    certificate, issuance = world.create(account, credential, "example.com")
    order = workflow.STEPS[0]
    assert workflow.take(order, issuance.pk)
    held = Issuance.objects.claim(issuance.pk)
    machine.settle(workflow.STEPS[1], held, workflow.order_again(held, "used"), 0.0)
    assert workflow.take(order, issuance.pk)
    services.cancel(certificate)
    left = {each["kind"]: each["left"] for each in ratelimits.levels(account)}
    assert (left["set"], left["domain"]) == (SMALL["set"][0], SMALL["domain"][0])


def test_an_attempt_that_failed_after_a_rollback_holds_up_no_other(
    world, account, credential, settings, monkeypatch
):
    """The disk was full as it took its token. Its deadline has passed, so it fails in that turn."""
    settings.ACME_CAS = {"custom": {"limits": {"account": [1, 3600]}}}
    world.create(account, credential, "used.example.com")
    _, late = world.create(account, credential, "late.example.com")
    world.deliver()
    world.advance(3700)
    past = world.time - timedelta(days=1)
    Issuance.objects.filter(pk=late.pk).update(deadline_at=past, wake_at=world.time)

    def fail_once(*given: object) -> None:
        monkeypatch.setattr(queue, "call_next", call_next)
        raise OperationalError("the disk was full")

    call_next = queue.call_next
    monkeypatch.setattr(queue, "call_next", fail_once)
    workflow.take(workflow.STEPS[0], late.pk)
    late.refresh_from_db()
    assert late.state == Issuance.State.FAILED
    assert late.reservation.state == Reservation.State.SPENT
