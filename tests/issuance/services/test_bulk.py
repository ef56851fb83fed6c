"""Bulk actions: a dry run that is true, and results that are kept by the key."""

from datetime import timedelta

import pytest

from accounts.models import AuditEvent
from authorities.models import AcmeAccount
from certctrl import clock
from certctrl.errors import IdempotencyConflict, Invalid, NotFound
from issuance import services
from issuance.beat import renewals
from issuance.models import Certificate, CertificateVersion, Issuance
from issuance.services import Idempotency, bulk
from tests.issuance.failing import issued

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]


@pytest.fixture
def three(world, account, credential) -> list[Certificate]:
    """One that is issued, one whose renewal is off, and one with an open attempt."""
    first = issued(world, account, credential, "a.example.com")
    off = issued(world, account, credential, "b.example.com")
    services.update_certificate(off, {"auto_renew": False})
    opened, _ = world.create(account, credential, "c.example.com")
    return [first, off, opened]


def rows():
    return services.of_owner(AcmeAccount.objects.get().owner)


def outcomes(results) -> list[str]:
    return [each.outcome for each in results]


def dry(action, ids=None):
    return services.dry_run(action, services.chosen(rows(), ids))


def act(action, ids=None, key=""):
    sent = Idempotency(key, f"digest {action.name}") if key else None
    return services.act(
        AcmeAccount.objects.get().owner, action, lambda: services.chosen(rows(), ids), sent
    )


def test_a_dry_run_says_what_happens_and_does_nothing(three):
    before = list(Certificate.objects.order_by("pk").values())
    assert outcomes(dry(services.action_of("renew"))) == ["done", "refused", "unchanged"]
    assert outcomes(dry(services.action_of("renewal_off"))) == ["done", "unchanged", "done"]
    assert outcomes(dry(services.action_of("revoke"))) == ["done", "done", "refused"]
    assert outcomes(dry(services.action_of("label", label="prod"))) == ["done"] * 3
    assert list(Certificate.objects.order_by("pk").values()) == before
    assert not CertificateVersion.objects.exclude(revoke_asked_at=None).exists()


@pytest.mark.parametrize("name", ["renew", "renewal_off", "renewal_on", "revoke", "label"])
def test_the_dry_run_says_truly_what_is_done(three, name):
    action = services.action_of(name, label="prod")
    said = dry(action)
    assert act(action) == said
    assert "done" not in outcomes(dry(action))


def test_a_renewal_goes_through_the_scan_and_its_limits(three, world):
    first = three[0]
    act(services.action_of("renew"))
    first.refresh_from_db()
    assert first.renew_at <= clock.now()
    assert not Issuance.objects.open().filter(certificate=first).exists()
    renewals.scan_renewals.run()
    assert Issuance.objects.open().get(certificate=first).reason == Issuance.Reason.RENEWAL
    assert asked() == 1


def test_one_that_is_held_back_by_a_limit_stays_so(three):
    first = three[0]
    earlier = clock.now() - timedelta(hours=1)
    Certificate.objects.filter(pk=first.pk).update(renew_at=earlier)
    assert outcomes(act(services.action_of("renew"), [first.pk])) == ["unchanged"]
    first.refresh_from_db()
    assert first.renew_at == earlier


def asked() -> int:
    return AuditEvent.objects.filter(action="certificate.renewal_requested").count()


@pytest.mark.parametrize("is_due", [True, False])
def test_one_that_became_due_or_open_since_the_dry_run_stays_so(three, is_due):
    first = three[0]
    earlier = clock.now() - timedelta(hours=1)
    if is_due:
        Certificate.objects.filter(pk=first.pk).update(renew_at=earlier)
    else:
        services.issue(first)
    before = Certificate.objects.values_list("renew_at", flat=True).get(pk=first.pk)
    services.action_of("renew").act(first)
    assert Certificate.objects.values_list("renew_at", flat=True).get(pk=first.pk) == before
    assert asked() == 0


