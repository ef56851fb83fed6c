"""Two calls at once, on threads over a real PostgreSQL, because SQLite would hide the races."""

import threading

import pytest
from django.db import OperationalError, transaction

from accounts import quotas
from authorities import accounts, clients, privateca
from certctrl.errors import Conflict
from certctrl.turns import LostTurn
from dnsproviders import records
from dnsproviders.models import TxtRecord
from issuance import drills, services, workflow
from issuance.beat import renewals, sweep
from issuance.challenges import txtrecords
from issuance.challenges.dns01 import Dns01
from issuance.models import Certificate, CertificateVersion, Drill, Issuance
from issuance.services import canceling
from issuance.workflow import machine
from tests.fakes.ca import REFUSED
from tests.issuance.racing import LIMIT, at_once, until_another_waits

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.postgres_only,
    pytest.mark.django_db(transaction=True),
]

THREADS = 8


def test_one_of_eight_claims_wins(world, account, credential):
    _, issuance = world.create(account, credential)
    claims = at_once(*[lambda: Issuance.objects.claim(issuance.pk)] * THREADS)
    assert len([claim for claim in claims if claim]) == 1


def test_batches_share_rows_without_taking_one_twice(world, account, credential):
    for number in range(60):
        world.create(account, credential, f"host{number}.example.com")
    claims = at_once(*[lambda: Issuance.objects.claim_batch(20, lease=30, turn=20)] * THREADS)
    taken = [row.pk for rows in claims for row in rows]
    assert len(taken) == len(set(taken))
    assert len(taken) == 60, "those that came second took none, and left rows to nobody"


def test_a_turn_that_ends_while_its_provider_is_being_enabled_wakes(
    world, account, credential, owner, monkeypatch
):
    _, issuance = world.create(account, credential)
    row = services.disable_provider("httpreq", owner, "an outage")
    be_usable = Dns01.be_usable
    has_read, has_woken = threading.Event(), threading.Event()

    def read_before(challenge: Dns01, issuance: Issuance) -> None:
        try:
            be_usable(challenge, issuance)
        finally:
            has_read.set()
            assert has_woken.wait(LIMIT)

    def enable() -> None:
        assert has_read.wait(LIMIT)
        with transaction.atomic():
            services.enable_provider(row, owner)
            has_woken.set()
            until_another_waits()

    monkeypatch.setattr(Dns01, "be_usable", read_before)
    results = at_once(enable, lambda: workflow.take(workflow.STEPS[0], issuance.pk))
    assert results == [None, False]
    issuance.refresh_from_db()
    assert "is disabled" in issuance.waits_for
    assert issuance.wake_at <= world.time


def test_simultaneous_equal_creates_make_one_certificate_and_one_attempt(
    world, account, credential
):
    at_once(*[lambda: world.create(account, credential)] * THREADS)
    assert Certificate.objects.count() == Issuance.objects.count() == 1


def test_labels_that_two_requests_give_at_once_are_both_kept(world, account, credential):
    certificate, _ = world.create(account, credential)
    locked = threading.Event()

    def give_theirs() -> None:
        with transaction.atomic():
            quotas.lock(account.owner_id)
            locked.set()
            until_another_waits()
            services.set_labels(certificate, ["theirs"])

    def give_ours() -> None:
        assert locked.wait(LIMIT)
        [chosen] = services.chosen(services.of_owner(account.owner))
        services.action_of("label", label="ours").act(chosen)

    assert at_once(give_theirs, give_ours) == [None, None]
    assert {each.name for each in certificate.labels.all()} == {"ours", "theirs"}


def test_the_same_create_sent_at_once_to_a_private_ca_is_issued_once(world, owner, monkeypatch):
    private_ca = privateca.create_private_ca(owner, {"name": "office"})
    monkeypatch.setattr(
        clients, "client_for", lambda account: privateca.PrivateAuthority(private_ca)
    )
    account = accounts.create_account(owner, {"ca_id": private_ca.pk})
    many = 3 * THREADS  # enough that the first is issued before the last request
    answers = at_once(*[lambda: world.create(account, None)] * many)
    assert answers == [answers[0]] * many
    assert (
        Certificate.objects.count()
        == Issuance.objects.count()
        == CertificateVersion.objects.count()
        == 1
    )


def test_the_same_idempotency_key_sent_at_once_makes_one_certificate(world, account, credential):
    spec = world.spec(account, credential, "example.com")
    key = services.Idempotency("k", "digest")
    made = at_once(
        *[
            lambda: (
                services.create_certificate(account.owner, spec, issue=True, idempotency=key)[0].pk
            )
        ]
        * THREADS
    )
    assert len(set(made)) == 1
    assert Certificate.objects.count() == Issuance.objects.count() == 1


def test_renew_sent_at_once_opens_one_attempt(world, account, credential):
    certificate, _ = world.create(account, credential)
    world.deliver()
    attempts = at_once(
        *[lambda: services.issue(Certificate.objects.get(pk=certificate.pk)).pk] * THREADS
    )
    assert len(set(attempts)) == 1
    assert Issuance.objects.count() == 2


