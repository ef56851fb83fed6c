"""Owners and scripts write the install plan of a device, and the device reads it."""

import base64
import hashlib
import json

import pytest

from accounts.models import AuditEvent
from devices import installplans
from devices.models import InstallPlan, Signal
from tests.devices.agent import Agent, enrolled
from tests.issuance.api.calling import Caller, refused

pytestmark = pytest.mark.django_db

COPY = {
    "id": "files",
    "type": "copy",
    "ob_type": "cert",
    "ob_id": 7,
    "from": ["fullchain.pem", "private.key"],
    "to": ["/etc/ssl/www.pem", "/etc/ssl/www.key"],
}
RELOAD = {
    "id": "reload",
    "type": "exec",
    "cmd_argv": ["nginx", "-s", "reload"],
    "depends_on": ["files"],
    "tags": ["reload"],
    "verify": {
        "type": "tls",
        "address": "127.0.0.1",
        "port": 443,
        "sni": "www.example.com",
        "starttls": None,
        "grace_seconds": 5,
    },
}
TRUST = {"id": "trust", "type": "import_ca", "ob_type": "ca", "ob_id": 3, "from": ["ca.pem"]}
ITEMS = [COPY, RELOAD, TRUST]


@pytest.fixture
def api(client_of, alice) -> Caller:
    return Caller(client_of(alice))


@pytest.fixture
def device(enrolment):
    return enrolment["device"]


@pytest.fixture
def path(device) -> str:
    return f"devices/{device['id']}/install-config"


@pytest.fixture
def own(agent, enrolment):
    """Read the plan as the device does."""
    token = f"Bearer {enrolment['session']['access_token']}"
    return lambda: (
        agent.client.get("/apiv1/devices/self/install-config", HTTP_AUTHORIZATION=token).data_member
    )


def item(**changes):
    """An item that is valid without the changes."""
    whole = COPY | changes
    return {name: value for name, value in whole.items() if value is not ...}


def test_a_device_without_a_plan_has_version_0(api, path, own, device):
    plan = api.get(path).data_member
    assert own() == plan
    assert (plan["version"], plan["installs"]) == (0, [])
    assert plan["user_device_id"] == device["id"]
    assert plan["after_update_script"] is None
    assert not InstallPlan.objects.exists()


def test_the_device_reads_what_its_owner_wrote(api, path, own):
    written = api.put(path, {"installs": ITEMS, "change_note": "the first"})
    assert written.status_code == 200
    plan = own()
    assert plan == written.data_member == api.get(path).data_member
    assert (plan["version"], plan["installs"]) == (1, ITEMS)
    assert json.loads(plan["installs_json"]) == ITEMS
    digest = hashlib.sha256(plan["installs_json"].encode()).digest()
    assert base64.b64decode(plan["installs_hash"]) == digest


def test_members_that_the_server_does_not_know_are_kept(api, path, own):
    unknown = item(later={"a": [1, None]}) | {"verify": {"type": "command", "argv": ["true"]}}
    api.put(path, {"installs": [unknown]})
    assert own()["installs"] == [unknown]


NUMBERED = [COPY | {"id": 1}, RELOAD | {"id": 2, "depends_on": [1, "trust"]}, TRUST]


def test_ids_that_are_numbers_come_back_as_numbers(api, path, own, agent, script):
    api.put(path, {"installs": NUMBERED})
    assert own()["installs"] == NUMBERED
    for id in (1, "1"):
        patch = {"ob_type": "cert", "ob_id": 7, "id": id, "timeout_ms": 5}
        assert script.post(patch_path(agent), [patch]).status_code == 200
        assert own()["installs"] == [NUMBERED[0] | {"timeout_ms": 5}, *NUMBERED[1:]]


@pytest.mark.parametrize("other", ["1", 1])
def test_an_id_is_the_same_as_a_number_and_as_text(api, path, other):
    again = AGAIN | {"id": other}
    assert '"1"' in refused(api.put(path, {"installs": [NUMBERED[0], again]}), 400, "installs")
    assert "depend on each other" in refused(
        api.put(path, {"installs": [COPY | {"id": 1, "depends_on": [other]}]}), 400, "installs"
    )
    assert not InstallPlan.objects.exists()


