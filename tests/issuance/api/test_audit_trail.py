"""Every writing operation of the API leaves an audit event, and no event holds a secret.

Its status is in the OpenAPI schema.
"""

import json
import re
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.test import Client

from accounts.models import ApiKey, AuditEvent
from authorities import privateca
from authorities.errors import Refused
from authorities.models import PrivateCA
from certctrl import clock
from issuance.models import Certificate
from lab.ca import PROJECT
from notices import addresses
from notices.models import settings_of
from tests import factories
from tests.devices.agent import Agent, decide
from tests.issuance.api.calling import Caller, refused, routes

pytestmark = pytest.mark.django_db
WRITES = ("post", "put", "patch", "delete")
TOKEN = "cf-token-nobody-may-see"
HOOK = {"url": "https://hooks.example.com/secret-path-of-the-hook"}
SECRETS = (TOKEN, "secret-path-of-the-hook", "whsec_", "PRIVATE KEY", factories.PASSWORD)

# What it asks of others or notes of itself, and changes nothing that a person set.
READS = {
    "post me/certificates/<id:pk>/preflight": "looks only",
    "post me/certificates/preflight": "looks only",
    "post me/dns-providers/<id:pk>/check": "notes what the provider answered",
    "post me/views": "keeps filters of a page",
    "delete me/views/<id:pk>": "keeps filters of a page",
    "post auth/refresh": "rotates a token; the end of a family is tested beside it",
    "post devices/self/notify": "notes what the agent reported",
}


@pytest.fixture
def do(world, api, guide, issued, client_of, settings):
    """Clients, and the rows that the operations need."""
    world.cas["SELF_CA"] = SimpleNamespace(
        client_for=lambda account: privateca.PrivateAuthority(account.private_ca)
    )
    root = factories.UserFactory(email="root@example.org", is_staff=True)
    staff = Caller(client_of(root), "/apiv1")
    credential = {"provider": "cloudflare", "api_token": TOKEN}
    return SimpleNamespace(
        api=api,
        guide=guide,
        credential=credential,
        pk=issued.pk,
        certificate=f"certificates/{issued.pk}",
        account=f"acme-accounts/{issued.account_id}",
        staff=staff,
        anybody=client_of(),
        owner=issued.owner,
        settings=settings,
        made=lambda path, body: f"{path}/{api.post(path, body).data_member['id']}",
        drill=lambda: f"drills/{staff.post('drills', {'issuer': 'fake CA'}).data_member['id']}",
    )


def other_session(do):
    """Log the owner in once more. Return the id of the new session."""
    before = set(do.owner.sessions.values_list("pk", flat=True))
    Client().force_login(do.owner)
    return do.owner.sessions.exclude(pk__in=before).get().public_id


def ended(do, which=""):
    return do.api.client.delete(f"/auth/sessions{which}")


def open_attempt(do):
    do.api.post(f"{do.certificate}/renew")
    return do.api.post(f"{do.certificate}/cancel")


def ask_for_address(do) -> str:
    """Return the code that is mailed to a new address of the caller."""
    do.settings.MAIL_IS_SET_UP = True
    do.api.put("notice-settings", {"email": "other@example.org"})
    return addresses.code_of(settings_of(do.owner.pk))


def key_body():
    return {
        "name": "ci",
        "expires_in_seconds": 60,
        "permissions": [factories.permission("devices:*[read]")],
    }


def logged_in(do, path):
    return do.anybody.post(path, {"email": "alice@example.org", "password": factories.PASSWORD})


def logged_out(do):
    logged_in(do, "/auth")
    return do.anybody.post("/auth/logout")


def approved(do, agent):
    agent.start()
    return decide(do.api.client, agent.user_code)


def enrolled(do, agent) -> str:
    """Enrol a device of alice by a session. Return its path."""
    response = registered(do, agent)
    return f"devices/{response.data_member['device']['id']}"


def registered(do, agent):
    approved(do, agent)
    code = agent.poll()["registration_code"]
    return do.api.post("devices", agent.body(registration_code=code))


def registered_by_itself(do, agent):
    approved(do, agent)
    return agent.register(do.owner.pk, agent.poll()["registration_code"])


def assigned(do) -> str:
    """Assign the certificate to a new device. Return the path of the device."""
    device = enrolled(do, Agent())
    do.api.post(f"{device}/certificates", {"cert_id": do.pk})
    return device


def tagged(do):
    return do.api.post(f"{do.certificate}/assign", {"tag": "edge"})