def test_one_that_cannot_be_issued_is_refused_a_renewal(three):
    AcmeAccount.objects.update(status=AcmeAccount.Status.DEACTIVATED)
    [result] = dry(services.action_of("renew"), [three[0].pk])
    assert result.outcome == "refused"
    assert "deactivated" in result.what


def test_the_same_key_renews_once(three, world):
    first = three[0]
    results = act(services.action_of("renew"), [first.pk], key="k")
    renewals.scan_renewals.run()
    world.deliver()
    world.settle()
    assert act(services.action_of("renew"), [first.pk], key="k") == results
    first.refresh_from_db()
    assert first.renew_at > clock.now()
    with pytest.raises(IdempotencyConflict):
        act(services.action_of("renewal_off"), [first.pk], key="k")


def test_an_interrupted_action_goes_on_with_its_key(three, monkeypatch):
    action = services.action_of("revoke", reason="superseded")
    real = bulk.revocation.revoke

    def fails_at_the_second(certificate, *args):
        if certificate.pk == three[1].pk:
            raise RuntimeError
        return real(certificate, *args)

    monkeypatch.setattr(bulk.revocation, "revoke", fails_at_the_second)
    with pytest.raises(RuntimeError):
        act(action, key="k")
    monkeypatch.undo()
    assert outcomes(act(action, key="k")) == ["unchanged", "done", "refused"]
    asked = CertificateVersion.objects.exclude(revoke_asked_at=None)
    assert asked.count() == 2
    assert AuditEvent.objects.filter(action="certificate.revoked").count() == 2


def test_a_failed_renewal_leaves_no_certificate_due(three, monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError

    monkeypatch.setattr(bulk, "audit_certificate", fails)
    with pytest.raises(RuntimeError):
        act(services.action_of("renew"), key="k")
    three[0].refresh_from_db()
    assert three[0].renew_at > clock.now()


def test_an_attempt_that_opens_meanwhile_sets_the_renewal_at_its_end(three):
    off = three[1]

    def choose():
        found = services.chosen(rows(), [off.pk])
        services.issue(off)
        return found

    results = services.act(off.owner, services.action_of("renewal_on"), choose, None)
    assert outcomes(results) == ["done"]
    off.refresh_from_db()
    assert (off.auto_renew, off.renew_at) == (True, None)


def test_labels_are_given_and_taken_away(three):
    first = three[0]
    act(services.action_of("label", label=" prod "), [first.pk])
    assert [each.name for each in first.labels.all()] == ["prod"]
    act(services.action_of("unlabel", label="prod"), [first.pk])
    assert not first.labels.exists()


def test_a_label_that_another_request_gave_meanwhile_is_kept(three):
    first = three[0]
    [row] = services.chosen(rows(), [first.pk])
    services.set_labels(first, ["theirs"])
    services.action_of("label", label="prod").act(row)
    assert {each.name for each in first.labels.all()} == {"prod", "theirs"}


def test_a_full_certificate_is_refused_another_label(three):
    first = three[0]
    services.set_labels(first, [f"l{number}" for number in range(20)])
    assert outcomes(act(services.action_of("label", label="x"), [first.pk])) == ["refused"]


@pytest.mark.parametrize(
    ("name", "facts"),
    [("delete", {}), ("", {}), ("revoke", {"reason": "boredom"}), ("label", {"label": "a,b"})],
)
def test_an_action_that_is_none_is_refused(name, facts):
    with pytest.raises(Invalid):
        services.action_of(name, **facts)


def test_the_number_of_certificates_is_limited(three, monkeypatch):
    monkeypatch.setattr(bulk, "MOST", 2)
    with pytest.raises(Invalid):
        services.chosen(rows())
    with pytest.raises(Invalid):
        services.chosen(rows(), [1, 2, 3])
    with pytest.raises(Invalid):
        services.chosen(rows(), [])
    with pytest.raises(NotFound):
        services.chosen(rows(), [three[0].pk, 999])


def test_the_number_of_queries_of_a_dry_run_is_fixed(three, django_assert_num_queries):
    for ids in ([three[0].pk], [each.pk for each in three]):
        with django_assert_num_queries(5):
            dry(services.action_of("renew"), ids)