def test_each_change_is_a_version(api, path, alice):
    for number in range(1, 4):
        plan = api.put(path, {"installs": ITEMS[:number], "change_note": f"{number}"}).data_member
        assert plan["version"] == number
    versions = api.get(f"{path}-histories").data_member
    assert [each["version"] for each in versions] == [3, 2, 1]
    assert [each["installs"] for each in versions] == [ITEMS, ITEMS[:2], ITEMS[:1]]
    assert [each["change_note"] for each in versions] == ["3", "2", "1"]
    assert {each["updated_by"] for each in versions} == {alice.email}
    page = api.get(f"{path}-histories?limit=1&after={versions[0]['id']}").data_member
    assert page == versions[1:2]
    assert AuditEvent.objects.filter(action="device.install_plan_changed").count() == 3


def test_each_version_is_a_signal_to_its_device(api, path, own, device):
    api.put(path, {"installs": ITEMS})
    api.put(path, {"installs": []})
    api.post(f"{path}/restore", {"version": 1})
    refused(api.put(path, {"installs": [{}]}), 400)
    told = Signal.objects.filter(device=device["id"]).order_by("seq")
    assert [each.type for each in told] == ["install.updated"] * 3
    assert [each.ref["version"] for each in told] == [1, 2, 3]
    assert told[2].ref["installs_hash_b64"] == own()["installs_hash"]
    assert told[2].ref["config_id"] == own()["id"]


def test_only_the_newest_versions_are_kept(api, path, monkeypatch):
    monkeypatch.setattr(installplans, "KEPT_VERSIONS", 2)
    for _ in range(4):
        api.put(path, {"installs": ITEMS})
    assert [each["version"] for each in api.get(f"{path}-histories").data_member] == [4, 3]
    refused(api.post(f"{path}/restore", {"version": 2}), 404)


def test_an_earlier_version_is_restored_as_a_new_one(api, path, own):
    api.put(path, {"installs": ITEMS, "after_update_script": "@@@BEGIN posix.sh\necho\n@@@END"})
    api.put(path, {"installs": [], "after_update_script": None})
    assert own()["after_update_script"] is None
    restored = api.post(f"{path}/restore", {"version": 1, "change_note": "back"}).data_member
    assert (restored["version"], restored["installs"]) == (3, ITEMS)
    assert restored["after_update_script"] == "@@@BEGIN posix.sh\necho\n@@@END"
    assert restored["change_note"] == "back"
    assert own() == restored
    refused(api.post(f"{path}/restore", {"version": 9}), 404)
    refused(api.post(f"{path}/restore", {"version": 0}), 400, "version")
    assert own() == restored


def test_a_replaced_plan_keeps_its_script(api, path, own):
    api.put(path, {"installs": ITEMS, "after_update_script": "#!/bin/sh\n\techo\r\n"})
    api.put(path, {"installs": ITEMS})
    assert own()["after_update_script"] == "#!/bin/sh\n\techo\r\n"


def test_plans_of_others_are_not_there(client_of, bob, api, path):
    api.put(path, {"installs": ITEMS})
    bobs = Caller(client_of(bob))
    refused(bobs.get(path), 404)
    refused(bobs.put(path, {"installs": []}), 404)
    refused(bobs.get(f"{path}-histories"), 404)
    refused(bobs.post(f"{path}/restore", {"version": 1}), 404)
    assert api.get(path).data_member["version"] == 1


def test_a_key_needs_a_grant_on_the_device(key_client, alice, device, path):
    reader = Caller(key_client(alice, f"devices:{device['id']}[read]"))
    assert reader.get(path).status_code == 200
    assert reader.get(f"{path}-histories").data_member == []
    refused(reader.put(path, {"installs": []}), 403)
    refused(reader.post(f"{path}/restore", {"version": 1}), 403)
    writer = Caller(key_client(alice, f"devices:{device['id']}[write]"))
    assert writer.put(path, {"installs": []}).status_code == 200
    refused(Caller(key_client(alice, "devices:999[read,write]")).get(path), 403)


