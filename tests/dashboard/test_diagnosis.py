"""The diagnostic bundle: what it has, and no secret of the settings or the database."""

import base64
import io
import json
import zipfile
from collections.abc import Iterator

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import models

from accounts.models import AuditEvent
from authorities import privateca
from dashboard import diagnosis
from issuance.models import Issuance
from keystore import envelope
from keystore.models import Envelope
from tests import factories
from tests.issuance.failing import FOR_GOOD, try_again

pytestmark = pytest.mark.django_db
SECRET_COLUMNS = ("password", "digest", "hash", "session_key", "session_data", "wrapped_dek")
SECRET_SETTINGS = {
    "SECRET_KEY": "settings-secret-key-of-the-server",
    "EMAIL_HOST_PASSWORD": "settings-mail-password",
    "VAULT_TOKEN": "settings-vault-token",
    "PKCS11_PIN": "settings-hsm-pin",
    "MASTER_KEYS": f"x:{base64.b64encode(b'm' * 32).decode()}",
    "REDIS_PASSWORD": "settings-redis-password",
    "AUDIT_HEADS_TO": ["https://hook.test/settings-hook-token"],
    "ANYMAIL": {"API_KEY": "settings-mail-api-key"},
}


def texts_of(bundle: bytes) -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def secrets_of_the_database() -> Iterator[str]:
    """Return every secret column, and what is in each envelope."""
    for model in apps.get_models():
        for field in model._meta.concrete_fields:
            is_secret = any(word in field.name for word in SECRET_COLUMNS)
            if is_secret and isinstance(field, models.CharField | models.BinaryField):
                for value in model._base_manager.values_list(field.name, flat=True):
                    yield from forms_of(value)
    for sealed in Envelope.objects.all():
        yield from forms_of(bytes(sealed.ciphertext))
        yield from forms_of(envelope.unseal(sealed))


def forms_of(secret: bytes | str | None) -> Iterator[str]:
    raw = secret.encode() if isinstance(secret, str) else bytes(secret or b"")
    if len(raw) >= 8:
        yield raw.hex()
        yield base64.b64encode(raw).decode()
        yield raw.decode(errors="replace")


def test_the_bundle_has_no_secret(alice, certificate, credential, world, settings, tmp_path):
    alice.set_password("database-password-of-alice")
    alice.save()
    token = factories.api_key(alice, "certificates:*[read]")
    privateca.create_private_ca(alice, {"name": "lab"})
    try_again(world, FOR_GOOD)
    for name, value in SECRET_SETTINGS.items():
        if name not in ("SECRET_KEY", "MASTER_KEYS"):
            setattr(settings, name, value)
    settings.DATA_DIR = tmp_path
    (tmp_path / "log").mkdir()
    line = json.dumps({"level": "error", "event": "x", "what": f"Bearer {token}"})
    (tmp_path / "log" / "web.log").write_text(f"{line}\n")
    whole = "\n".join(texts_of(diagnosis.bundle()).values())
    found = list(secrets_of_the_database())
    assert len(found) > 20
    for secret in [*found, token, settings.SECRET_KEY, *settings.MASTER_KEYS.split(":")[1:]]:
        assert secret not in whole
    assert "settings-" not in whole


def test_the_bundle_says_how_the_server_is(alice, certificate, world, settings, tmp_path):
    try_again(world, FOR_GOOD)
    settings.DATA_DIR = tmp_path
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "web.log").write_text('{"level": "info"}\n{"level": "warning"}\n')
    texts = texts_of(diagnosis.bundle())
    assert json.loads(texts["versions.json"])["packages"]["Django"]
    shown = json.loads(texts["settings.json"])
    assert (shown["SECRET_KEY"], shown["TURN"], shown["SERVICE_ZONE"]) == ("set", 80.0, "not set")
    assert json.loads(texts["counts.json"])["issuance.Certificate"] == 1
    assert json.loads(texts["health.json"])["migrations_that_are_missing"] == []
    failed = Issuance.objects.get(state=Issuance.State.FAILED)
    assert json.loads(texts["attempts.json"])[0]["error_what"] == failed.error_what
    assert texts["log/web.log"] == '{"level": "warning"}\n'


def test_a_part_that_fails_leaves_the_others(db, monkeypatch):
    def fails():
        raise OSError("no such disk")

    monkeypatch.setattr(diagnosis, "state_of_health", fails)
    texts = texts_of(diagnosis.bundle())
    assert "no such disk" in texts["health.json"]
    assert json.loads(texts["counts.json"])


def test_only_the_staff_downloads_it(visitor, alice):
    assert visitor.post("/diagnosis").status_code == 403
    alice.is_staff = True
    alice.save()
    answer = visitor.post("/diagnosis")
    assert "versions.json" in texts_of(answer.content)
    assert answer.headers["Cache-Control"] == "no-store"
    assert AuditEvent.objects.filter(action="diagnosis.made").count() == 1


def test_the_command_writes_a_file_of_its_own(db, tmp_path, capsys):
    path = tmp_path / "x.zip"
    call_command("diagnose", str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    assert "README.txt" in texts_of(path.read_bytes())
    with pytest.raises(CommandError):
        call_command("diagnose", str(path))
