"""The invented year of `make demo`."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.core.management import CommandError

from accounts.models import ApiKey, AuditEvent, User
from certctrl import clock, outward
from certctrl.errors import Unavailable
from certctrl.state import StateFile
from dnsproviders.registry import PROVIDERS
from issuance import services
from issuance.models import Certificate, CertificateVersion, Deployment, Issuance
from issuance.services import Filter
from notices.models import Notice
from standalone import embedded, invention
from standalone.invention import Sort, Year
from standalone.management.commands import up

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
FEW = tuple(Sort(each.name, 6 if each.name == "open" else 2) for each in invention.KINDS)


@pytest.fixture
def year(alice, monkeypatch) -> User:
    monkeypatch.setattr(invention, "KINDS", FEW)
    monkeypatch.setattr("django.utils.timezone.now", lambda: NOW)
    Year(alice, NOW).tell()
    return alice


def seen(owner: User) -> list[tuple[object, ...]]:
    rows = Certificate.objects.filter(owner=owner).order_by("pk")
    columns = ("domain", "expires_at", "renew_at", "failures", "created_at", "rollout")
    return list(rows.values_list(*columns))


@pytest.mark.django_db
def test_every_condition_and_state_has_certificates(year):
    rows = services.of_owner(year)
    for condition in ("you", "again", "open", "soon", "expired", "new", "off", "revoked"):
        assert services.found(rows, year, Filter(condition=condition)).exists(), condition
    states = set(Issuance.objects.values_list("state", flat=True))
    assert states == set(Issuance.State.values) - {"canceled"}
    assert Deployment.objects.exclude(failure="").exists()
    assert Deployment.objects.exclude(served_serial="").exists()
    assert Notice.objects.exists()
    assert AuditEvent.objects.exists()
    assert services.labels_of(year)
    assert year.saved_views.exists()
    assert ApiKey.objects.exists()
    assert any("xn--" in domain for domain in rows.values_list("domain", flat=True))


@pytest.mark.django_db
def test_the_server_knows_the_dns_providers_of_the_demo(year):
    assert {each.provider for each in year.dns_credentials.all()} <= set(PROVIDERS)


@pytest.mark.django_db
def test_the_same_seed_and_moment_invent_the_same_year(year, bob):
    Year(bob, NOW).tell()
    assert seen(bob) == seen(year)
    assert len({row[0] for row in seen(year)}) == len(seen(year))


@pytest.mark.django_db
def test_each_version_is_as_old_as_it_says(year):
    for version in CertificateVersion.objects.select_related("issuance"):
        assert version.created_at == version.issuance.created_at
        assert version.not_before <= version.created_at < version.not_after
    assert clock.now() == NOW
    assert all(created < NOW for *_row, created, _rollout in seen(year))


@pytest.mark.django_db
def test_the_keys_of_versions_in_use_can_be_opened(year):
    certificate = Certificate.objects.filter(server_decrypt_export=True, rollout="all").first()
    content, _password = services.bundle(certificate, actor="x", ip="", user_agent="")
    assert content


def test_a_demo_calls_nobody(settings):
    settings.DEMO = True
    with pytest.raises(Unavailable):
        outward.let_go()


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL", "EMAIL_HOST", "SECRET_KEY"])
def test_a_demo_takes_nothing_from_outside_its_folder(name):
    environment = {name: "outside", f"{name}_FILE": "/outside"}
    embedded.isolate(environment)
    assert "outside" not in "".join(environment.values())
    assert environment["LAB"] == "0"
    assert environment["DATA_DIR"].endswith(".demo")


@pytest.mark.django_db
def test_a_demo_refuses_the_folder_of_a_real_server(alice, settings, tmp_path: Path):
    settings.DEMO = True
    command = up.Command()
    state = StateFile(tmp_path / "state.json")
    command.server = type("Server", (), {"folder": tmp_path, "state": state})()
    with pytest.raises(CommandError):
        command.refuse_other_rows()
    assert up.INVENTED not in state
    User.objects.all().delete()
    command.refuse_other_rows()
    assert state[up.INVENTED] == "begun"