def test_two_scans_open_one_attempt(world, account, credential):
    certificate, _ = world.create(account, credential)
    world.deliver()
    Certificate.objects.update(renew_at=world.time)
    at_once(*[renewals.scan_renewals.run] * THREADS)
    assert Issuance.objects.filter(certificate=certificate).count() == 2


def test_two_chains_of_one_attempt_store_one_version(world, account, credential):
    _, issuance = world.create(account, credential)
    at_once(*[lambda: world.chain(issuance.pk, issuance.state)] * 3)
    world.messages.clear()
    world.settle()
    assert CertificateVersion.objects.count() == 1
    assert Issuance.objects.get().state == Issuance.State.ISSUED
    assert world.zone.txt() == []


def test_one_of_eight_cancels_ends_the_attempt_and_the_rest_find_none(world, account, credential):
    certificate, _ = world.create(account, credential)
    canceled = at_once(
        *[lambda: services.cancel(Certificate.objects.get(pk=certificate.pk))] * THREADS
    )
    refused = [each for each in canceled if isinstance(each, Exception)]
    assert len(refused) == THREADS - 1
    assert all(isinstance(each, Conflict) for each in refused)
    assert Issuance.objects.get().state == Issuance.State.CANCELED


def test_a_cancel_between_claim_and_write_wins(world, account, credential):
    certificate, issuance = world.create(account, credential)
    held = Issuance.objects.claim(issuance.pk)
    assert held
    services.cancel(certificate)
    with pytest.raises(LostTurn):
        held.write(order_url="https://ca.test/order/late")
    assert Issuance.objects.get().order_url == ""


def test_a_worker_past_its_lease_writes_nothing(world, account, credential, settings):
    _, issuance = world.create(account, credential)
    zombie = Issuance.objects.claim(issuance.pk)
    assert zombie
    world.advance(settings.LEASE + 1)
    world.sweep()
    with pytest.raises(LostTurn), zombie.fence():
        pytest.fail("the fence let a zombie in")
    assert Issuance.objects.get().state == Issuance.State.ISSUED


@pytest.mark.parametrize("person", ["deletes it", "gives it another account"])
def test_a_person_and_an_attempt_that_fails_do_not_wait_for_each_other(
    world, account, credential, owner, monkeypatch, person
):
    certificate, issuance = world.create(account, credential)
    other = world.account(owner, name="production")
    held = Issuance.objects.select_related("certificate__owner", "account", "credential").claim(
        issuance.pk
    )
    has_attempt = threading.Event()
    has_certificate = threading.Event()
    event = workflow.event
    fail = workflow.fail
    cancel = services.cancel_attempt
    deadlocks = []

    def meet_in_the_worker(*args, **kwargs):
        has_attempt.set()
        has_certificate.wait(2)
        event(*args, **kwargs)

    def fail_and_tell(*args, **kwargs):
        try:
            fail(*args, **kwargs)
        except OperationalError as error:
            deadlocks.append(error)
            raise

    def meet_in_the_request(open_one):
        has_certificate.set()
        has_attempt.wait(2)
        return cancel(open_one)

    def change():
        mine = Certificate.objects.get(pk=certificate.pk)
        return (
            services.retire(mine)
            if person == "deletes it"
            else services.update_certificate(mine, {"account": other})
        )

    monkeypatch.setattr(machine, "event", meet_in_the_worker)
    monkeypatch.setattr(machine, "fail", fail_and_tell)
    monkeypatch.setattr(canceling, "cancel_attempt", meet_in_the_request)
    results = at_once(lambda: workflow.run(workflow.STEPS[0], held, refuse), change)
    assert not [*deadlocks, *(each for each in results if isinstance(each, Exception))]
    assert not Issuance.objects.get(pk=issuance.pk).is_open


def refuse(issuance: Issuance) -> workflow.Done:
    raise REFUSED


def test_cleanup_does_not_overtake_a_publisher(world, account, credential):
    world.zone.hides = True
    _, issuance = world.create(account, credential)
    world.deliver()
    record = TxtRecord.objects.order_by("pk").first()
    assert record
    with TxtRecord.objects.turn(record.pk, due=False) as held:
        sweep.admit_cleanups(world.time)
        at_once(lambda: records.withdraw(record.pk, txtrecords.is_needed))
        held.give_back(world.time)
    assert len(world.zone.txt()) == 2
    assert Issuance.objects.get(pk=issuance.pk).is_open


def test_simultaneous_equal_drills_run_once_and_renew_each_once(world, account, credential):
    for number in range(6):
        world.create(account, credential, f"host{number}.example.com")
    world.deliver()
    at_once(*[lambda: drills.start(account.owner, issuer="fake CA")] * THREADS)
    assert Drill.objects.count() == 1
    at_once(*[renewals.advance_drills.run, renewals.scan_renewals.run] * (THREADS // 2))
    renewals.scan_renewals.run()
    assert Issuance.objects.open().count() == 6
    world.settle()
    assert CertificateVersion.objects.count() == 12
