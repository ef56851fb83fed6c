"""Sign in at a real OpenID provider on loopback."""

import base64
import hashlib
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import flask
import pytest
import time_machine
from django.core import signing
from django.test import Client
from django.utils import timezone
from joserfc import jwt
from joserfc.jwk import RSAKey
from oidc_provider_mock import User as Person
from oidc_provider_mock import app
from oidc_provider_mock._server import _threaded_server

from accounts.models import AuditEvent, User
from certctrl import clock, outgoing
from dashboard import signing as signing_pages
from signin import openid, secondfactor
from signin.models import ExternalIdentity
from tests.factories import UserFactory
from tests.signin.conftest import code_now

pytestmark = pytest.mark.django_db
CAROL = {
    "email": "carol@example.org",
    "email_verified": True,
    "name": "carol",
    "groups": ["engineers"],
}
KEY = {"name": "ci", "may": "read", "days": "9"}


class Provider:
    """The provider, with what it was asked. `claims` are those of its only person."""

    def __init__(self) -> None:
        self.http = outgoing.session()
        self.tokens: list[dict[str, list[str]]] = []
        self.paths: list[str] = []
        self.flask = app(require_nonce=True, user_claims=[Person(sub="carol", claims=dict(CAROL))])
        self.flask.debug = False
        self.flask.before_request(self.note)
        self.port = 0

    def note(self) -> None:
        self.paths.append(flask.request.path)
        if flask.request.path == "/oauth2/token":
            self.tokens.append(flask.request.form.to_dict(flat=False))

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def says(self, **claims: Any) -> None:
        self.http.put(f"{self.issuer}/users/carol", json=CAROL | claims)

    def approves(self, address: str) -> str:
        """Press the button as carol. Return where the browser is sent."""
        answer = self.http.post(address, data={"sub": "carol"}, allow_redirects=False)
        assert answer.status_code == 302, answer.text
        return answer.headers["Location"]


@pytest.fixture
def provider(settings: Any) -> Iterator[Provider]:
    provider = Provider()
    with _threaded_server(provider.flask, host="127.0.0.1") as server:
        provider.port = server.server_port
        settings.OIDC_ISSUER = provider.issuer
        settings.OIDC_CLIENT_ID = "certctrl"
        settings.OIDC_CLIENT_SECRET = "a-secret-of-the-client"
        settings.OIDC_NAME = "Example"
        settings.OIDC_CREATE_USERS = True
        yield provider


def begin(client: Client, query: str = "") -> str:
    begun = client.get(f"/sign-in/openid{query}")
    assert begun.status_code == 302, begun.content.decode()
    return str(begun.headers["Location"])


def enter(client: Client, provider: Provider, query: str = "") -> Any:
    """Walk the whole way, and return the last response."""
    back = provider.approves(begin(client, query))
    return client.get(back.removeprefix("http://testserver"))


def test_it_is_off_by_default(db):
    assert Client().get("/sign-in/openid").status_code == 404
    assert Client().get("/sign-in/openid/back?code=1&state=1").status_code == 404
    assert "openid" not in Client().get("/sign-in").content.decode()


def test_a_new_person_gets_a_user_without_a_password(provider):
    client = Client()
    assert "Sign in with Example" in client.get("/sign-in").content.decode()
    done = enter(client, provider, "?next=/certificates")
    assert (done.status_code, done.headers["Location"]) == (302, "/certificates")
    assert client.get("/").status_code == 200
    user = User.objects.get()
    assert (user.email, user.name) == ("carol@example.org", "carol")
    assert not user.has_usable_password()
    assert (user.is_staff, user.is_superuser) == (False, False)
    assert client.get("/auth/status").json()["data"]["amr"] == ["oidc"]
    assert client.get("/settings").status_code == 200
    enter(Client(), provider)
    assert User.objects.count() == 1
    assert AuditEvent.objects.filter(action="user.linked").count() == 1


def test_the_address_may_change_at_the_provider(provider):
    enter(Client(), provider)
    provider.says(email="other@example.org")
    client = Client()
    enter(client, provider)
    assert client.get("/").status_code == 200
    assert User.objects.get().email == "carol@example.org"


def test_the_request_has_pkce_a_state_and_a_nonce(provider):
    client = Client()
    address = begin(client)
    asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
    assert asked["code_challenge_method"] == "S256"
    assert min(len(asked["state"]), len(asked["nonce"])) >= 43
    assert begin(Client()).count(asked["state"]) == 0
    client.get(provider.approves(address).removeprefix("http://testserver"))
    (verifier,) = provider.tokens[0]["code_verifier"]
    digest = hashlib.sha256(verifier.encode()).digest()
    assert base64.urlsafe_b64encode(digest).decode().rstrip("=") == asked["code_challenge"]
    assert verifier not in address


