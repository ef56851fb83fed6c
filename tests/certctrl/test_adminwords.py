"""The admin has English and Chinese words for each table and column. The API does not change."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.utils import label_for_field
from django.urls import reverse
from django.utils.translation import override

from accounts.models import User
from certctrl import adminwords

# Words that are the same in Chinese.
SAME = {
    *("CA", "CSR (PEM)", "EAB", "ECDSA", "English", "ID", "RSA", "SNI", "STARTTLS", "TTL", "URL"),
    *("UUID", "dns-01", "http-01", "tls-alpn-01", "Webhook"),
}
OURS = [model for model in admin.site._registry if model._meta.app_label != "auth"]


def fields_of(model: Any) -> Iterator[Any]:
    return iter((*model._meta.fields, *model._meta.many_to_many))


def words_of(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield each word that the pages of a table show, after the place that it names."""
    page = admin.site._registry[model]
    name = model.__name__
    yield name, model._meta.verbose_name
    yield f"{name}s", model._meta.verbose_name_plural
    for field in fields_of(model):
        yield f"{name}.{field.name}", field.verbose_name
        for value, label in field.flatchoices or ():
            yield f"{name}.{field.name}={value}", label
        is_hidden = field.name in (page.exclude or ()) or field.name not in (
            page.fields or [field.name]
        )
        if field.help_text and field.editable and not is_hidden:
            yield f"{name}.{field.name}?", field.help_text
    for action in page.actions:
        yield f"{name}.{action}()", getattr(page, action).short_description
    for column in (*page.list_display, *page.readonly_fields):
        yield f"{name}.{column}", label_for_field(column, model, page)
    for each in page.list_filter:
        if isinstance(each, type):
            yield f"{name} by {each.title}", each.title
        for value, (part, _condition) in getattr(each, "parts", {}).items():
            yield f"{name} by {value}", part


def test_every_word_of_the_admin_has_a_chinese_one():
    with override("zh-hans"):
        words = [each for model in OURS for each in words_of(model)]
        words += [(each, apps.get_app_config(each).verbose_name) for each in adminwords.SECTIONS]
        left = {
            place: str(word)
            for place, word in words
            if str(word) not in SAME and not re.search(r"[\u4e00-\u9fff]", str(word))
        }
    assert left == {}


def test_every_table_and_section_of_the_admin_has_its_words():
    assert {model._meta.label for model in OURS} == set(adminwords.TABLES)
    assert {model._meta.app_label for model in OURS} == set(adminwords.SECTIONS)


def test_no_word_is_for_a_column_that_is_gone():
    columns = {(model.__name__, field) for model in OURS for field in fields_of(model)}
    assert set(adminwords.COLUMNS_OF) <= {f"{name}.{field.name}" for name, field in columns}
    derived = {field.name.replace("_", " ") for _name, field in columns}
    assert set(adminwords.COLUMNS) <= derived
    own = {str(field.verbose_name) for _name, field in columns}
    labels = {str(each[1]) for _name, field in columns for each in field.flatchoices or ()}
    assert set(adminwords.DERIVED) <= own | labels
    assert set(adminwords.HELP) <= {str(field.help_text) for _name, field in columns}


@pytest.mark.django_db
def test_the_pages_of_the_admin_name_tables_and_columns_in_chinese(client):
    client.force_login(User.objects.create_superuser("root@example.org"))
    client.cookies["language"] = "zh-hans"
    index = client.get(reverse("admin:index")).content.decode()
    assert "证书版本" in index
    listed = client.get(reverse("admin:accounts_user_changelist")).content.decode()
    assert "加入日期" in listed
    assert "date joined" not in listed.lower()


@pytest.mark.django_db
def test_the_error_about_a_row_that_is_not_there_names_it_in_chinese(client_of, alice):
    answer = client_of(alice).get("/apiv1/me/certificates/9", HTTP_ACCEPT_LANGUAGE="zh-CN")
    assert answer.error["what"] == "您没有编号为 9 的“证书”。请检查编号。"


@pytest.mark.django_db
def test_the_schema_of_the_api_is_the_same_for_every_reader(client_of):
    def schema(language: str) -> Any:
        accepted = {
            "HTTP_ACCEPT": "application/vnd.oai.openapi+json",
            "HTTP_ACCEPT_LANGUAGE": language,
        }
        answer = client_of().get("/apiv1/schema", **accepted)
        return json.loads(answer.content)["components"]["schemas"]

    chinese = schema("zh-CN")
    assert chinese == schema("en")
    members = chinese["Certificate"]["properties"].values()
    assert not any("title" in each for each in members)