def assigned_by_key(do):
    agent = Agent()
    registered(do, agent)
    key = factories.api_key(do.owner, f"certificates:{do.pk}[write]")
    do.anybody.credentials(HTTP_AUTHORIZATION=f"Bearer {key}")
    body = {"device_public_id": agent.public_id}
    return do.anybody.post("/apiv1/me/certificate-assign", body)


def made_ca(do) -> int:
    return int(do.made("cas", {"name": "Home"}).partition("/")[2])


def trusting(do) -> str:
    """Let a new device trust a new private CA. Return the path of that."""
    device, ca = enrolled(do, Agent()), made_ca(do)
    do.api.post(f"{device}/cas", {"ca_id": ca})
    return f"{device}/cas/{ca}"


def planned(do) -> str:
    """Give a new device an install plan. Return the path of the plan."""
    path = f"{enrolled(do, Agent())}/install-config"
    do.api.put(path, {"installs": [STEP]})
    return path


def patched_by_key(do):
    agent = Agent()
    device = registered(do, agent).data_member["device"]["id"]
    do.api.put(f"devices/{device}/install-config", {"installs": [STEP]})
    key = factories.api_key(do.owner, "ForInstallConfigUpdate:*[update]")
    do.anybody.credentials(HTTP_AUTHORIZATION=f"Bearer {key}")
    patch = {"ob_type": "ca", "ob_id": 1, "enabled": False}
    path = f"/apiv1/me/install-config-update/{agent.public_id}"
    return do.anybody.post(path, {"patches": [patch]})


def probed(do):
    """Look at a port where nothing listens, and keep the address."""
    do.settings.ALLOW_PRIVATE = do.settings.ALLOW_PRIVATE_FOR_TENANTS = ["127.0.0.1"]
    body = {"address": "127.0.0.1", "port": 1, "daily": True}
    return do.api.post(f"{do.certificate}/probe", body)