def test_the_answer_of_another_browser_is_refused(provider):
    back = provider.approves(begin(Client())).removeprefix("http://testserver")
    victim = Client()
    assert victim.get(back).status_code == 401
    begin(victim)
    assert victim.get(back).status_code == 401
    assert provider.tokens == []
    assert not User.objects.exists()


def test_an_answer_works_once(provider):
    client = Client()
    back = provider.approves(begin(client)).removeprefix("http://testserver")
    assert client.get(back).status_code == 302
    assert client.get(back).status_code == 401


def test_a_late_answer_is_refused(provider):
    client = Client()
    back = provider.approves(begin(client)).removeprefix("http://testserver")
    with time_machine.travel(timezone.now() + timezone.timedelta(minutes=11)):
        assert client.get(back).status_code == 401


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": "another"},
        {"aud": "another"},
        {"iss": "https://other.example"},
        {"exp": 1},
        {"azp": "another"},
        {"at_hash": "another"},
        {"sub": "x" * 256},
    ],
)
def test_a_wrong_id_token_is_refused(provider, monkeypatch, change):
    real = jwt.encode

    def encode(header, claims, key, *args, **kwargs):
        return real(header, claims | change, key, *args, **kwargs)

    monkeypatch.setattr(jwt, "encode", encode)
    refused = enter(Client(), provider)
    assert refused.status_code == 401
    assert "not valid" in refused.content.decode()
    assert not User.objects.exists()


def test_an_unknown_claim_of_the_id_token_is_no_fault(provider, monkeypatch):
    real = jwt.encode
    monkeypatch.setattr(
        jwt,
        "encode",
        lambda header, claims, *args, **kwargs: real(header, claims | {"x": 1}, *args, **kwargs),
    )
    assert enter(Client(), provider).status_code == 302


def test_an_id_token_under_another_key_is_refused(provider, monkeypatch):
    real = jwt.encode
    key = RSAKey.generate_key(2048)
    monkeypatch.setattr(
        jwt,
        "encode",
        lambda header, claims, _key, *args, **kwargs: real(header, claims, key, *args, **kwargs),
    )
    assert enter(Client(), provider).status_code == 401
    assert not User.objects.exists()


def test_an_answer_of_another_issuer_is_refused(provider):
    client = Client()
    back = provider.approves(begin(client)).removeprefix("http://testserver")
    assert client.get(f"{back}&iss=https://other.example").status_code == 401


def test_the_person_may_refuse_at_the_provider(provider):
    client = Client()
    address = begin(client)
    state = parse_qs(urlsplit(address).query)["state"][0]
    refused = client.get(f"/sign-in/openid/back?error=access_denied<b>&state={state}")
    assert refused.status_code == 401
    assert "access_denied&lt;b&gt;" in refused.content.decode()


def test_a_provider_that_is_away_is_503(provider, settings):
    settings.OIDC_ISSUER = "http://127.0.0.1:1"
    assert Client().get("/sign-in/openid").status_code == 503


def test_metadata_of_another_issuer_are_refused(provider, settings):
    settings.OIDC_ISSUER = provider.issuer.replace("127.0.0.1", "localhost") + "/"
    assert Client().get("/sign-in/openid").status_code == 401


# --- Who gets which account ---


def test_nobody_gets_an_account_unless_the_operator_allows_it(provider, settings):
    settings.OIDC_CREATE_USERS = False
    assert enter(Client(), provider).status_code == 403
    assert not User.objects.exists()


def test_a_known_address_is_linked_only_if_the_operator_allows_it(provider, settings):
    user = UserFactory(email="Carol@example.org")
    assert enter(Client(), provider).status_code == 403
    settings.OIDC_LINK_BY_EMAIL = True
    assert enter(Client(), provider).status_code == 302
    assert ExternalIdentity.objects.get().user == user


@pytest.mark.parametrize("verified", [False, None, "true"])
def test_an_address_that_is_not_verified_links_nothing(provider, settings, verified):
    UserFactory(email="carol@example.org")
    settings.OIDC_LINK_BY_EMAIL = True
    provider.says(email_verified=verified)
    assert enter(Client(), provider).status_code == 403
    assert not ExternalIdentity.objects.exists()


def test_groups_say_who_may_sign_in_and_who_administers(provider, settings):
    settings.OIDC_USER_GROUPS = ["staff"]
    assert enter(Client(), provider).status_code == 403
    settings.OIDC_ADMIN_GROUPS = ["engineers"]
    assert enter(Client(), provider).status_code == 302
    user = User.objects.get()
    assert (user.is_staff, user.is_superuser) == (True, True)
    provider.says(groups=["staff"])
    assert enter(Client(), provider).status_code == 302
    user.refresh_from_db()
    assert (user.is_staff, user.is_superuser) == (False, False)
    provider.says(groups="engineers")
    enter(Client(), provider)
    user.refresh_from_db()
    assert user.is_staff