UNSET = {
    "null": dict.fromkeys(["cmd", "from", "to", "depends_on", "tags", "env", "verify", "run_as"]),
    "empty": {
        "cmd": "",
        "from": [],
        "to": [],
        "depends_on": [],
        "tags": [],
        "env": {},
        "verify": {},
        "run_as": "",
        "ob_type": "",
        "ob_id": 0,
        "ob_name": "",
    },
}


@pytest.mark.parametrize("unset", list(UNSET))
def test_members_that_are_not_set_are_kept_as_they_were_sent(api, path, own, unset):
    whole = {"id": "reload", "type": "exec", "cmd_argv": ["true"]} | UNSET[unset]
    assert api.put(path, {"installs": [whole]}).status_code == 200
    assert own()["installs"] == [whole]


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ("copy", "installs[0]"),
        (item(id=""), "installs[0].id"),
        (item(id=...), "installs[0].id"),
        (item(id=True), "installs[0].id"),
        (item(id=None), "installs[0].id"),
        (item(id=[1]), "installs[0].id"),
        (item(id=10**128), "installs[0].id"),
        (item(depends_on=[True]), "installs[0].depends_on[0]"),
        (item(type="link"), "installs[0].type"),
        (item(type=...), "installs[0].type"),
        (item(enabled="perhaps"), "installs[0].enabled"),
        (item(to=["etc/www.pem", "/etc/www.key"]), "installs[0].to[0]"),
        (item(to=["/etc/www.pem", "/etc/../root/www.key"]), "installs[0].to[1]"),
        (item(to=["C:\\ssl\\..\\www.pem", "C:\\www.key"]), "installs[0].to[0]"),
        (item(to=["~/www.pem", ""]), "installs[0].to[0]"),
        (item(to=["/", ""]), "installs[0].to[0]"),
        (item(to=["/etc/www.pem", "/etc/ssl/"]), "installs[0].to[1]"),
        (item(to=["/etc/ssl/.", ""]), "installs[0].to[0]"),
        (item(to=["C:\\ssl\\", ""]), "installs[0].to[0]"),
        (item(to=["/etc/www\n.pem", ""]), "installs[0].to[0]"),
        (item(to=["/" + "x" * 4096, ""]), "installs[0].to[0]"),
        (item(to=["/etc/www.pem"]), "installs[0]"),
        (item(to=...), "installs[0]"),
        (item(**{"from": [], "to": []}), "installs[0]"),
        (item(**{"from": ["ca.pem", "private.key"]}), "installs[0]"),
        (item(**{"from": ["../x", "private.key"]}), "installs[0]"),
        (item(ob_type=...), "installs[0]"),
        (item(ob_type="key"), "installs[0].ob_type"),
        (item(ob_id=...), "installs[0]"),
        (item(ob_id=0), "installs[0]"),
        (item(tags=["x" * 65]), "installs[0].tags[0]"),
        (item(timeout_ms=-1), "installs[0].timeout_ms"),
        (item(timeout_ms=86_400_001), "installs[0].timeout_ms"),
        (item(env={"A=B": "x"}), "installs[0].env"),
        (item(env=["A"]), "installs[0].env"),
        (item(depends_on=["absent"]), "installs"),
        (item(depends_on=["files"]), "installs"),
        (item(verify={"type": "ping"}), "installs[0].verify.type"),
        (item(verify={"type": "tls", "port": 443}), "installs[0].verify"),
        (item(verify={"type": "tls", "address": "::1"}), "installs[0].verify"),
        (
            item(verify={"type": "tls", "address": "a b", "port": 443}),
            "installs[0].verify.address",
        ),
        (
            item(verify={"type": "tls", "address": "::1", "port": 70000}),
            "installs[0].verify.port",
        ),
        (
            item(verify={"type": "tls", "address": "::1", "port": 25, "starttls": "ftp"}),
            "installs[0].verify.starttls",
        ),
        (RELOAD | {"cmd_argv": None, "depends_on": []}, "installs[0]"),
        (RELOAD | {"ob_type": "cert", "ob_id": 7, "depends_on": []}, "installs[0]"),
        (RELOAD | {"cmd_argv": [], "depends_on": []}, "installs[0]"),
        (RELOAD | {"cmd_argv": [], "cmd": "", "depends_on": []}, "installs[0]"),
        (item(ob_type=""), "installs[0]"),
        (RELOAD | {"cmd_argv": "nginx -s reload", "depends_on": []}, "installs[0].cmd_argv"),
        (RELOAD | {"cmd": " ", "depends_on": []}, "installs[0].cmd"),
        (RELOAD | {"cmd": [1], "depends_on": []}, "installs[0].cmd"),
        (RELOAD | {"cmd": "x" * 32_769, "depends_on": []}, "installs[0].cmd"),
        (TRUST | {"ob_type": "cert"}, "installs[0]"),
        (TRUST | {"ob_id": None, "ob_name": "root"}, "installs[0]"),
        (TRUST | {"from": ["private.key"]}, "installs[0]"),
    ],
    ids=str,
)
def test_a_bad_item_is_refused_and_changes_nothing(api, path, item, field):
    what = refused(api.put(path, {"installs": [item]}), 400, field)
    assert len(what) < 300
    assert not InstallPlan.objects.exists()