STEP = {
    "id": "trust",
    "type": "import_ca",
    "ob_type": "ca",
    "ob_id": 1,
    "from": ["ca.pem"],
}
FLEET = {"name": "edge", "uses": 2, "expires_in_seconds": 60}
ACCOUNT = {"ca_provider": "letsencrypt", "email": "a@example.org", "terms_accepted": True}
OPERATIONS = {
    "post auth": ("user.logged_in", lambda do: logged_in(do, "/auth")),
    "post auth/general": ("user.logged_in", lambda do: logged_in(do, "/auth/general")),
    "post auth/logout": ("user.logged_out", logged_out),
    "delete auth/sessions": ("session.others_ended", lambda do: other_session(do) and ended(do)),
    "delete auth/sessions/<str:session_id>": (
        "session.ended",
        lambda do: ended(do, f"/{other_session(do)}"),
    ),
    "post me/apikeys": ("apikey.created", lambda do: do.api.post("apikeys", key_body())),
    "delete me/apikeys/<id:pk>": (
        "apikey.revoked",
        lambda do: do.api.delete(do.made("apikeys", key_body())),
    ),
    "post me/dns-providers": (
        "dns_credential.created",
        lambda do: do.api.post("dns-providers", do.credential),
    ),
    "put me/dns-providers/<id:pk>": (
        "dns_credential.changed",
        lambda do: do.api.put(do.made("dns-providers", do.credential), {"api_token": f"{TOKEN}2"}),
    ),
    "patch me/dns-providers/<id:pk>": (
        "dns_credential.changed",
        lambda do: do.api.patch(do.made("dns-providers", do.credential), {"name": "other"}),
    ),
    "delete me/dns-providers/<id:pk>": (
        "dns_credential.deleted",
        lambda do: do.api.delete(do.made("dns-providers", do.credential)),
    ),
    "put me/notice-settings": (
        "notices.changed",
        lambda do: do.api.put("notice-settings", {"email": "other@example.org"}),
    ),
    "post me/notice-settings/code": (
        "notices.code_sent",
        lambda do: ask_for_address(do) and do.api.post("notice-settings/code"),
    ),
    "post me/notice-settings/confirm": (
        "notices.address_confirmed",
        lambda do: do.api.post("notice-settings/confirm", {"code": ask_for_address(do)}),
    ),
    "post me/notice-settings/test": (
        "notices.tested",
        lambda do: do.api.post("notice-settings/test"),
    ),
    "post me/webhooks": ("webhook.created", lambda do: do.api.post("webhooks", HOOK)),
    "put me/webhooks/<id:pk>": (
        "webhook.changed",
        lambda do: do.api.put(do.made("webhooks", HOOK), HOOK | {"enabled": False}),
    ),
    "patch me/webhooks/<id:pk>": (
        "webhook.changed",
        lambda do: do.api.patch(do.made("webhooks", HOOK), {"kinds": ["expiring"]}),
    ),
    "delete me/webhooks/<id:pk>": (
        "webhook.deleted",
        lambda do: do.api.delete(do.made("webhooks", HOOK)),
    ),
    "post me/webhooks/<id:pk>/rotate-secret": (
        "webhook.secret_rotated",
        lambda do: do.api.post(f"{do.made('webhooks', HOOK)}/rotate-secret"),
    ),
    "post me/certificates": (
        "certificate.created",
        lambda do: do.api.post("certificates", do.guide(domain="other.example.com")),
    ),
    "put me/certificates/<id:pk>": (
        "certificate.changed",
        lambda do: do.api.put(do.certificate, {"auto_renew": False}),
    ),
    "delete me/certificates/<id:pk>": (
        "certificate.deleted",
        lambda do: do.api.delete(do.certificate),
    ),
    "post me/certificates/<id:pk>/issues": (
        "certificate.issuance_requested",
        lambda do: do.api.post(f"{do.certificate}/issues"),
    ),
    "post me/certificates/<id:pk>/renew": (
        "certificate.issuance_requested",
        lambda do: do.api.post(f"{do.certificate}/renew"),
    ),
    "post me/certificates/bulk": (
        "certificate.renewal_requested",
        lambda do: do.api.post("certificates/bulk", {"action": "renew", "ids": [do.pk]}),
    ),
    "put me/certificates/<id:pk>/labels": (
        "certificate.labels_changed",
        lambda do: do.api.put(f"{do.certificate}/labels", {"labels": ["prod"]}),
    ),
    "post me/certificates/<id:pk>/cancel": ("certificate.issuance_canceled", open_attempt),
    "post me/certificates/<id:pk>/revoke": (
        "certificate.revoked",
        lambda do: do.api.post(f"{do.certificate}/revoke"),
    ),
    "post me/acme-accounts": (
        "acme_account.created",
        lambda do: do.api.post("acme-accounts", ACCOUNT),
    ),
    "put me/acme-accounts/<id:pk>": (
        "acme_account.changed",
        lambda do: do.api.put(do.account, {"name": "other"}),
    ),
    "delete me/acme-accounts/<id:pk>": (
        "acme_account.deleted",
        lambda do: do.api.delete(do.made("acme-accounts", ACCOUNT)),
    ),
    "post me/acme-accounts/<id:pk>/register": (
        "acme_account.registration_retried",
        lambda do: do.api.post(f"{do.made('acme-accounts', ACCOUNT)}/register"),
    ),
    "post me/cas": ("private_ca.created", lambda do: do.api.post("cas", {"name": "Home"})),
    "delete me/cas/<id:pk>": (
        "private_ca.deleted",
        lambda do: do.api.delete(do.made("cas", {"name": "Home"})),
    ),
    "post me/cas/<id:pk>/issue": (
        "private_ca.used",
        lambda do: do.api.post(
            f"{do.made('cas', {'name': 'Home'})}/issue", {"domain_name": "in.example.com"}
        ),
    ),
    "post auth/device": ("device.approved", lambda do: approved(do, Agent())),
    "post device/registration": (
        "device.enrolled",
        lambda do: registered_by_itself(do, Agent()),
    ),
    "post me/devices": ("device.enrolled", lambda do: registered(do, Agent())),
    "put me/devices/<id:pk>": (
        "device.changed",
        lambda do: do.api.put(enrolled(do, Agent()), {"name": "edge"}),
    ),
    "patch me/devices/<id:pk>": (
        "device.changed",
        lambda do: do.api.patch(enrolled(do, Agent()), {"tags": ["edge"]}),
    ),
    "delete me/devices/<id:pk>": (
        "device.revoked",
        lambda do: do.api.delete(enrolled(do, Agent())),
    ),
    "put me/devices/<id:pk>/install-config": (
        "device.install_plan_changed",
        lambda do: planned(do) and do.api.get("devices"),
    ),
    "post me/devices/<id:pk>/install-config/restore": (
        "device.install_plan_changed",
        lambda do: do.api.post(f"{planned(do)}/restore", {"version": 1}),
    ),
    "post me/install-config-update/<str:device_public_id>": (
        "device.install_plan_changed",
        patched_by_key,
    ),
    "post me/devices/<id:pk>/certificates": (
        "certificate.assigned",
        lambda do: do.api.post(f"{enrolled(do, Agent())}/certificates", {"cert_id": do.pk}),
    ),
    "delete me/devices/<id:pk>/certificates/<id:certificate_id>": (
        "certificate.unassigned",
        lambda do: do.api.delete(f"{assigned(do)}/{do.certificate}"),
    ),
    "post me/devices/<id:pk>/cas": (
        "device.ca_assigned",
        lambda do: do.api.post(f"{enrolled(do, Agent())}/cas", {"ca_id": made_ca(do)}),
    ),
    "delete me/devices/<id:pk>/cas/<id:ca_id>": (
        "device.ca_unassigned",
        lambda do: do.api.delete(trusting(do)),
    ),
    "post me/certificates/<id:pk>/probe": ("certificate.probe_added", probed),
    "delete me/certificates/<id:pk>/probes/<id:probe_id>": (
        "certificate.probe_removed",
        lambda do: do.api.delete(f"{do.certificate}/probes/{probed(do).data_member['id']}"),
    ),
    "post me/certificates/<id:pk>/assign": ("certificate.tag_assigned", tagged),
    "post me/certificates/<id:pk>/unassign": (
        "certificate.tag_unassigned",
        lambda do: tagged(do) and do.api.post(f"{do.certificate}/unassign", {"tag": "edge"}),
    ),
    "post me/certificate-assign": ("certificate.assigned", assigned_by_key),
    "post me/enrolment-keys": (
        "apikey.created",
        lambda do: do.api.post("enrolment-keys", FLEET),
    ),
    "delete me/enrolment-keys/<id:pk>": (
        "apikey.revoked",
        lambda do: do.api.delete(do.made("enrolment-keys", FLEET)),
    ),
    "post drills": ("drill.started", lambda do: do.staff.post("drills", {"issuer": "fake CA"})),
    "post drills/<id:pk>/stop": ("drill.stopped", lambda do: do.staff.post(f"{do.drill()}/stop")),
    "post drills/<id:pk>/resume": (
        "drill.resumed",
        lambda do: (
            (where := do.drill())
            and do.staff.post(f"{where}/stop")
            and do.staff.post(f"{where}/resume")
        ),
    ),
}


