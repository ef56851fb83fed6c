"""`manage.py drill` controls a drill on the server itself."""

from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from accounts.models import AuditEvent
from issuance import services
from issuance.beat import renewals
from issuance.management.commands import drill as command
from issuance.models import Certificate, Drill
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def root(db):
    return factories.UserFactory(email="root@example.org", is_staff=True)


@pytest.fixture
def certificate(world, account, credential) -> Certificate:
    made, _ = world.create(account, credential, "example.com")
    world.deliver()
    return made


def drilled(*arguments: Any) -> str:
    out = StringIO()
    call_command("drill", *arguments, stdout=out)
    return out.getvalue()


def refused(*arguments: Any) -> str:
    with pytest.raises(CommandError) as error:
        drilled(*arguments)
    return str(error.value)


def test_it_starts_a_drill_in_the_name_of_the_first_member_of_staff(root, certificate):
    said = drilled("--issuer", "fake CA", "--why", "an exercise")
    started = Drill.objects.get()
    assert said == f"Drill {started.pk}, replace what fake CA issued: running, 1 of 1 left.\n"
    assert (started.by, started.why) == (root, "an exercise")
    assert AuditEvent.objects.get(action="drill.started").actor.startswith("operator ")


def test_an_account_is_named_by_its_id(root, account, certificate):
    assert "replace what the account an account issued" in drilled("--account", account.pk)
    assert Drill.objects.get().account == account


def test_a_dry_run_only_counts(root, certificate):
    said = drilled("--issuer", "fake CA", "--dry-run")
    assert said == "1 of 1 left. Nothing was started.\n"
    assert not Drill.objects.exists()
    assert "--issuer or --account" in refused("--resume", 1, "--dry-run")


def test_status_shows_every_drill_and_whose_certificates_it_leaves_alone(root, certificate):
    assert drilled("--status") == "There are no drills.\n"
    services.update_certificate(certificate, {"auto_renew": False})
    drilled("--issuer", "fake CA")
    said = drilled("--status")
    assert "running, 0 of 1 left; 1 skipped, since renewal is switched off." in said
    assert "    skipped: example.com of owner@example.com\n" in said


def test_it_stops_and_resumes_by_id(root, certificate):
    drilled("--issuer", "fake CA")
    pk = Drill.objects.get().pk
    assert "stopped, 1 of 1 left" in drilled("--stop", pk)
    assert "running, 1 of 1 left" in drilled("--resume", pk)


def test_watching_it_shows_it_burn_down_to_the_end(world, root, certificate, monkeypatch):
    def meanwhile(seconds: float) -> None:
        renewals.advance_drills.run()
        renewals.scan_renewals.run()
        world.sweep()
        world.advance(60)

    monkeypatch.setattr(command.never, "wait", meanwhile)
    said = drilled("--issuer", "fake CA", "--watch").splitlines()
    assert said[1] == "1 of 1 left."
    assert said[-1] == f"Drill {Drill.objects.get().pk} ended: 0 of 1 left."


def test_a_drill_keeps_running_when_its_watch_is_left(root, certificate, monkeypatch):
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command.never, "wait", interrupted)
    assert drilled("--issuer", "fake CA", "--watch").endswith(
        "The drill continues without this command.\n"
    )
    assert Drill.objects.get().status == "running"


def test_invalid_options_are_explained_in_a_sentence(root, alice, certificate):
    assert (
        refused("--issuer", "R11")
        == "No certificate in use has the issuer 'R11'; there are fake CA."
    )
    assert refused("--issuer", "R11", "--dry-run") == refused("--issuer", "R11")
    assert refused("--account", 987654) == "There is no ACME account 987654. Check the id."
    assert refused("--stop", 987654) == "There is no drill 987654. See --status."
    assert refused("--issuer", "fake CA", "--by", alice.email) == (
        "alice@example.org is no member of staff. Give --by the address of a member of staff."
    )
    assert "Give one of the two" in refused("--issuer", "")
    assert "required" in refused()


def test_a_drill_needs_a_member_of_staff(certificate):
    assert (
        refused("--issuer", "fake CA")
        == "There is no member of staff. Give --by the address of a member of staff."
    )
