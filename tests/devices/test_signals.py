"""Each device has a log of signals, which it polls from a cursor."""

import pytest
from django.db import transaction

from devices import signals, waking
from devices.models import Device, Signal
from tests.devices.agent import Agent, enrolled
from tests.issuance.api.calling import refused

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]
UPDATES = "/apiv1/devices/self/updates"


@pytest.fixture
def script(client_of, enrolment):
    return client_of(token=enrolment["session"]["access_token"])


@pytest.fixture
def device(enrolment):
    return Device.objects.get(pk=enrolment["device"]["id"])


@pytest.fixture
def woken(monkeypatch, django_capture_on_commit_callbacks):
    """The ids that the web processes were told, once the block of commits has ended."""
    told = []
    monkeypatch.setattr(waking, "wake", told.extend)
    return told


def emit(device, number, type="cert.updated"):
    signals.emit([device.pk], type, {"cert_id": number})


def poll(script, etag=None, **query):
    headers = {} if etag is None else {"HTTP_IF_NONE_MATCH": etag}
    return script.get(UPDATES, query, **headers)


def numbers(response):
    assert response.status_code == 200, response.content
    return [each["ref"]["cert_id"] for each in response.data_member["signals"]]


def test_a_device_without_signals_is_idle(script):
    answer = poll(script)
    assert answer.status_code == 204
    assert answer.content == b""
    assert answer["ETag"] == '"0-0"'
    assert answer["Cache-Control"] == "no-store"
    assert int(answer["X-Poll-Interval"]) > 0


def test_a_signal_is_polled_with_its_cursor(script, device, clock):
    emit(device, 7)
    answer = poll(script)
    ms = 1893456000000
    assert answer.data_member == {
        "cursor": f"{ms}-1",
        "signals": [{"type": "cert.updated", "ts_ms": ms, "ref": {"cert_id": 7}}],
    }
    assert answer["ETag"] == f'"{ms}-1"'
    assert answer["Cache-Control"] == "no-store"


@pytest.mark.parametrize("form", ["{}", '"{}"', 'W/"{}"'])
def test_the_cursor_of_a_response_is_the_start_of_the_next(script, device, form):
    emit(device, 1)
    cursor = poll(script).data_member["cursor"]
    idle = poll(script, form.format(cursor))
    assert (idle.status_code, idle["ETag"]) == (204, f'"{cursor}"')
    emit(device, 2)
    assert numbers(poll(script, form.format(cursor))) == [2]
    assert numbers(poll(script, cursor=form.format(cursor))) == [2]


@pytest.mark.parametrize("empty", ['""', " ", ""])
def test_an_empty_header_is_no_cursor(script, device, empty):
    emit(device, 1)
    first = poll(script).data_member["cursor"]
    emit(device, 2)
    assert numbers(poll(script, empty)) == [1, 2]
    assert numbers(poll(script, empty, cursor=first)) == [2]


def test_the_header_wins_over_the_query(script, device):
    emit(device, 1)
    first = poll(script).data_member["cursor"]
    emit(device, 2)
    assert numbers(poll(script, first, cursor="0-0")) == [2]


def test_a_limit_cuts_the_response_and_the_cursor_goes_on(script, device):
    for number in range(5):
        emit(device, number)
    answer = poll(script, limit=2)
    assert numbers(answer) == [0, 1]
    answer = poll(script, answer["ETag"], limit=2)
    assert numbers(answer) == [2, 3]
    assert numbers(poll(script, answer["ETag"])) == [4]


def test_the_limit_of_a_poll_is_twenty_unless_it_names_one(script, device):
    for number in range(21):
        emit(device, number)
    assert numbers(poll(script)) == list(range(20))
    assert numbers(poll(script, limit=100)) == list(range(21))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "x"),
        ("wait", "-1"),
        ("wait", "31"),
        ("cursor", "1"),
        ("cursor", "1-2-3"),
        ("cursor", "1-" + "9" * 30),
        ("cursor", "-1-0"),
        ("cursor", "*"),
        ("cursor", "\u0661-\u0662"),
    ],
)
def test_a_wrong_parameter_is_refused(script, name, value):
    refused(script.get(UPDATES, {name: value}), 400, name)


def test_a_wrong_header_is_refused_as_the_cursor(script):
    refused(poll(script, "*"), 400, "cursor")


