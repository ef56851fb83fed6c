"""Every sentence, and every text of the pages and mails, is there in every language."""

import gettext
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.utils import translation

from tests.prose import APPS, ROOT

pytestmark = pytest.mark.skipif(not shutil.which("msgfmt"), reason="gettext is not installed")
CATALOG = Path("locale/zh_Hans/LC_MESSAGES/django.po")


@pytest.fixture(params=[".", "dashboard", "signin"])
def app(request) -> Path:
    return Path(settings.BASE_DIR) / request.param


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of the apps in which makemessages has looked for texts."""
    copy = tmp_path_factory.mktemp("texts")
    kept = shutil.ignore_patterns("*.mo", "__pycache__", "static", "migrations")
    for each in (*APPS, "locale"):
        shutil.copytree(Path(settings.BASE_DIR) / each, copy / each, ignore=kept)
    admin = [sys.executable, "-m", "django"]
    command = [*admin, "makemessages", "-l", "zh_Hans", "--no-location", "--no-obsolete"]
    environment = {"PATH": os.environ["PATH"]}
    subprocess.run(command, cwd=copy, check=True, capture_output=True, env=environment)
    return copy


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


def test_no_text_is_untranslated_or_fuzzy(app):
    assert texts(app / CATALOG, "--untranslated") == ""
    assert texts(app / CATALOG, "--only-fuzzy") == ""


def test_the_compiled_catalog_is_that_of_the_texts(app, tmp_path):
    assert read((app / CATALOG).with_suffix(".mo")) == compiled(app / CATALOG, tmp_path)


def test_every_text_is_in_the_catalog(app, copy, tmp_path):
    fresh = copy / app.relative_to(settings.BASE_DIR) / CATALOG
    assert texts(fresh, "--untranslated") == ""
    assert texts(fresh, "--only-fuzzy") == ""
    assert compiled(fresh, tmp_path) == read((app / CATALOG).with_suffix(".mo"))


HALF_WIDTH = re.compile(r"[\u4e00-\u9fff] ?[,;:!?](?!\w)|[,;!?] ?[\u4e00-\u9fff]|[\u4e00-\u9fff]\.")


def test_chinese_sentences_have_full_width_punctuation(app):
    said = read((app / CATALOG).with_suffix(".mo")).values()
    assert [each for each in said if isinstance(each, str) and HALF_WIDTH.search(each)] == []


TOKENS = re.compile(r"(\{%.*?%\}|\{\{.*?\}\}|<[^>{]*(?:\{[{%].*?[%}]\}[^>{]*)*>)", re.DOTALL)
TRANSLATED = re.compile(r"\{% blocktr.*?\{% endblocktr\w+ %\}", re.DOTALL)
PAGES = ROOT / "dashboard/templates"
OF_ADDRESSES = {"device.html": [":", ", "]}  # a port, and the names of CAs


@pytest.mark.parametrize("page", sorted(PAGES.rglob("*.html")), ids=lambda page: page.name)
def test_punctuation_between_translated_words_is_translated(page):
    texts = TRANSLATED.sub("{{ text }}", page.read_text())
    found = [each for each in TOKENS.split(texts) if re.fullmatch(r"[,.;:] ?", each)]
    assert found == OF_ADDRESSES.get(page.name, [])


def test_a_text_is_shown_and_not_that_of_another_catalog(app):
    own = read((app / CATALOG).with_suffix(".mo"))
    with translation.override("zh-hans"):
        shown = {name: translation.gettext(name) for name in own if isinstance(name, str)}
    assert shown == {name: own[name] for name in shown}
