"""Enrolment with a person and with an API key, and what it leaves on the disk."""

import stat
from typing import Any

import pytest

from certctrl_agent import enrol
from certctrl_agent.errors import AgentError, RefusedByServer, ServerAway
from certctrl_agent.server import Server, checked_origin
from certctrl_agent.state import State
from tests.agent.fakeserver import ENROLMENT_KEY, FakeServer

REGISTRATION = "/apiv1/device/registration"


def with_person(server: FakeServer, state: State, pauses: list[float]) -> dict[str, Any]:
    shown: list[dict[str, Any]] = []
    peer = Server(server.origin)
    device = enrol.with_person(state, peer, "web 1", None, shown.append, pauses.append)
    assert shown[0]["user_code"] == "WXYZ-1234"
    return device


def with_key(server: FakeServer, state: State, key: str = ENROLMENT_KEY) -> dict[str, Any]:
    peer = Server(server.origin)
    return enrol.with_key(state, peer, "web 1", None, key, lambda seconds: None)


def test_a_person_approves_and_the_device_registers(server, state) -> None:
    server.grant_statuses.extendleft(["authorization_pending", "authorization_pending"])
    pauses: list[float] = []
    device = with_person(server, state, pauses)
    assert pauses == [5, 5]
    assert device["id"] == 11
    assert state.device() == device
    assert state.load("tokens")["access_token"] == server.access_token
    assert server.asked(REGISTRATION)[0]["device_public_id"] == state.public_id()
    assert server.dev_pk == bytes(state.key().public_key)


def test_slow_down_adds_five_seconds(server, state) -> None:
    server.grant_statuses.extendleft(["pending", "slow_down"])
    pauses: list[float] = []
    with_person(server, state, pauses)
    assert pauses == [10, 10]


@pytest.mark.parametrize("status", ["access_denied", "denied", "expired", "of a later version"])
def test_a_grant_that_ends_otherwise_enrols_nothing(server, state, status) -> None:
    server.grant_statuses = type(server.grant_statuses)([status])
    with pytest.raises(AgentError):
        with_person(server, state, [])
    assert state.load("device") is None
    assert server.asked(REGISTRATION) == []


def test_polling_ends_when_the_code_expires(server, state) -> None:
    server.grant_statuses.clear()
    _, started, _ = server.grant({"action": "device_start"})
    server.script("POST", "/auth/device", (200, {"data": started["data"] | {"expires_in": 30}}))
    pauses: list[float] = []
    with pytest.raises(AgentError, match="expired"):
        with_person(server, state, pauses)
    assert pauses == [5] * 6


def test_a_poll_without_response_is_repeated(server, state) -> None:
    started = server.grant({"action": "device_start"})
    server.script("POST", "/auth/device", started, (503, None))
    assert with_person(server, state, [])["id"] == 11


def test_a_fleet_enrols_with_its_key_alone(server, state) -> None:
    assert with_key(server, state)["id"] == 11
    _, path, body, headers = server.requests[0]
    assert (path, headers["Authorization"]) == ("/apiv1/me/devices", f"Bearer {ENROLMENT_KEY}")
    assert "registration_code" not in body
    assert "user_id" not in body


def test_an_unknown_key_is_refused_with_the_words_of_the_server(server, state) -> None:
    with pytest.raises(RefusedByServer, match="This API key is not known") as caught:
        with_key(server, state, "ak_other")
    assert "ak_other" not in str(caught.value)
    assert state.load("device") is None


def test_a_registration_without_response_is_sent_again(server, state) -> None:
    server.script("POST", "/apiv1/me/devices", (502, None), (502, None))
    with_key(server, state)
    first, *others = server.asked("/apiv1/me/devices")
    assert others == [first, first]


def test_a_registration_is_not_sent_without_end(server, state) -> None:
    server.script("POST", "/apiv1/me/devices", *[(502, None)] * 10)
    with pytest.raises(ServerAway):
        with_key(server, state)


def test_only_the_user_of_the_agent_can_read_its_files(server, state) -> None:
    with_key(server, state)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.folder.iterdir()}
    assert modes["device.key"] == modes["tokens.json"] == modes["device.json"] == 0o600
    assert stat.S_IMODE(state.folder.stat().st_mode) == 0o700


def test_a_folder_that_others_may_enter_is_refused(state) -> None:
    state.folder.chmod(0o750)
    with pytest.raises(AgentError, match="chmod 700"):
        State(state.folder)


def test_a_key_that_others_may_read_is_refused(state) -> None:
    state.key()
    (state.folder / "device.key").chmod(0o644)
    with pytest.raises(AgentError, match="chmod 600"):
        state.key()


def test_enrolling_again_keeps_key_and_public_id(server, state) -> None:
    with_key(server, state)
    known, key = state.public_id(), server.dev_pk
    with_key(server, State(state.folder))
    assert server.asked("/apiv1/me/devices")[1]["device_public_id"] == known
    assert server.dev_pk == key


def test_the_public_id_has_the_form_of_a_uuid_and_is_stable(state, tmp_path) -> None:
    assert [len(part) for part in state.public_id().split("-")] == [8, 4, 4, 4, 12]
    assert State(state.folder).public_id() == state.public_id()
    assert State(tmp_path / "other").public_id() != state.public_id()


def test_enrolling_at_another_server_forgets_the_first(server, state) -> None:
    with_key(server, state)
    state.save("progress", {"cursor": "5-0"})
    other = FakeServer()
    try:
        with_key(other, state)
    finally:
        other.close()
    assert state.load("progress") is None
    assert state.device()["server"] == other.origin


@pytest.mark.parametrize(
    "url",
    ["http://certs.example.com", "ftp://example.com", "https://me:pw@example.com", "https://"],
)
def test_an_address_that_is_not_safe_is_refused(url) -> None:
    with pytest.raises(AgentError):
        checked_origin(url)


def test_https_is_meant_when_the_address_has_no_scheme() -> None:
    assert checked_origin("certs.example.com/") == "https://certs.example.com"


def test_a_response_without_tokens_stores_nothing(server, state) -> None:
    server.script("POST", "/apiv1/me/devices", (201, {"data": {"device": {"id": 1}}}))
    with pytest.raises(ServerAway, match="without tokens"):
        with_key(server, state)
    assert state.load("device") is None