def test_moments_increase_though_the_clock_stands_still_or_goes_back(script, device, clock):
    emit(device, 0)
    emit(device, 1)
    clock.shift(-3600)
    emit(device, 2)
    moments = [each["ts_ms"] for each in poll(script).data_member["signals"]]
    assert moments == [1893456000000, 1893456000001, 1893456000002]


def test_each_device_has_a_log_of_its_own(client_of, alice, script, device):
    other = enrolled(Agent(), client_of(alice), alice.pk)
    signals.emit([device.pk, other["device"]["id"]], "cert.updated", {"cert_id": 1})
    emit(device, 2)
    assert numbers(poll(script)) == [1, 2]
    others = client_of(token=other["session"]["access_token"])
    assert numbers(poll(others)) == [1]


def test_a_device_that_is_gone_gets_no_signal(device):
    signals.emit([device.pk + 1], "cert.updated", {"cert_id": 1})
    signals.emit([], "cert.updated", {"cert_id": 1})
    assert not Signal.objects.exists()


def test_a_signal_of_a_transaction_that_fails_was_never_there(script, device):
    emit(device, 1)
    with transaction.atomic():
        emit(device, 2)
        transaction.set_rollback(True)
    emit(device, 3)
    assert numbers(poll(script)) == [1, 3]
    assert list(Signal.objects.order_by("seq").values_list("seq", flat=True)) == [1, 2]


def test_devices_are_woken_after_the_commit(device, woken, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        emit(device, 1)
        assert woken == []
    assert woken == [device.pk]


# --- The end of the log ---


@pytest.fixture
def short_log(monkeypatch):
    monkeypatch.setattr(signals, "KEPT", 5)
    monkeypatch.setattr(signals, "TRIMMED_EVERY", 1)


def test_only_the_newest_signals_are_kept(short_log, script, device):
    for number in range(8):
        emit(device, number)
    assert Signal.objects.count() == 5
    assert numbers(poll(script)) == [3, 4, 5, 6, 7]
    assert numbers(poll(script, "0-0")) == [3, 4, 5, 6, 7]


def test_a_log_is_trimmed_now_and_then_and_ends_at_the_same_place(monkeypatch, script, device):
    monkeypatch.setattr(signals, "KEPT", 5)
    for number in range(8):
        emit(device, number)
    assert Signal.objects.count() == 8
    assert numbers(poll(script)) == [3, 4, 5, 6, 7]
    for number in range(signals.TRIMMED_EVERY):
        emit(device, number)
    assert Signal.objects.count() <= 5 + signals.TRIMMED_EVERY


def test_a_cursor_that_was_trimmed_asks_for_everything_again(short_log, script, device):
    emit(device, 0)
    old = poll(script).data_member["cursor"]
    for number in range(1, 8):
        emit(device, number)
    answer = poll(script, old)
    refused(answer, 409)
    assert answer.error["code"] == 40901
    params = answer.error["params"]
    earliest = Signal.objects.order_by("seq").first()
    assert params == {
        "action": "full_resync",
        "reset_cursor": True,
        "signal_type": "state.resync_required",
        "reason": "cursor_trimmed",
        "earliest_retained_id": f"{earliest.ts_ms}-{earliest.seq}",
    }
    assert numbers(poll(script)) == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("change", [(0, 5), (1, 0), (-1, 0), (0, -1)], ids=str)
def test_a_cursor_that_is_not_in_the_log_asks_for_everything_again(script, device, change):
    emit(device, 1)
    emit(device, 2)
    newest = Signal.objects.order_by("seq").last()
    cursor = f"{newest.ts_ms + change[0]}-{newest.seq + change[1]}"
    assert poll(script, cursor).error["code"] == 40901


def test_a_cursor_of_a_log_that_is_empty_now_asks_for_everything_again(script):
    answer = poll(script, "1893456000000-7")
    assert answer.error["code"] == 40901
    assert "earliest_retained_id" not in answer.error["params"]


# --- Who may read ---


def test_a_device_that_is_revoked_or_unknown_reads_nothing(client_of, script, device):
    emit(device, 1)
    refused(client_of().get(UPDATES), 401)
    Device.objects.update(status="REVOKED", revoked_at="2030-01-01T00:00:00Z")
    refused(poll(script), 403)


def test_a_poll_takes_two_statements(script, device, django_assert_num_queries):
    emit(device, 1)
    with django_assert_num_queries(2):
        poll(script)
