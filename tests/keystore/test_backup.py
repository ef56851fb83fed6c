"""A backup of the database opens nothing, because no column has a usable secret."""

import base64
import json
from typing import Any

import pytest
from django.conf import settings
from django.db import connection

from keystore import envelope
from keystore.models import Envelope
from tests.factories import PASSWORD
from tests.issuance.api.calling import Caller

pytestmark = [pytest.mark.postgres, pytest.mark.django_db]
HMAC = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
TOKEN = "cloudflare-t0ken-that-is-used"


def columns() -> dict[str, str]:
    """Return the values of each column of each table. Bytes are in hex too."""
    found: dict[str, str] = {}
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT * FROM "{table}"')
            names = [each[0] for each in cursor.description or ()]
            for row in cursor.fetchall():
                for name, value in zip(names, row, strict=True):
                    found[f"{table}.{name}"] = found.get(f"{table}.{name}", "") + spelled(value)
    return found


def spelled(value: Any) -> str:
    if isinstance(value, bytes | memoryview):
        return f"\n{bytes(value).hex()} {bytes(value).decode('latin-1')}"
    return f"\n{value if isinstance(value, str) else json.dumps(value, default=str)}"


def spellings(secret: str | bytes) -> set[str]:
    """Return the value itself, in hex and in base64."""
    raw = secret.encode() if isinstance(secret, str) else secret
    return {
        raw.decode("latin-1"),
        raw.hex(),
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode(),
    }


def where(secret: str | bytes) -> list[str]:
    return [
        name for name, held in columns().items() if any(each in held for each in spellings(secret))
    ]


def test_a_plain_text_value_would_be_found(alice):
    assert where(alice.email) == ["accounts_user.email"]


def test_a_backup_of_the_database_holds_no_secret_that_is_in_use(client_of, alice):
    """Passwords, API keys, DNS credentials, EAB, webhooks and CA keys."""
    client = client_of()
    client.post("/auth/general", {"email": alice.email, "password": PASSWORD})
    api = Caller(client)
    scope = [{"obtype": "certificates", "obid": "*", "actions": ["read"]}]
    key = api.post(
        "apikeys", {"name": "a", "permissions": scope, "expires_in_seconds": 3600}
    ).data_member["token"]
    assert (
        api.post(
            "dns-providers", {"provider": "cloudflare", "name": "c", "api_token": TOKEN}
        ).status_code
        == 201
    )
    account = {
        "ca_provider": "zerossl",
        "email": alice.email,
        "eab_kid": "kid-1",
        "eab_hmac_key": HMAC,
        "terms_accepted": True,
    }
    assert api.post("acme-accounts", account).status_code == 201
    webhook = api.post(
        "webhooks", {"url": "https://hooks.example.com/T0ken-of-the-room"}
    ).data_member["secret"]
    assert api.post("cas", {"name": "ours", "subject": {"common_name": "Ours"}}).status_code == 201
    assert client.get("/auth/profile").status_code == 200
    assert client_of(token=key).get("/apiv1/me/certificates").status_code == 200
    given = [
        client.cookies["cjj365"].value,
        PASSWORD,
        key,
        key.removeprefix("ak_")[8:],
        TOKEN,
        HMAC,
        webhook,
        "T0ken-of-the-room",
    ]
    sealed = [envelope.unseal(each) for each in Envelope.objects.exclude(purpose="certificate_key")]
    assert len(sealed) >= 4
    config = [settings.SECRET_KEY, settings.MASTER_KEYS.partition(":")[2]]
    assert {
        str(secret)[:6]: where(secret) for secret in given + sealed + config if where(secret)
    } == {}
