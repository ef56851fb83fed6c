"""People change their minds: cancel, renew, change the credential, repeat a request."""

import pytest

from certctrl import turns
from certctrl.errors import Conflict, IdempotencyConflict, TooLate
from issuance import services
from issuance.models import Certificate, CertificateVersion, Issuance
from issuance.services import Idempotency

pytestmark = pytest.mark.django_db
State = Issuance.State


def states() -> list[str]:
    return list(Issuance.objects.order_by("pk").values_list("state", flat=True))


def test_a_canceled_attempt_leaves_no_record(world, account, credential, settings):
    world.zone.hides = True
    certificate, _ = world.create(account, credential)
    world.deliver()
    assert len(world.zone.txt()) == 2
    services.cancel(certificate)
    world.settle()
    assert states() == [State.CANCELED]
    assert world.zone.txt() == []


def test_cancel_is_too_late_once_the_ca_signs(world, account, credential):
    world.ca.processing_reads = 5
    certificate, _ = world.create(account, credential)
    world.deliver()
    with pytest.raises(TooLate, match=r"example\.com"):
        services.cancel(certificate)


def test_cancel_without_an_open_attempt_is_refused(world, account, credential):
    certificate, _ = world.create(account, credential)
    world.deliver()
    with pytest.raises(Conflict, match="has no attempt in progress"):
        services.cancel(certificate)


@pytest.mark.parametrize(
    "ends",
    [lambda world, certificate: services.cancel(certificate), lambda world, _: world.deliver()],
)
def test_cancel_of_an_attempt_that_has_just_ended_says_so(world, account, credential, ends):
    certificate, issuance = world.create(account, credential)
    ends(world, Certificate.objects.get())
    certificate.open_issuances = [issuance]  # as it was read
    with pytest.raises(Conflict, match="has ended"):
        services.cancel(certificate)
    services.retire(certificate)


def test_a_canceled_attempt_is_tried_again_a_day_later(world, account, credential):
    world.zone.hides = True
    certificate, _ = world.create(account, credential)
    services.cancel(certificate)
    certificate.refresh_from_db()
    assert certificate.renew_at == world.time + turns.A_DAY


@pytest.mark.parametrize("new_credential", [False, True])
def test_cancel_and_renew_at_once_is_issued_and_leaves_no_record(
    world, account, credential, owner, new_credential
):
    world.zone.hides = True
    certificate, _ = world.create(account, credential)
    world.deliver()
    services.cancel(certificate)
    if new_credential:
        services.update_certificate(certificate, {"credential": world.credential(owner)})
    services.issue(certificate)
    world.zone.hides = False
    world.deliver()
    world.settle()
    assert states() == [State.CANCELED, State.ISSUED]
    assert world.zone.txt() == []


def test_renew_while_an_attempt_is_open_answers_with_it(world, account, credential):
    certificate, first = world.create(account, credential)
    assert services.issue(certificate) == first


def test_renew_ignores_the_backoff_of_the_open_attempt(world, account, credential):
    world.zone.hides = True
    certificate, issuance = world.create(account, credential)
    world.deliver()
    world.zone.hides = False
    services.issue(certificate)
    world.sweep()
    issuance.refresh_from_db()
    assert issuance.state == State.ISSUED


def test_the_same_create_sent_twice_makes_one_certificate_and_one_attempt(
    world, account, credential
):
    first = world.create(account, credential)
    second = world.create(account, credential)
    assert first == second
    assert Certificate.objects.count() == Issuance.objects.count() == 1


def test_the_same_create_ten_minutes_after_issuance_makes_another(world, account, credential):
    world.create(account, credential)
    world.deliver()
    world.advance(10 * 60 + 1)
    world.create(account, credential)
    assert Certificate.objects.count() == 2


def test_an_idempotency_key_answers_with_what_it_made(world, account, credential):
    spec = world.spec(account, credential, "example.com")
    key = Idempotency("k", "digest")
    first = services.create_certificate(account.owner, spec, issue=True, idempotency=key)
    world.deliver()
    assert (
        services.create_certificate(account.owner, spec, issue=True, idempotency=key)[0] == first[0]
    )
    assert Certificate.objects.count() == Issuance.objects.count() == 1


def test_an_idempotency_key_with_another_body_is_refused_and_makes_nothing(
    world, account, credential
):
    spec = world.spec(account, credential, "example.com")
    services.create_certificate(
        account.owner, spec, issue=True, idempotency=Idempotency("k", "one")
    )
    other = world.spec(account, credential, "example.org")
    with pytest.raises(IdempotencyConflict):
        services.create_certificate(
            account.owner, other, issue=True, idempotency=Idempotency("k", "two")
        )
    assert Certificate.objects.count() == 1


def test_renew_with_the_same_idempotency_key_issues_once(world, account, credential):
    certificate, _ = world.create(account, credential)
    world.deliver()
    world.advance(credential.ttl)
    key = Idempotency("k", "digest")
    first = services.issue(certificate, idempotency=key)
    world.deliver()
    assert services.issue(certificate, idempotency=key) == first
    assert CertificateVersion.objects.count() == 2


def test_deleting_ends_the_attempt_and_the_renewals(world, account, credential):
    world.zone.hides = True
    certificate, _ = world.create(account, credential)
    world.deliver()
    services.retire(certificate)
    world.settle()
    certificate.refresh_from_db()
    assert states() == [State.CANCELED]
    assert certificate.renew_at is None
    assert world.zone.txt() == []
