"""Certificates with exactly the same names."""

import pytest

from issuance import services
from issuance.models import Certificate

pytestmark = pytest.mark.django_db


def test_the_same_names_are_those_of_an_owners_own_certificate(world, account, credential, bob):
    names = ["example.com", "www.example.com"]
    made, _ = world.create(account, credential, *names)
    assert services.with_names(made.owner, names[::-1]) == [made.pk]
    assert services.with_names(made.owner, names[:1]) == []
    assert services.with_names(made.owner, [*names, "a.example.com"]) == []
    assert services.with_names(bob, names) == []
    Certificate.objects.filter(pk=made.pk).update(retired_at=world.time)
    assert services.with_names(made.owner, names) == []