@pytest.mark.parametrize(
    "body",
    [
        {"installs": [COPY, COPY]},
        {"installs": [COPY | {"depends_on": ["reload"]}, RELOAD]},
        {"installs": [COPY | {"id": f"{number}"} for number in range(201)]},
        {"installs": [COPY | {"note": "x" * 131_072}]},
        {"installs": {}},
        {"installs": None},
        {},
        {"installs": [], "after_update_script": "x" * 65_537},
        {"installs": [], "change_note": "x" * 1001},
        [],
    ],
    ids=lambda body: str(body)[:60],
)
def test_a_bad_plan_is_refused_and_changes_nothing(api, path, body):
    refused(api.put(path, body), 400)
    assert not InstallPlan.objects.exists()


def test_a_plan_that_is_a_list_is_told_to_be_an_object(api, path):
    assert "not a JSON object" in refused(api.put(path, [COPY]), 400)


def test_a_plan_with_a_cycle_names_the_items(api, path):
    body = {"installs": [COPY | {"depends_on": ["reload"]}, RELOAD]}
    what = refused(api.put(path, body), 400, "installs")
    assert "files, reload, files" in what or "reload, files, reload" in what


def test_targets_of_windows_and_unset_targets_are_kept(api, path, own):
    targets = ["C:\\ssl\\www.pem", ""]
    api.put(path, {"installs": [item(to=targets)]})
    assert own()["installs"][0]["to"] == targets


# --- patches with an API key ---


def patch_path(agent) -> str:
    return f"install-config-update/{agent.public_id}"


@pytest.fixture
def script(key_client, alice, device) -> Caller:
    return Caller(key_client(alice, "ForInstallConfigUpdate:*[update]"))


AGAIN = COPY | {"id": "again", "to": ["/srv/www.pem", "/srv/www.key"]}
RESTART = {"id": "restart", "type": "exec", "ob_type": "ca", "ob_id": 3, "cmd": "restart"}