def writing_operations():
    """Yield every writing operation, for example `post me/certificates`.

    users/{id} has the same operations as me.
    """
    for route, view in routes():
        methods = (
            getattr(view, "actions", None) or getattr(view, "view_class", SimpleNamespace).__dict__
        )
        if route.startswith(("apiv1/", "auth")) and "users/<user:user_id>" not in route:
            yield from (
                f"{method} {route.removeprefix('apiv1/')}" for method in WRITES if method in methods
            )


def test_every_writing_operation_is_tried_here_or_only_reads():
    assert set(writing_operations()) == OPERATIONS.keys() | READS.keys()


def statuses(schema, operation):
    """Return the statuses that the schema has for the operation."""
    method, _, route = operation.partition(" ")
    path = re.sub(r"<\w+:(\w+)>", r"{\1}", route).replace("{pk}", "{id}")
    path = f"/{path}" if path.startswith("auth") else f"/apiv1/{path}"
    return schema["paths"][path][method]["responses"]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_writing_operation_leaves_its_event(do, operation, schema):
    action, act = OPERATIONS[operation]
    response = act(do)
    assert response.status_code < 300, response.content
    assert str(response.status_code) in statuses(schema, operation)
    event = AuditEvent.objects.filter(action=action).order_by("pk").last()
    assert event, f"{operation} left no {action}"
    by_itself = operation == "post device/registration"
    actor = event.actor.partition(" with ")[0]
    assert by_itself or actor in ("alice@example.org", "root@example.org")
    assert event.ip == "127.0.0.1"
    kept = json.dumps(
        [[each.actor, each.action, each.object, each.detail] for each in AuditEvent.objects.all()]
    )
    assert not [secret for secret in SECRETS if secret in kept]


@pytest.mark.parametrize("operation", READS)
def test_exempt_operations_exist_in_the_schema(operation):
    assert operation in set(writing_operations())


@pytest.mark.parametrize("action", sorted({action for action, _ in OPERATIONS.values()}))
def test_an_event_is_documented(action):
    page = (PROJECT / "docs/reference/audit.md").read_text()
    prefix, _, done = action.partition(".")
    assert f"`{action}`" in page or (f"`{prefix}." in page and f"`.{done}`" in page)


def actions():
    return list(AuditEvent.objects.order_by("pk").values_list("action", flat=True))


