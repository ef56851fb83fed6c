"""A CA's resolver keeps a record set for its TTL: a value that was added meanwhile is waited with,
and told.
"""

from datetime import timedelta

import pytest

from dnsproviders.propagation import Look
from issuance import services
from issuance.challenges.resolvercache import LONGEST
from issuance.models import Issuance

State = Issuance.State
WILDCARD = "*.example.com"


@pytest.fixture(autouse=True)
def _a_ca_that_keeps_answers(world):
    world.ca.keeps_txt = 60


def last() -> Issuance:
    return Issuance.objects.latest("pk")


def told(issuance: Issuance) -> str:
    return " ".join(issuance.events.order_by("pk").values_list("what", flat=True))


def states(*issuances: Issuance) -> list[str]:
    return [Issuance.objects.get(pk=each.pk).state for each in issuances]


def test_the_wildcard_after_the_apex_waits_for_the_rest_of_the_ttl_and_says_so(
    world, account, credential
):
    _, apex = world.create(account, credential, "example.com")
    world.deliver()
    world.advance(20)
    _, wildcard = world.create(account, credential, WILDCARD)
    world.deliver()
    assert states(apex, wildcard) == [State.ISSUED, State.PRESENTED]
    assert "The CA checked _acme-challenge.example.com for another challenge" in told(wildcard)
    assert "60 s, the TTL of the records" in told(wildcard)
    assert last().wake_at == world.time + timedelta(seconds=40)
    world.advance(40)
    world.sweep()
    assert states(wildcard) == [State.ISSUED]
    assert wildcard.events.filter(outcome="wait").count() == 1


def test_apex_and_wildcard_of_one_order_wait_for_nothing(world, account, credential):
    _, both = world.create(account, credential, "example.com", WILDCARD)
    world.deliver()
    assert states(both) == [State.ISSUED]


def test_another_name_waits_for_nothing(world, account, credential):
    world.create(account, credential, "example.com")
    world.deliver()
    _, other = world.create(account, credential, "www.example.com")
    world.deliver()
    assert states(other) == [State.ISSUED]


def test_it_is_known_of_another_owner_and_of_another_credential(
    world, account, credential, django_user_model
):
    world.create(account, credential, "example.com")
    world.deliver()
    bob = django_user_model.objects.create_user("bob@example.net")
    _, other = world.create(world.account(bob), world.credential(bob), WILDCARD)
    world.deliver()
    assert states(other) == [State.PRESENTED]
    world.advance(60)
    world.sweep()
    assert states(other) == [State.ISSUED]


def test_a_ca_that_never_looked_has_nothing_to_keep(world, account, credential):
    """The first attempt is canceled before it answers its challenge."""
    world.zone.hides = True
    certificate, first = world.create(account, credential, "example.com")
    world.deliver()
    services.cancel(certificate)
    world.zone.hides = False
    _, second = world.create(account, credential, WILDCARD)
    world.deliver()
    assert states(first, second) == [State.CANCELED, State.ISSUED]


def test_another_ca_has_a_resolver_of_its_own(world, account, credential, owner):
    world.create(account, credential, "example.com")
    world.deliver()
    _, other = world.create(
        world.account(owner, ca_provider="letsencrypt_staging"), credential, WILDCARD
    )
    world.deliver()
    assert states(other) == [State.ISSUED]


def test_while_the_ca_still_looks_at_the_first_the_ttl_begins_with_the_second(
    world, account, credential
):
    world.ca.validation_reads = 100
    world.create(account, credential, "example.com")
    world.deliver()
    world.advance(90)
    _, wildcard = world.create(account, credential, WILDCARD)
    world.deliver()
    assert states(wildcard) == [State.PRESENTED]
    assert last().wake_at == world.time + timedelta(seconds=60)


def test_a_value_that_the_ca_saw_already_waits_for_nothing(world, account, credential):
    """The CA hands out the authorization of a challenge that it looked at before."""
    world.ca.reuses_authorizations, world.ca.validation_reads = True, 100
    world.create(account, credential, "example.com")
    world.deliver()
    _, again = world.create(account, credential, "example.com", "www.example.com")
    world.deliver()
    assert states(again) == [State.PROPAGATED]


def test_the_ttl_of_the_zone_counts_where_it_is_longer_than_the_credentials(
    world, account, credential, monkeypatch
):
    look = world.zone.look
    monkeypatch.setattr(
        "dnsproviders.propagation.look",
        lambda records, *_: {pk: _with_ttl(each, 600) for pk, each in look(records).items()},
    )
    world.ca.keeps_txt = 600
    world.create(account, credential, "example.com")
    world.deliver()
    _, wildcard = world.create(account, credential, WILDCARD)
    world.deliver()
    assert last().wake_at == world.time + timedelta(seconds=600)
    world.advance(600)
    world.sweep()
    assert states(wildcard) == [State.ISSUED]


def _with_ttl(look: Look, ttl: int) -> Look:
    return Look(look.shown, look.missing, look.silent, ttl=ttl)


def test_nobody_waits_for_a_ttl_of_a_day_and_the_deadline_is_kept_ahead(world, account, owner):
    slow = world.credential(owner, ttl=86400, propagation_timeout=30)
    world.create(account, slow, "example.com")
    world.deliver()
    _, wildcard = world.create(account, slow, WILDCARD)
    world.deliver()
    waiting = last()
    assert waiting.wake_at == world.time + LONGEST
    assert waiting.deadline_at > waiting.wake_at
    world.advance(LONGEST.total_seconds())
    world.sweep()
    assert states(wildcard) == [State.ISSUED]


def test_the_retry_of_a_failed_validation_waits_too(world, account, credential):
    world.ca.kept_txt["_acme-challenge.example.com"] = (
        world.time + timedelta(seconds=50),
        frozenset(),
    )
    certificate, first = world.create(account, credential, "example.com")
    world.deliver()
    assert states(first) == [State.FAILED]
    services.issue(certificate)
    world.deliver()
    assert states(last()) == [State.PRESENTED]
    world.advance(60)
    world.sweep()
    assert states(last()) == [State.ISSUED]