def test_a_patch_changes_the_items_of_its_object(api, path, agent, script, own):
    api.put(path, {"installs": [COPY, AGAIN, RESTART], "after_update_script": "old"})
    patch = {"ob_type": "ca", "ob_id": 3, "cmd": ["systemctl", "restart", "app"], "id": "restart"}
    answer = script.post(patch_path(agent), [patch | {"timeout_ms": 1000, "run_as": "root"}])
    assert answer.status_code == 200
    assert isinstance(answer.data_member["message"], str)
    plan = own()
    assert plan["version"] == 2
    assert plan["installs"] == [COPY, AGAIN, RESTART | {"cmd": patch["cmd"], "timeout_ms": 1000}]
    assert plan["after_update_script"] == "old"
    whole = {"ob_type": "cert", "ob_id": 7, "enabled": False, "env": {"A": "b"}}
    body = {"patches": [whole], "after_update_script": None}
    assert script.post(patch_path(agent).upper(), body).status_code == 404
    assert script.post(f"install-config-update/{agent.public_id.upper()}", body).status_code == 200
    changed = own()["installs"]
    assert [each.get("enabled") for each in changed] == [False, False, None]
    assert [each.get("env") for each in changed] == [{"A": "b"}, {"A": "b"}, None]
    assert own()["after_update_script"] is None


@pytest.mark.parametrize(
    "patch",
    [
        {"ob_type": "cert", "ob_id": 7, "cmd": "rm -rf /"},
        {"ob_type": "cert", "ob_id": 7, "cmd_argv": ["sh"]},
        {"ob_type": "cert", "ob_id": 7, "cmd": None},
        {"ob_type": "cert", "ob_id": 7, "type": "exec"},
        {"ob_type": "cert", "ob_id": 8, "enabled": False},
        {"ob_type": "cert", "ob_id": 7, "id": "absent", "enabled": False},
        {"ob_type": "cert", "ob_id": 0, "enabled": False},
        {"ob_type": "cert", "enabled": False},
        {"ob_id": 7, "enabled": False},
        {"ob_type": "ca", "ob_id": 3, "type": "link"},
        {"ob_type": "ca", "ob_id": 3, "type": "exec"},
        {"ob_type": "ca", "ob_id": 3, "timeout_ms": "soon"},
        {"ob_type": "ca", "ob_id": 3, "enabled": "perhaps"},
        "patch",
    ],
    ids=str,
)
def test_a_bad_patch_is_refused_with_the_good_ones(api, path, agent, script, own, patch):
    api.put(path, {"installs": ITEMS})
    good = {"ob_type": "cert", "ob_id": 7, "enabled": False}
    refused(script.post(patch_path(agent), [good, patch]), 400)
    refused(script.post(patch_path(agent), {"patches": [good, patch]}), 400)
    assert own()["version"] == 1


def test_an_empty_patch_is_refused(api, path, agent, script):
    api.put(path, {"installs": ITEMS})
    refused(script.post(patch_path(agent), []), 400, "patches")
    refused(script.post(patch_path(agent), {}), 400, "patches")


def test_a_patch_needs_a_plan_and_a_device(agent, script, device):
    patch = [{"ob_type": "cert", "ob_id": 7, "enabled": False}]
    assert "no install plan" in refused(script.post(patch_path(agent), patch), 404)
    refused(script.post(patch_path(Agent()), patch), 404)


def test_a_key_names_the_device_by_either_id(
    api, path, key_client, client_of, alice, agent, device
):
    api.put(path, {"installs": ITEMS})
    patch = [{"ob_type": "cert", "ob_id": 7, "enabled": False}]
    other = Agent()
    enrolled(other, client_of(alice), alice.pk)
    for obid in (str(device["id"]), agent.public_id):
        script = Caller(key_client(alice, f"ForInstallConfigUpdate:{obid}[update]"))
        assert script.post(patch_path(agent), patch).status_code == 200
        refused(script.post(patch_path(other), patch), 403)
    for scope in ("devices:*[write]", "ForInstallConfigUpdate:999[update]"):
        refused(Caller(key_client(alice, scope)).post(patch_path(agent), patch), 403)


def test_a_key_patches_no_device_of_another_owner(api, path, key_client, bob, agent):
    api.put(path, {"installs": ITEMS})
    bobs = Caller(key_client(bob, "ForInstallConfigUpdate:*[update]"))
    patch = [{"ob_type": "cert", "ob_id": 7, "enabled": False}]
    refused(bobs.post(patch_path(agent), patch), 404)
    assert InstallPlan.objects.count() == 1
