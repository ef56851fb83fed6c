"""RSA keys are made one at a time for each owner, and are loaded only when used."""

import threading

import pytest
from cryptography.hazmat.primitives import serialization

from authorities import keyqueue
from authorities.keyqueue import Busy, one_at_a_time
from issuance import tasks
from tests.fakes.world import World
from tests.patience import LIMIT


@pytest.fixture
def loads(monkeypatch):
    """Return, for each private key loaded from now on, whether OpenSSL's check was skipped."""
    real = serialization.load_der_private_key
    seen = []

    def load(*args, **kwargs):
        seen.append(kwargs.get("unsafe_skip_rsa_key_validation", False))
        return real(*args, **kwargs)

    monkeypatch.setattr(serialization, "load_der_private_key", load)
    return seen


@pytest.mark.django_db
class TestLoads:
    @pytest.fixture
    def ask(self, api, self_ca):
        return {
            "domain": "nas.local",
            "acme_account_id": self_ca,
            "key_type": "rsa",
            "server_decrypt_export": True,
            "reuse_key": True,
        }

    @pytest.fixture
    def self_ca(self, api):
        root = api.post(
            "cas", {"name": "Office", "algorithm": "RSA", "key_size": 2048}
        ).data_member["id"]
        return api.post("acme-accounts", {"provider": "SELF_CA", "ca_id": root}).data_member["id"]

    def test_a_first_issuance_loads_the_cas_key_only(self, api, ask, loads):
        assert api.post("certificates", ask).data_member["status"] == "SUCCESS"
        assert loads == [True]

    def test_an_export_and_a_renewal_with_the_same_key_load_each_key_once(self, api, ask, loads):
        pk = api.post("certificates", ask).data_member["id"]
        loads.clear()
        assert api.get(f"certificates/{pk}/export").status_code == 200
        assert loads == [True]
        assert api.post(f"certificates/{pk}/renew").data_member["status"] == "SUCCESS"
        assert loads == [True, True, True]

    def test_making_a_ca_loads_no_key(self, api, loads):
        assert (
            api.post("cas", {"name": "Other", "algorithm": "RSA", "key_size": 2048}).status_code
            == 201
        )
        assert loads == []

    def test_where_the_line_is_full_a_ca_is_refused_with_when_to_ask_again(self, api, monkeypatch):
        monkeypatch.setattr(keyqueue, "MOST_IN_LINE", 0)
        answer = api.post("cas", {"name": "Other", "algorithm": "RSA"})
        assert (answer.status_code, answer.error["code"]) == (429, 5013)
        assert answer.headers["Retry-After"] == "5"
        assert api.post("cas", {"name": "Other"}).status_code == 201, "ECDSA waits for nobody"

    def test_where_the_line_is_full_a_worker_makes_the_key(self, api, ask, monkeypatch):
        started = []
        monkeypatch.setattr(tasks, "start", lambda *attempt: started.append(attempt))
        monkeypatch.setattr(keyqueue, "MOST_IN_LINE", 0)
        made = api.post("certificates", ask).data_member
        assert made["status"] == "PENDING"
        (attempt,) = started
        World.chain(*attempt)
        assert api.get(f"certificates/{made['id']}").data_member["status"] == "active"


def test_one_owner_has_one_turn_at_a_time_and_a_short_line(monkeypatch):
    monkeypatch.setattr(keyqueue, "LONGEST_WAIT", 60.0)
    at_once = []
    most = []
    done = threading.Semaphore(0)

    def make() -> None:
        with one_at_a_time(1):
            at_once.append(1)
            most.append(len(at_once))
            at_once.pop()
        done.release()

    in_line = [threading.Thread(target=make, daemon=True) for _ in range(keyqueue.MOST_IN_LINE - 1)]
    with one_at_a_time(1):
        for thread in in_line:
            thread.start()
        while keyqueue._lines[1].length < keyqueue.MOST_IN_LINE:
            in_line[-1].join(0.01)
        with pytest.raises(Busy), one_at_a_time(1):
            pass
        with one_at_a_time(2):
            pass
        assert most == []
    for _ in in_line:
        assert done.acquire(timeout=LIMIT)
    assert most == [1, 1, 1]
    for thread in in_line:
        thread.join(LIMIT)
    assert keyqueue._lines == {}


def test_a_line_that_does_not_move_is_left(monkeypatch):
    monkeypatch.setattr(keyqueue, "LONGEST_WAIT", 0.0)
    with one_at_a_time(1), pytest.raises(Busy), one_at_a_time(1):
        pass
    with one_at_a_time(1):
        pass
