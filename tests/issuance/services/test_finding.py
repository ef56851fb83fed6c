"""The filters of the lists."""

from datetime import date, timedelta

import pytest

from certctrl import clock
from issuance import services
from issuance.models import Certificate
from issuance.services import Filter

pytestmark = pytest.mark.django_db


@pytest.fixture
def four(account, credential):
    """Four certificates that differ in everything that a filter reads."""
    made = [
        Certificate.objects.create(
            owner=account.owner,
            account=account,
            domain=f"n{number}.example.com",
            names=[f"n{number}.example.com", "x.example.org"][: 1 + number % 2],
            expires_at=clock.now() + timedelta(days=number),
            key_policy="HYBRID" if number else "MASTER_ONLY",
            credential=credential if number == 3 else None,
            auto_renew=number != 2,
            request_digest=str(number),
        )
        for number in range(4)
    ]
    services.set_labels(made[1], ["prod"])
    return made


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        ({}, [0, 1, 2, 3]),
        ({"words": " N2.EXAMPLE "}, [2]),
        ({"words": "x.example.org"}, [1, 3]),
        ({"condition": "off"}, [2]),
        ({"key_policy": "MASTER_ONLY"}, [0]),
        ({"label": "prod"}, [1]),
        ({"label": "Prod"}, []),
        ({"ca_provider": "custom"}, [0, 1, 2, 3]),
        ({"ca_provider": "zerossl"}, []),
        ({"account": 999}, []),
        ({"words": "example", "key_policy": "HYBRID", "condition": "off"}, [2]),
        ({"words": "\0", "label": "\0"}, [0, 1, 2, 3]),
    ],
)
def test_each_filter_lets_its_certificates_through(four, fields, numbers):
    found = services.found(services.of_owner(four[0].owner), four[0].owner, Filter(**fields))
    assert sorted(each.pk for each in found) == [four[number].pk for number in numbers]


def test_the_credential_and_the_last_day_narrow_the_list(four, credential):
    rows = services.of_owner(four[0].owner)
    assert list(services.found(rows, four[0].owner, Filter(credential=credential.pk))) == [four[3]]
    tomorrow = (clock.now() + timedelta(days=1)).date()
    assert list(services.found(rows, four[0].owner, Filter(ends_before=tomorrow))) == [four[0]]
    assert not services.found(rows, four[0].owner, Filter(ends_before=date(1, 1, 1)))
