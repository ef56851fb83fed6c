"""Every text of the pages is there in every language."""

import gettext
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

pytestmark = pytest.mark.skipif(not shutil.which("msgfmt"), reason="gettext is not installed")
APP = Path(settings.BASE_DIR) / "dashboard"
CATALOG = APP / "locale/zh_Hans/LC_MESSAGES/django.po"


def texts(catalog: Path, *options: str) -> str:
    command = ["msgattrib", "--no-obsolete", *options, str(catalog)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def compiled(catalog: Path, folder: Path) -> dict[object, str]:
    """Return the texts of a catalog, by msgid; a plural has a tuple."""
    target = folder / "compiled.mo"
    subprocess.run(["msgfmt", "--check-format", "-o", str(target), str(catalog)], check=True)
    return read(target)


def read(compiled_catalog: Path) -> dict[object, str]:
    with compiled_catalog.open("rb") as file:
        return {name: text for name, text in gettext.GNUTranslations(file)._catalog.items() if name}


def test_no_text_is_untranslated_or_fuzzy():
    assert texts(CATALOG, "--untranslated") == ""
    assert texts(CATALOG, "--only-fuzzy") == ""


def test_the_compiled_catalog_is_that_of_the_texts(tmp_path):
    assert read(CATALOG.with_suffix(".mo")) == compiled(CATALOG, tmp_path)


def test_every_text_of_the_pages_is_in_the_catalog(tmp_path):
    copy = tmp_path / "dashboard"
    shutil.copytree(APP, copy, ignore=shutil.ignore_patterns("*.mo", "__pycache__"))
    admin = [sys.executable, "-m", "django"]
    command = [*admin, "makemessages", "-l", "zh_Hans", "--no-location", "--no-obsolete"]
    environment = {"PATH": os.environ["PATH"]}
    subprocess.run(command, cwd=copy, check=True, capture_output=True, env=environment)
    fresh = copy / CATALOG.relative_to(APP)
    assert texts(fresh, "--untranslated") == ""
    assert texts(fresh, "--only-fuzzy") == ""
    assert compiled(fresh, tmp_path) == read(CATALOG.with_suffix(".mo"))