def test_the_switch_of_the_export_and_the_policy_have_events_of_their_own(do, issued):
    changes = {
        "server_decrypt_export": False,
        "key_dist_policy": "MASTER_ONLY",
        "renew_days_before": 20,
    }
    assert do.api.put(do.certificate, changes).status_code == 200
    assert do.api.put(do.certificate, {"server_decrypt_export": True}).status_code == 200
    found = {
        each.action: each for each in AuditEvent.objects.filter(object=f"certificate:{issued.pk}")
    }
    assert set(found) >= {"certificate.export_switched_off", "certificate.export_switched_on"}
    assert found["certificate.key_policy_changed"].detail["key_policy"] == ["HYBRID", "MASTER_ONLY"]
    assert found["certificate.changed"].detail["changes"] == {"renew_days_before": [None, 20]}
    assert found["certificate.changed"].detail["domain"] == "example.com"


def test_a_request_that_changes_nothing_is_not_audited_as_a_change(do, issued):
    before = actions()
    assert (
        do.api.put(do.certificate, {"server_decrypt_export": True, "auto_renew": True}).status_code
        == 200
    )
    assert actions() == before


def test_a_request_that_is_refused_leaves_no_event(do):
    before = actions()
    refused(do.api.post("dns-providers", {"provider": "cloudflare"}), 400)
    refused(do.api.put(do.certificate, {"key_dist_policy": "DEVICE_REQUIRED"}), 400)
    refused(do.api.delete(do.account), 409)
    assert actions() == before


def test_debugging_has_an_event_when_it_is_switched(do, issued):
    do.api.put(do.account, {"log_level": "debug", "save_requests": True})
    do.api.put(do.account, {"name": "same"})
    do.api.put(do.account, {"log_level": ""})
    switched = AuditEvent.objects.filter(action="acme_account.debugging_switched").order_by("pk")
    assert [each.detail["log_level"] for each in switched] == ["debug", ""]
    assert switched[0].detail["save_requests"] is True


def test_an_event_names_the_api_key_that_acted(do, keyed, alice):
    keyed("dns_providers:*[write]").post("dns-providers", do.credential)
    event = AuditEvent.objects.get(action="dns_credential.created")
    assert event.actor == f"alice@example.org with {ApiKey.objects.get()}"


def test_an_audit_event_names_the_certificate_even_if_signing_fails(world, do, alice):
    do.api.post(f"{do.made('cas', {'name': 'Home'})}/issue", {"domain_name": "in.example.com"})
    event = AuditEvent.objects.get(action="private_ca.used")
    assert (event.owner, event.detail) == (alice, {"name": "Home", "names": ["in.example.com"]})
    home = PrivateCA.objects.get()
    csr = Certificate.objects.get(domain="in.example.com").current.issuance.csr_pem
    world.time = home.not_after + timedelta(days=1)
    with pytest.raises(Refused):
        privateca.PrivateAuthority(home).download("", csr)
    assert AuditEvent.objects.filter(action="private_ca.used").count() == 2


# --- the export is switched on by who logged in lately ---


def age_login(api, seconds):
    session = api.client.session
    session["auth_time"] = int(clock.now().timestamp()) - seconds
    session.save()


@pytest.fixture
def closed(issued):
    Certificate.objects.filter(pk=issued.pk).update(server_decrypt_export=False)
    return f"certificates/{issued.pk}"


def test_an_old_session_cannot_enable_the_export(api, closed, settings):
    age_login(api, settings.EXPORT_LOGIN_AGE + 60)
    assert "Log in again" in refused(api.put(closed, {"server_decrypt_export": True}), 403)
    assert not Certificate.objects.get().server_decrypt_export
    assert api.put(closed, {"auto_renew": False}).status_code == 200, "it may change all else"


def test_an_old_session_cannot_change_the_key_policy(api, closed, settings):
    age_login(api, settings.EXPORT_LOGIN_AGE + 60)
    assert "Log in again" in refused(api.put(closed, {"key_dist_policy": "MASTER_ONLY"}), 403)
    age_login(api, settings.EXPORT_LOGIN_AGE - 60)
    assert api.put(closed, {"key_dist_policy": "MASTER_ONLY"}).status_code == 200


def test_a_fresh_session_switches_it_on_and_an_old_one_off(api, closed, settings):
    age_login(api, settings.EXPORT_LOGIN_AGE - 60)
    assert api.put(closed, {"server_decrypt_export": True}).status_code == 200
    age_login(api, settings.EXPORT_LOGIN_AGE + 60)
    assert api.put(closed, {"server_decrypt_export": True}).status_code == 200, "it is on already"
    assert api.put(closed, {"server_decrypt_export": False}).status_code == 200


def test_an_api_key_switches_it_on_as_it_may_export(keyed, closed):
    assert (
        keyed("certificates:*[write]").put(closed, {"server_decrypt_export": True}).status_code
        == 200
    )