def test_without_a_group_for_it_roles_stay(provider, settings):
    user = UserFactory(email="carol@example.org", is_staff=True, is_superuser=True)
    settings.OIDC_LINK_BY_EMAIL = True
    enter(Client(), provider)
    user.refresh_from_db()
    assert (user.is_staff, user.is_superuser) == (True, True)


def test_an_inactive_user_stays_out(provider):
    enter(Client(), provider)
    User.objects.update(is_active=False)
    assert enter(Client(), provider).status_code == 403


def test_the_second_factor_is_asked_after_the_provider(provider, rf, at):
    enter(Client(), provider)
    user = User.objects.get()
    secondfactor.start(user)
    secondfactor.confirm(user, code_now(user), rf.post("/"))
    at.shift(60)
    client = Client()
    asked = enter(client, provider, "?next=/certificates")
    assert asked.status_code == 200
    assert client.get("/").status_code == 302
    form = {"proof": asked.context["proof"], "next": asked.context["next"]}
    done = client.post("/sign-in", form | {"code": code_now(user)})
    assert done.headers["Location"] == "/certificates"
    assert client.get("/auth/status").json()["data"]["amr"] == ["oidc", "otp", "mfa"]


# --- Fresh sign-in ---


def test_the_provider_asks_again_before_an_export(provider, monkeypatch):
    client = Client()
    enter(client, provider)
    session = client.session
    session["auth_time"] -= 86400
    session.save()
    assert client.post("/api-keys", KEY).status_code == 303
    address = begin(client, "?again=1&next=/api-keys")
    assert "prompt=login" in address
    assert "max_age=0" in address
    real = jwt.encode
    old = int(timezone.now().timestamp()) - 3600
    for auth_time, status in ((old, 401), (None, 401), (old + 3600, 302)):
        monkeypatch.setattr(
            jwt,
            "encode",
            lambda header, claims, *args, at=auth_time, **kwargs: real(
                header, claims | {"auth_time": at}, *args, **kwargs
            ),
        )
        assert enter(client, provider, "?again=1&next=/api-keys").status_code == status
    assert client.post("/api-keys", KEY).status_code == 200


def test_the_code_is_asked_again_after_the_provider(provider, rf, monkeypatch):
    client = Client()
    enter(client, provider)
    user = User.objects.get()
    secondfactor.start(user)
    codes = secondfactor.confirm(user, code_now(user), rf.post("/"))
    session = client.session
    session["auth_time"] -= 86400
    session.save()
    real = jwt.encode
    now = int(timezone.now().timestamp())
    monkeypatch.setattr(
        jwt,
        "encode",
        lambda header, claims, *args, **kwargs: real(
            header, claims | {"auth_time": now}, *args, **kwargs
        ),
    )
    asked = enter(client, provider, "?again=1&next=/api-keys")
    assert asked.status_code == 200
    assert client.post("/api-keys", KEY).status_code == 303
    form = {"proof": asked.context["proof"], "next": asked.context["next"], "code": codes[0]}
    assert client.post("/sign-in", form).headers["Location"] == "/api-keys"
    assert client.post("/api-keys", KEY).status_code == 200


# --- What strangers can make this server ask ---


def test_the_metadata_are_asked_for_once(provider, monkeypatch):
    for _ in range(3):
        begin(Client())
    enter(Client(), provider)
    assert provider.paths.count(openid.DISCOVERY) == 1
    monkeypatch.setattr(clock, "monotonic", lambda: time.monotonic() + openid.MAX_AGE)
    begin(Client())
    assert provider.paths.count(openid.DISCOVERY) == 2


def test_one_network_begins_seldom(provider, monkeypatch):
    monkeypatch.setattr(signing_pages.OpenIDThrottle, "rate", "2/min")
    addresses = ("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2")
    begun = [Client(REMOTE_ADDR=each).get("/sign-in/openid") for each in addresses]
    assert [each.status_code for each in begun] == [302, 302, 429, 302]
    back = Client(REMOTE_ADDR="192.0.2.1").get("/sign-in/openid/back?code=1&state=1")
    assert back.status_code == 429


def test_the_cookie_is_signed_and_short(provider):
    client = Client()
    begin(client)
    cookie = client.cookies[openid.COOKIE]
    assert (cookie["httponly"], cookie["samesite"]) == (True, "Lax")
    assert cookie["path"] == "/sign-in/openid/back"
    assert signing.loads(cookie.value, salt=openid.SALT)["next"] == "/"
