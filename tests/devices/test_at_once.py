"""Devices that do the same thing at the same moment, on PostgreSQL."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection

from accounts.models import User
from certctrl.errors import ApiError
from devices import codes, installplans, registration, services, signals, tokens
from devices.models import Device, DeviceSession, EnrolmentKey
from tests.devices.agent import Agent

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.postgres_only,
    pytest.mark.django_db(transaction=True),
]
MANY = 8


@pytest.fixture
def owner(db: None) -> User:
    return User.objects.create_user("owner@example.com")


def at_once(act: Callable[[int], Any]) -> list[Any]:
    """Call `act` with each number on its own thread. Return the results and the refusals."""
    start = threading.Barrier(MANY)
    results: list[Any] = []

    def one(number: int) -> None:
        try:
            start.wait()
            results.append(act(number))
        except ApiError as refused:
            results.append(refused)
        finally:
            connection.close()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(MANY)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(results) == MANY
    return results


def spec_of(agent: Agent) -> dict[str, Any]:
    return {"device_public_id": agent.public_id, "dev_pk": bytes(agent.key.public_key)}


def approved(owner: User) -> str:
    """Return a registration code that the owner has approved."""
    started = codes.start(interval=5, expires_in=900, origin="https://certctrl.test")
    codes.decide(owner, started["user_code"], approve=True, ip=None)
    return str(codes.poll(started["device_code"])["registration_code"])


def fleet_key(owner: User, uses: int) -> EnrolmentKey:
    row, _ = services.create_enrolment_key(owner, "fleet", "edge", uses, 3600, None)
    return row


def test_one_public_id_gets_one_row_and_one_session(owner):
    agent = Agent()
    grants = [approved(owner) for _ in range(MANY)]
    spec = spec_of(agent)
    results = at_once(
        lambda number: registration.with_code(spec, owner.pk, grants[number], "device", None)
    )
    assert [each.is_new for each in results].count(True) == 1
    assert Device.objects.count() == 1
    assert DeviceSession.objects.filter(ended_at=None).count() == 1


def test_one_code_enrols_one_device(owner):
    code = approved(owner)
    results = at_once(
        lambda _: registration.with_code(spec_of(Agent()), owner.pk, code, "device", None)
    )
    assert sum(isinstance(each, registration.Enrolled) for each in results) == 1
    assert Device.objects.count() == 1


def test_an_enrolment_key_enrols_no_device_too_many(owner):
    key = fleet_key(owner, uses=3).api_key
    results = at_once(lambda _: registration.with_key(spec_of(Agent()), key, "fleet", None))
    assert sum(isinstance(each, registration.Enrolled) for each in results) == 3
    assert EnrolmentKey.objects.get().uses_left == 0
    assert Device.objects.count() == 3


def test_a_token_that_is_sent_twice_yields_one_successor(owner):
    key = fleet_key(owner, uses=1).api_key
    session = registration.with_key(spec_of(Agent()), key, "fleet", None).session
    results = at_once(lambda _: tokens.refresh(session["refresh_token"], None))
    assert len({each["refresh_token"] for each in results}) == 1
    assert DeviceSession.objects.live().count() == 1


def test_a_code_is_decided_once(owner):
    started = codes.start(interval=5, expires_in=900, origin="https://certctrl.test")
    people = [owner, *(User.objects.create_user(f"p{n}@example.com") for n in range(1, MANY))]
    results = at_once(lambda number: codes.decide(people[number], started["user_code"], True, None))
    assert results.count("approved") == 1


def test_a_registration_that_is_sent_twice_succeeds_twice(owner):
    code = approved(owner)
    spec = spec_of(Agent())
    results = at_once(lambda _: registration.with_code(spec, owner.pk, code, "device", None))
    assert all(isinstance(each, registration.Enrolled) for each in results)
    assert Device.objects.count() == 1


def test_a_reader_that_follows_its_cursor_misses_no_signal(owner):
    key = fleet_key(owner, uses=1).api_key
    device = registration.with_key(spec_of(Agent()), key, "fleet", None).device
    seen: list[signals.Line] = []

    def read() -> None:
        row = Device.objects.get(pk=device.pk)
        seen.extend(signals.read(seen[-1].cursor if seen else signals.START, row, 100))

    def act(number: int) -> None:
        for each in range(10):
            if number:
                signals.emit([device.pk], "cert.updated", {"cert_id": 10 * number + each})
            else:
                read()

    at_once(act)
    read()
    assert sorted(each.ref["cert_id"] for each in seen) == list(range(10, 10 * MANY))
    moments = [each.cursor.ts_ms for each in seen]
    assert moments == sorted(set(moments))


def test_devices_in_another_order_do_not_block_each_other(owner):
    key = fleet_key(owner, uses=2).api_key
    ids = [registration.with_key(spec_of(Agent()), key, "fleet", None).device.pk for _ in range(2)]
    for _ in range(10):
        at_once(lambda number: signals.emit(ids[:: 1 if number % 2 else -1], "cert.updated", {}))
    assert list(Device.objects.values_list("signal_seq", flat=True)) == [10 * MANY] * 2


def test_install_plans_that_change_at_once_are_versions_of_their_own(owner):
    device = registration.with_code(
        spec_of(Agent()), owner.pk, approved(owner), "device", None
    ).device
    results = at_once(
        lambda number: installplans.replace(device, {"installs": [{"id": f"{number}"}]}, "")
    )
    assert sorted(each.version for each in results) == list(range(1, MANY + 1))
