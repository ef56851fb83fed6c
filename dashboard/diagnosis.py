"""The diagnostic bundle: a ZIP that says how this server is, without secrets.

Settings that may be secret are named only. Every text passes the mask of the logs.
"""

import io
import json
import platform
import shutil
import sys
import tomllib
import zipfile
from collections.abc import Callable
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.cache import cache
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Model
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext as _

from accounts import audit
from certctrl import clock, errors, health, log
from certctrl import settings as every_setting
from certctrl.turns import Turns
from dashboard.page import Page
from issuance.models import Issuance, IssuanceEvent

MOST_ATTEMPTS = 100
MOST_LINES = 300  # of one log file
MOST_BYTES = 512 * 1024  # that are read at the end of one log file
# The settings whose text is shown. Numbers and switches are always shown. All others are named.
SHOWN = frozenset(
    ("EMAIL_BACKEND", "LISTEN", "LOG_LEVEL", "MASTER_KEY_CURRENT", "URL_PREFIX", "WORKER_POOL")
)
READ_ME = """certctrl, diagnostic bundle of {now}.

versions.json   certctrl, Python, the packages, the database, the system
settings.json   each setting: numbers and switches by value, most others as "set" or "not set"
health.json     the clock, the cache, the migrations, the disk, due rows
counts.json     rows of each table; estimates on PostgreSQL
attempts.json   the last attempts that failed, and why
events.json     the last troubles of attempts
log/            the last warnings and errors of each process, where this server writes log files

It has names of certificates, and no keys, passwords or tokens. Read it before you send it.
"""


def bundle() -> bytes:
    """Return the ZIP. A part that cannot be made has the error in its place."""
    parts: dict[str, Callable[[], Any]] = {
        "versions.json": versions,
        "settings.json": shown_settings,
        "health.json": state_of_health,
        "counts.json": counts,
        "attempts.json": failed_attempts,
        "events.json": troubles,
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README.txt", READ_ME.format(now=f"{clock.now():%Y-%m-%d %H:%M} UTC"))
        for name, make in parts.items():
            try:
                made = make()
            except Exception as exc:  # a broken server is what the bundle is for
                made = {"error": f"{type(exc).__name__}: {exc}"}
            archive.writestr(name, json.dumps(masked(made), indent=1, default=str))
        for name, lines in log_files().items():
            archive.writestr(f"log/{name}", "".join(f"{log.mask(line)}\n" for line in lines))
    return out.getvalue()


def masked(value: Any) -> Any:
    """Mask secrets in each text by their form, as the logs do."""
    if isinstance(value, dict):
        return {name: masked(each) for name, each in value.items()}
    if isinstance(value, list):
        return [masked(each) for each in value]
    return log.mask(value) if isinstance(value, str) else value


def versions() -> dict[str, Any]:
    packages = {each.name: each.version for each in metadata.distributions()}
    return {
        "certctrl": project_version(),
        "python": sys.version,
        "system": platform.platform(),
        "database": {"vendor": connection.vendor, "version": database_version()},
        "packages": dict(sorted(packages.items(), key=lambda pair: pair[0].lower())),
    }


def project_version() -> str:
    content = (Path(settings.BASE_DIR) / "pyproject.toml").read_text()
    return str(tomllib.loads(content)["project"]["version"])


def database_version() -> str:
    of = "sqlite_version()" if connection.vendor == "sqlite" else "version()"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {of}")
        return str(cursor.fetchone()[0])


def shown_settings() -> dict[str, Any]:
    """Return each setting of this server. Text that may be secret is "set" or "not set"."""
    return {name: _shown(name, getattr(settings, name)) for name in sorted(own_settings())}


def own_settings() -> set[str]:
    return {name for name in vars(every_setting) if name.isupper() and hasattr(settings, name)}


def _shown(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | timedelta):
        return value
    if name in SHOWN:
        return value
    return "set" if value else "not set"


def state_of_health() -> dict[str, Any]:
    swept_at = health.last_sweep()
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    cache.set("diagnosis", "ok", 10)
    return {
        "now": clock.now(),
        "seconds_since_the_last_sweep": swept_at and clock.now().timestamp() - swept_at,
        "cache_works": cache.get("diagnosis") == "ok",
        "disk_free_bytes": shutil.disk_usage(settings.BASE_DIR).free,
        "migrations_that_are_missing": [str(each[0]) for each in plan],
        "due_rows": due_rows(),
    }


def due_rows() -> dict[str, dict[str, int]]:
    """Return how many rows of each table are due, and how many are held by a worker."""
    now = clock.now()
    found = {}
    for model in apps.get_models():
        if issubclass(model, Turns):
            rows = model._base_manager.filter(wake_at__isnull=False)
            due = rows.filter(wake_at__lte=now).count()
            found[model._meta.label] = {"due": due, "held": rows.exclude(holder="").count()}
    return found


def counts() -> dict[str, int]:
    return {model._meta.label: rows_of(model) for model in apps.get_models()}


def rows_of(model: type[Model]) -> int:
    """Return the number of rows. PostgreSQL's own estimate costs no scan."""
    if connection.vendor != "postgresql":
        return model._base_manager.count()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT reltuples::bigint FROM pg_class WHERE oid = %s::regclass",
            [f'"{model._meta.db_table}"'],
        )
        return int(cursor.fetchone()[0])


def failed_attempts() -> list[dict[str, Any]]:
    failed = Issuance.objects.filter(state=Issuance.State.FAILED).order_by("-pk")
    read = ("pk", "certificate_id", "reason", "failure", "error_code", "error_what", "ended_at")
    return list(failed.values(*read, "account__ca_provider")[:MOST_ATTEMPTS])


def troubles() -> list[dict[str, Any]]:
    wrong = IssuanceEvent.objects.exclude(outcome__in=("done", "wait")).order_by("-pk")
    read = ("at", "issuance_id", "step", "outcome", "what", "took_ms")
    return list(wrong.values(*read)[:MOST_ATTEMPTS])


def log_files() -> dict[str, list[str]]:
    """Return the last warnings and errors of each log file of `make run`."""
    folder = Path(settings.DATA_DIR) / "log"
    found = {}
    for path in sorted(folder.glob("*.log")) if folder.is_dir() else []:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - MOST_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        grave = [each for each in lines if '"level": "info"' not in each]
        found[path.name] = grave[-MOST_LINES:]
    return found


class Diagnosis(Page):
    """The button of the staff that downloads the bundle."""

    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponseRedirect(reverse("overview"))

    def post(self, request: HttpRequest) -> HttpResponse:
        if not self.owner.is_staff:
            raise errors.Forbidden(_("Only the staff of this server may download it."))
        audit.note(self.owner, "diagnosis.made", "server")
        name = f"certctrl-diagnosis-{clock.now():%Y%m%d-%H%M}.zip"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        headers["Cache-Control"] = "no-store"
        return HttpResponse(bundle(), content_type="application/zip", headers=headers)
